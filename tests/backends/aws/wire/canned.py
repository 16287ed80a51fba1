"""A server that says what it is told to, over real sockets, and writes down what it was asked.

It checks every signature with botocore's signer and answers 403 where AWS would.
"""

from __future__ import annotations

import datetime
import json
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import trio
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

KEYS = {"AKID": "secret", "AKID2": "secret2"}


@dataclass(frozen=True)
class Request:
    connection: int
    headers: dict[str, str]
    body: bytes
    head: str

    @property
    def operation(self) -> str:
        return self.headers["x-amz-target"].rpartition(".")[2]

    @property
    def parameters(self) -> Any:
        return json.loads(self.body)

    @property
    def signed_for(self) -> float:
        """The time in the signature, in seconds since 1970."""
        return _timestamp(self.headers["x-amz-date"]).timestamp()


@dataclass(frozen=True)
class Answer:
    """`data` as it is, then: keep the connection, close it or hang until the client closes
    it. With `rest`, that follows after `pause` seconds."""

    data: bytes = b""
    then: str = "keep"
    delay: float = 0.0
    """Seconds before anything is sent."""
    rest: bytes = b""
    pause: float = 0.0


def answer(
    document: object = None, *, status: int = 200, body: bytes | None = None, **headers: str
) -> Answer:
    """A whole answer; keyword `x_amz_crc32` becomes the header x-amz-crc32."""
    if body is None:
        body = json.dumps(document or {}).encode()
    fields = {"content-type": "application/x-amz-json-1.0", "content-length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return Answer(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + body)


def error(code: str, message: str = "no", *, status: int = 400, **headers: str) -> Answer:
    return answer(
        {"__type": f"com.amazonaws.x#{code}", "message": message}, status=status, **headers
    )


HANG = Answer(then="hang")
CLOSE = Answer(then="close")


@dataclass
class CannedServer:
    port: int
    tls: bool = False
    script: deque[Answer] = field(default_factory=deque)
    """The next answers, in order of the requests."""
    default: Answer | Callable[[Request], Answer] = field(default_factory=answer)
    """What is said when the script is at its end."""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    closed: dict[int, trio.Event] = field(default_factory=lambda: defaultdict(trio.Event))
    """Set when the client has closed its end of a connection."""
    arrived: trio.Event = field(default_factory=trio.Event)
    """Set by the first request."""

    @property
    def url(self) -> str:
        return f"http{'s' * self.tls}://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.abc.Stream) -> None:
        number = self.connections
        self.connections += 1
        buffer = b""
        try:
            while True:
                request, buffer = await read_request(stream, buffer, number)
                self.requests.append(request)
                self.arrived.set()
                if not await self._answer(stream, request):
                    return
        except (trio.BrokenResourceError, EOFError):
            self.closed[number].set()
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.abc.Stream, request: Request) -> bool:
        if not is_signed_right(request):
            reply = error("SignatureDoesNotMatch", status=403)
        elif self.script:
            reply = self.script.popleft()
        else:
            reply = self.default if isinstance(self.default, Answer) else self.default(request)
        await trio.sleep(reply.delay)
        if reply.data:
            await stream.send_all(reply.data)
        if reply.then == "hang":
            if await stream.receive_some(1) == b"":
                raise EOFError
            raise AssertionError("the client went on sending")
        if reply.rest:
            await trio.sleep(reply.pause)
            await stream.send_all(reply.rest)
        return reply.then == "keep"


async def read_request(
    stream: trio.abc.Stream, buffer: bytes, connection: int
) -> tuple[Request, bytes]:
    async def more() -> bytes:
        data = await stream.receive_some(65536)
        if not data:
            raise EOFError
        return data

    while b"\r\n\r\n" not in buffer:
        buffer += await more()
    head, _, buffer = buffer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    length = int(headers["content-length"])
    chunks = [buffer]
    while sum(map(len, chunks)) < length:
        chunks.append(await more())
    buffer = b"".join(chunks)
    return Request(connection, headers, buffer[:length], first), buffer[length:]


def is_signed_right(request: Request) -> bool:
    authorization = request.headers["authorization"]
    scope = authorization.partition("Credential=")[2].partition(",")[0]
    key, _day, region, service, _end = scope.split("/")
    names = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    again = AWSRequest(
        method=request.head.split(" ")[0],
        url=f"http://{request.headers['host']}{request.head.split(' ')[1]}",
        data=request.body,
        headers={name: request.headers[name] for name in names},
    )
    credentials = Credentials(key, KEYS.get(key, "?"), request.headers.get("x-amz-security-token"))
    now = _timestamp(request.headers["x-amz-date"])
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        SigV4Auth(credentials, service, region).add_auth(again)
    return bool(again.headers["Authorization"] == authorization)


def _timestamp(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[CannedServer]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = CannedServer(listeners[0].socket.getsockname()[1], tls is not None)

    async def handle(stream: trio.SocketStream) -> None:
        if tls is None:
            await server.serve(stream)
            return
        secured = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        await server.serve(secured)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield server
        nursery.cancel_scope.cancel()

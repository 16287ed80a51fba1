"""A front before a local server that lets requests through, or does what it is told instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import trio

from local_aws.servers import LocalServer
from tests.backends.aws.wire.canned import Answer, Request, _read_request

Weather = Callable[[Request], Answer | Literal["cut", "hang"] | None]
"""None: the request goes through."""


def fair(request: Request) -> None:
    return None


@dataclass
class Front:
    url: str
    weather: Weather = fair
    changed: trio.Event = field(default_factory=trio.Event)
    operations: set[str] = field(default_factory=set)
    """All that got through."""

    def turn(self, weather: Weather) -> None:
        """From now on. Requests that hang are cut."""
        self.weather = weather
        self.changed.set()
        self.changed = trio.Event()


@asynccontextmanager
async def before(server: LocalServer) -> AsyncIterator[Front]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    front = Front(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:

        async def handle(stream: trio.SocketStream) -> None:
            buffer = b""
            try:
                while True:
                    request, buffer = await _read_request(stream, buffer, 0)
                    answer = await _answer(front, server, client, request)
                    if answer is None:
                        return
                    await stream.send_all(answer)
            except (trio.BrokenResourceError, EOFError):
                return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, handle, listeners)
            yield front
            nursery.cancel_scope.cancel()


async def _answer(
    front: Front, server: LocalServer, client: httpx.AsyncClient, request: Request
) -> bytes | None:
    said = front.weather(request)
    if isinstance(said, Answer):
        return said.data
    if said == "hang":
        await front.changed.wait()
    if said is not None:
        return None
    front.operations.add(request.operation)
    kept: dict[str, Any] = {
        name: value for name, value in request.headers.items() if name not in ("host", "connection")
    }
    through = await client.post(f"{server.url}/", content=request.body, headers=kept)
    passed_on = ("content-type", "x-amzn-requestid", "x-amz-crc32", "x-amzn-query-error")
    lines = [
        f"HTTP/1.1 {through.status_code} Whatever",
        f"content-length: {len(through.content)}",
        *(f"{name}: {through.headers[name]}" for name in passed_on if name in through.headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + through.content

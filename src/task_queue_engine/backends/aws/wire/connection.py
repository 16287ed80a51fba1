"""One HTTP/1.1 connection: a socket that trio watches, with httptools (llhttp) as the parser.

The socket is used directly and not through trio's streams: a request is one send, one wait and one
receive, a third of what it takes through awscrt (ADR 0012). There are no threads, so nothing calls
back after the run has ended.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from dataclasses import dataclass

import httptools
import trio

from task_queue_engine.backends.aws.wire.endpoints import Endpoint
from task_queue_engine.backends.aws.wire.proxies import tunnel
from task_queue_engine.errors import lacks_resources

# Bytes of one receive: ten messages of a few KB each arrive in one.
_CHUNK = 64 * 1024
# Far more than AWS sends.
_MAX_HEADER_BYTES = 64 * 1024
# Seconds for the rest of an answer that has begun to arrive when the request is cancelled.
_GRACE = 2.0


class TransportError(Exception):
    """The exchange did not come to its end; the connection is closed.

    `answered` says whether anything of an answer had arrived, `misdirected` whether the address is
    to blame (see `EndpointUnreachable`).
    """

    def __init__(self, message: str, *, answered: bool = False, misdirected: bool = False) -> None:
        super().__init__(message)
        self.answered = answered
        self.misdirected = misdirected


class MalformedAnswer(TransportError):
    """What came back is not HTTP, or not within our limits."""

    def __init__(self, message: str) -> None:
        super().__init__(message, answered=True)


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Connection:
    """Carries one request at a time. Cancelling a request closes the connection.

    Except that an answer that has begun to arrive is read to its end, for up to 2 seconds: it may
    carry messages that the queue has leased to us, and the caller can still give them back.
    """

    def __init__(self, sock: socket.socket, *, max_response_bytes: int) -> None:
        self._sock = sock
        self._max_response_bytes = max_response_bytes
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.closed = False
        self.used = False
        """Whether it has carried a request."""
        self.idle_since = 0.0
        """By trio's clock; kept by the pool."""

    @classmethod
    async def open(
        cls,
        endpoint: Endpoint,
        *,
        tls: ssl.SSLContext | None,
        timeout: float,
        max_response_bytes: int,
    ) -> Connection:
        """Connect to the first of the host's addresses that answers and shake hands, if `tls`.

        Raises:
            TransportError: refused, unknown host, bad certificate, or not within `timeout` seconds.
        """
        sock: socket.socket | None = None
        try:
            with trio.fail_after(timeout):
                via = endpoint.proxy or endpoint
                stream = await trio.open_tcp_stream(via.host, via.port)
                sock = socket.socket(fileno=stream.socket.detach())
                sock.setblocking(False)
                if endpoint.proxy is not None:
                    await tunnel(sock, endpoint.proxy, endpoint.authority)
                if tls is not None:
                    sock = tls.wrap_socket(
                        sock, server_hostname=endpoint.host, do_handshake_on_connect=False
                    )
                    await _shake_hands(sock)
        except trio.TooSlowError:
            _close(sock)
            raise TransportError(
                f"no connection{_through(endpoint)} within {timeout:g} s",
                misdirected=endpoint.proxy is not None,
            ) from None
        except OSError as error:  # those of ssl and getaddrinfo among them
            _close(sock)
            raise TransportError(
                f"cannot connect{_through(endpoint)}: {_reason(error)}",
                misdirected=not lacks_resources(error)
                and (endpoint.proxy is not None or _is_misdirected(error)),
            ) from error
        except BaseException:
            _close(sock)
            raise
        return cls(sock, max_response_bytes=max_response_bytes)

    def is_stale(self) -> bool:
        """Whether there is something to read on an idle connection: its end, or what was not asked
        for."""
        return bool(self._poll.poll(0))

    async def request(self, data: bytes) -> Response:
        """Send a whole request and read its answer.

        Raises:
            TransportError, MalformedAnswer.
        """
        reader = _Reader(self._max_response_bytes)
        try:
            await self._send(data)
            await self._receive(reader)
        except OSError as error:
            raise TransportError(
                f"the connection broke: {_reason(error)}", answered=reader.begun
            ) from error
        finally:
            self.used = True
            if not reader.reusable:
                self.close()
            reader.detach()
        return Response(reader.status, reader.headers, b"".join(reader.body))

    async def _send(self, data: bytes) -> None:
        sent = self._send_some(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                await trio.lowlevel.wait_writable(self._sock)
                rest = rest[self._send_some(rest) :]

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            return 0

    async def _receive(self, reader: _Reader) -> None:
        try:
            await self._read(reader)
        except trio.Cancelled:
            # It may have come in the very moment that the cancellation did.
            if not self._read_available(reader):
                if not reader.begun:
                    raise
                with trio.move_on_after(_GRACE, shield=True):
                    await self._read(reader)
            if not reader.done:
                raise
            # Returned and not given up: the caller's next checkpoint raises Cancelled again.

    async def _read(self, reader: _Reader) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            if self._read_available(reader):
                return

    def _read_available(self, reader: _Reader) -> bool:
        """Take what has arrived; whether the answer is complete."""
        try:
            while not reader.done:
                reader.feed(self._sock.recv(_CHUNK))
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        return True

    def close(self) -> None:
        """At once, without a word to the other side."""
        if not self.closed:
            self.closed = True
            self._sock.close()


class _Reader:
    """Collects one answer from the parser's callbacks, within limits."""

    __slots__ = (
        "_headers_complete",
        "_keep_alive",
        "_max_body_bytes",
        "_parser",
        "_refusal",
        "_room",
        "begun",
        "body",
        "done",
        "headers",
        "status",
    )

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._room = _MAX_HEADER_BYTES
        self._parser = httptools.HttpResponseParser(self)
        self._refusal: str | None = None
        self._headers_complete = False
        self._keep_alive = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.begun = False
        self.done = False

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self.done and self._keep_alive

    def detach(self) -> None:
        """Reader and parser hold each other; without this every answer is work for the garbage
        collector."""
        del self._parser

    def feed(self, data: bytes) -> None:
        """
        Raises:
            TransportError: the connection ended early.
            MalformedAnswer.
        """
        if not data:
            self._end_of_stream()
            return
        self.begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.done:  # more than we asked for
                self._keep_alive = False
            elif self._refusal is not None:
                raise MalformedAnswer(self._refusal) from None
            else:
                raise MalformedAnswer(f"the answer is not HTTP: {error}") from None

    def _end_of_stream(self) -> None:
        if not self.begun:
            raise TransportError("the connection was closed before an answer came")
        if (
            not self._headers_complete
            or "content-length" in self.headers
            or "transfer-encoding" in self.headers
        ):
            raise TransportError("the answer was cut off", answered=True)
        self.done = True  # HTTP/1.0 style: it ends where the connection does

    def _refuse(self, why: str) -> None:
        self._refusal = why
        raise ValueError(why)  # stops the parser, which wraps it

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self.done:
            self._refuse("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._room -= len(name) + len(value)
        if self._room < 0:
            self._refuse(f"the answer has more than {_MAX_HEADER_BYTES} bytes of headers")
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._headers_complete = self.status >= 200
        self._room = self._max_body_bytes
        if int(self.headers.get("content-length", 0)) > self._room:
            self._refuse(f"the answer is larger than {self._max_body_bytes} bytes")

    def on_body(self, body: bytes) -> None:
        self._room -= len(body)
        if self._room < 0:
            self._refuse(f"the answer is larger than {self._max_body_bytes} bytes")
        self.body.append(body)

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 Continue and the like: the answer follows
            self.headers = {}
            self._room = _MAX_HEADER_BYTES
            return
        self.done = True
        self._keep_alive = self._parser.should_keep_alive()


async def _shake_hands(sock: ssl.SSLSocket) -> None:
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock)
        else:
            return


def _close(sock: socket.socket | None) -> None:
    if sock is not None:
        sock.close()


def _through(endpoint: Endpoint) -> str:
    proxy = endpoint.proxy
    return "" if proxy is None else f" through the proxy {proxy.host}:{proxy.port} (HTTPS_PROXY)"


def _is_misdirected(error: OSError) -> bool:
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_NONAME  # EAI_AGAIN: the resolver does not answer
    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    cause: BaseException | None = error.__cause__  # trio has one error for all the addresses
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if isinstance(cause, OSError):
        error = cause
    if error.errno is not None and not isinstance(error, ssl.SSLError | socket.gaierror):
        return os.strerror(error.errno)
    return error.strerror or str(error)

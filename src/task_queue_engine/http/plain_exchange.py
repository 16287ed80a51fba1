"""A plain request and its answer: the app is called with all of the request at hand, and what it
answers becomes bytes here. Other requests have hypercorn's stream for that.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import unquote
from wsgiref.handlers import format_date_time

import trio
from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent, ConnectionState, HTTPScope

from task_queue_engine.http.plain_request import PlainRequest, RawHeaders

Address = tuple[str, int] | None

_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class WholeRequest:
    """What an app receives of a request that is here already: ASGI's `receive`, and a shorter way
    for an app that knows it."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self._received = False
        self._gone: trio.Event | None = None
        self._is_gone = False
        self._reading: trio.CancelScope | None = None

    async def __call__(self) -> ASGIReceiveEvent:
        if not self._received:
            self._received = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        if not self._is_gone:
            if self._gone is None:
                self._gone = trio.Event()
            await self._gone.wait()
        return {"type": "http.disconnect"}

    def until_disconnect(self) -> trio.CancelScope:
        """A scope, to be entered once, that is cancelled when the client has gone."""
        self._reading = trio.CancelScope()
        if self._is_gone:
            self._reading.cancel()
        return self._reading

    def disconnect(self) -> None:
        self._is_gone = True
        if self._gone is not None:
            self._gone.set()
        if self._reading is not None:
            self._reading.cancel()

    @property
    def client_is_gone(self) -> bool:
        return self._is_gone


def scope_of(
    request: PlainRequest, *, client: Address, server: Address, state: ConnectionState
) -> HTTPScope:
    """The request as ASGI has it, with the members that hypercorn's has."""
    path, _, query = request.target.partition(b"?")
    text = path.decode("ascii")
    return {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": request.method,
        "scheme": "http",
        "path": unquote(text) if "%" in text else text,
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": request.headers,
        "client": client,
        "server": server,
        "state": state.copy(),  # type: ignore[typeddict-item] # as hypercorn does
        "extensions": {},
    }


class PlainAnswer:
    """ASGI's `send`.

    Args:
        write: takes bytes for the client.
        finish: called when the answer is out; told whether the connection is to be closed.
    """

    def __init__(
        self,
        method: str,
        *,
        close: Callable[[], bool],
        write: Callable[[bytes], Awaitable[None]],
        finish: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._method = method
        self._asks_to_close = close
        self._write = write
        self._finish = finish
        self._head: bytes | None = None
        """Held until the first of the body, so that both leave in one packet."""
        self._has_body = True
        self._left: int | None = None
        """Bytes of the declared length that are to come; None: it goes by chunks."""
        self._close = False
        self.begun = False
        self.finished = False

    async def __call__(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start" and not self.begun:
            self._begin(message["status"], list(message["headers"]))
        elif message["type"] == "http.response.body" and self.begun and not self.finished:
            last = not message.get("more_body", False)
            data = (self._head or b"") + self._frame(bytes(message.get("body", b"")), last)
            self._head = None
            self.finished = last
            if data:
                await self._write(data)
            if last:
                await self._finish(self._close)
        else:
            raise RuntimeError(f"{message['type']} cannot be sent at this point of an answer")

    async def give_up(self) -> None:
        """The app has ended, and its answer has not."""
        if not self.begun:
            await self({"type": "http.response.start", "status": 500, "headers": _FAILED})
            await self({"type": "http.response.body", "body": b"", "more_body": False})
        elif not self.finished:
            self.finished = True
            await self._finish(True)

    def _begin(self, status: int, headers: RawHeaders) -> None:
        self._has_body = not (self._method == "HEAD" or status in _BODILESS)
        by_chunks = self._has_body
        lines = [b"HTTP/1.1 %d \r\n" % status]
        for name, value in headers:
            if name == b"content-length":
                self._left = int(value)
                by_chunks = False
            elif name == b"transfer-encoding":
                continue  # ours to say
            elif name == b"connection" and b"close" in value.lower():
                self._close = True
            lines.append(b"%s: %s\r\n" % (name, value))
        if by_chunks:
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(_date())
        if self._asks_to_close() and not self._close:
            self._close = True
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise ValueError("a response header has a line end in it")
        self._head = head + b"\r\n"
        self.begun = True

    def _frame(self, data: bytes, last: bool) -> bytes:
        if not self._has_body:
            return b""
        if self._left is None:
            chunk = b"%x\r\n%s\r\n" % (len(data), data) if data else b""
            return chunk + b"0\r\n\r\n" if last else chunk
        self._left -= len(data)
        if self._left < 0 or (last and self._left):
            raise RuntimeError("a response's body is not as long as its Content-Length says")
        return data


_FAILED: RawHeaders = [(b"content-length", b"0"), (b"connection", b"close")]
_date_of = (0, b"")


def _date() -> bytes:
    """The header, made once a second (RFC 9110, section 6.6.1)."""
    global _date_of
    now = int(time.time())
    if _date_of[0] != now:
        _date_of = now, b"date: %s\r\n" % format_date_time(now).encode("ascii")
    return _date_of[1]

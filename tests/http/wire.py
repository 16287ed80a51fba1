"""HTTP by hand over a socket: tests decide about every byte and when it is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import trio

from task_queue_engine.http import Bound

TIMEOUT = 600.0
"""Seconds, mostly virtual ones: a test of a server that says nothing must fail, not hang."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One client connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes | str) -> None:
        await self.stream.send_all(data.encode("latin-1") if isinstance(data, str) else data)

    async def answer(self, *, head: bool = False) -> Answer:
        """The next response; `head`: to a HEAD request. Raises EOFError where none comes."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        top, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        status = int(first.split(" ")[1])
        length = 0 if head else int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            await self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Answer(status, headers, body)

    async def exactly(self, size: int) -> bytes:
        """The next so many bytes."""
        while len(self._buffer) < size:
            await self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def closed(self) -> bool:
        """Waits until the server closes the connection; False where it says something first."""
        try:
            with trio.fail_after(TIMEOUT):
                return not self._buffer and not await self.stream.receive_some(65_536)
        except trio.BrokenResourceError:
            return True

    async def close(self) -> None:
        await self.stream.aclose()

    async def _more(self) -> None:
        with trio.fail_after(TIMEOUT):
            data = await self.stream.receive_some(65_536)
        if not data:
            raise EOFError(f"the server closed the connection after {self._buffer!r}")
        self._buffer += data


@dataclass(frozen=True)
class Server:
    """A running server, as its clients and its operator see it."""

    bound: Bound
    shutdown: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)
    _wires: list[Wire] = field(default_factory=list)

    async def connect(self, *, receive_buffer: int | None = None) -> Wire:
        sock = trio.socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
        try:
            await sock.connect((self.bound.host, self.bound.port))
        except BaseException:
            sock.close()
            raise
        wire = Wire(trio.SocketStream(sock))
        self._wires.append(wire)
        return wire

    def disconnect(self) -> None:
        """All clients."""
        for wire in self._wires:
            wire.stream.socket.close()


def get(path: str, **headers: str) -> bytes:
    return _request("GET", path, b"", headers)


def post(path: str, body: Any, **headers: str) -> bytes:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content_Type": "application/json", "Content_Length": str(len(encoded))} | headers
    return _request("POST", path, encoded, headers)


def _request(method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body

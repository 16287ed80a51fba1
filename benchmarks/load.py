"""An HTTP client that costs little: raw bytes over a few sockets, one request at a time on each.

Answers must have a Content-Length. It is for servers on this machine: their CPU is measured.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.processes import Failed

# Seconds without any answer.
_SILENCE = 60


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    began: float = 0.0
    received: bytearray = field(default_factory=bytearray)

    def send(self, message: bytes) -> None:
        self.began = time.perf_counter()
        self.socket.sendall(message)

    def answer(self) -> tuple[int, bytes] | None:
        """Status and body, once all of it is there."""
        self.received += self.socket.recv(65536)
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.received[:end]).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self.received) < end + 4 + length:
            return None
        body = bytes(self.received[end + 4 : end + 4 + length])
        self.received.clear()
        return int(head.split(b" ", 2)[1]), body


@dataclass(frozen=True)
class Answers:
    began: float
    """By `time.monotonic`."""
    seconds: float
    """All together."""
    waits: list[float]
    """Of each request, in seconds."""
    bodies: list[bytes]


def ask_all(
    port: int, requests: Iterator[bytes], *, connections: int, expected: tuple[int, ...]
) -> Answers:
    """Send each request once, on whichever connection is free.

    Raises:
        Failed: another status than those expected, or silence.
    """
    selector = selectors.DefaultSelector()
    waits: list[float] = []
    bodies: list[bytes] = []
    open_ones: list[_Connection] = []
    busy = 0
    try:
        began = time.monotonic()
        for message in _first(requests, connections):
            connection = _Connection(socket.create_connection(("127.0.0.1", port)))
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            open_ones.append(connection)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(message)
            busy += 1
        while busy:
            ready = selector.select(_SILENCE)
            if not ready:
                raise Failed(f"no answer within {_SILENCE} s")
            for key, _ in ready:
                connection = key.data
                found = connection.answer()
                if found is None:
                    continue
                status, body = found
                if status not in expected:
                    raise Failed(f"answered {status}: {body[:200]!r}")
                waits.append(time.perf_counter() - connection.began)
                bodies.append(body)
                following = next(requests, None)
                if following is None:
                    selector.unregister(connection.socket)
                    busy -= 1
                else:
                    connection.send(following)
        return Answers(began, time.monotonic() - began, waits, bodies)
    finally:
        for connection in open_ones:
            connection.socket.close()
        selector.close()


def _first(requests: Iterator[bytes], count: int) -> Iterator[bytes]:
    for _, message in zip(range(count), requests, strict=False):
        yield message

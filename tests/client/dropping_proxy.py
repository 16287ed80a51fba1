"""A proxy that passes requests on to a server and drops some of the answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import h11


class DroppingProxy:
    """One request a connection; each is carried out by the server.

    Args:
        drops: which answers are dropped: 0 is the first.
    """

    def __init__(self, server: str, *, drops: Collection[int]) -> None:
        split = urlsplit(server)
        self._server = (split.hostname or "", split.port or 80)
        self._drops = drops
        self.passed_on: list[bytes] = []
        """The bodies of all requests."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        """Until it is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, socket.create_connection(self._server) as upstream:
                self._pass_on(connection, upstream)

    def _pass_on(self, connection: socket.socket, upstream: socket.socket) -> None:
        request, body = _whole_message(connection, h11.SERVER, b"")
        self.passed_on.append(body)
        upstream.sendall(request)
        answer, _ = _whole_message(upstream, h11.CLIENT, request)
        if len(self.passed_on) - 1 not in self._drops:
            connection.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _whole_message(source: socket.socket, role: type, sent: bytes) -> tuple[bytes, bytes]:
    """Its bytes as they came, and its body."""
    machine = h11.Connection(role)
    if role is h11.CLIENT:  # an answer is to be read, and h11 wants to know to what
        asked = h11.Connection(h11.SERVER)
        asked.receive_data(sent)
        request = asked.next_event()
        assert isinstance(request, h11.Request)
        machine.send(request)
    raw, body = b"", b""
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            data = source.recv(65_536)
            raw += data
            machine.receive_data(data)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return raw, body


@contextmanager
def dropping(server: str, *, drops: Collection[int]) -> Iterator[DroppingProxy]:
    proxy = DroppingProxy(server, drops=drops)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(20)

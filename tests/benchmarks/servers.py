"""A server of a few lines, for what sits in front of servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def answering(answer: Callable[[bytes], list[bytes]]) -> Iterator[int]:
    """The port of a server that sends, for whatever it receives at once, these parts."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # a client may go without a word
            while data := connection.recv(65536):
                for part in answer(data):
                    connection.sendall(part)

    def accept() -> None:
        with suppress(OSError):  # closed, at the end
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)

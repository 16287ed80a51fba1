"""What is measured through the proxy has waited, and is otherwise what was sent."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks.servers import answering

DELAY_MS = 40


@contextmanager
def proxy_to(port: int) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.delay_proxy", "--delay-ms", str(DELAY_MS)]
    with subprocess.Popen(
        [*command, f"http://127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            target, own = process.stdout.readline().split()
            assert target == f"http://127.0.0.1:{port}"
            yield int(own.rpartition(":")[2])
        finally:
            process.terminate()


def read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = connection.recv(65536)
        if not more:
            break
        found += more
    return found


def test_what_is_sent_arrives_no_sooner_and_in_order_also_pipelined() -> None:
    expected = "".join(f"REQUEST {number};" for number in range(200)).encode()
    with (
        answering(lambda data: [data.upper()]) as server,
        proxy_to(server) as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        began = time.monotonic()
        for number in range(200):  # one after the other, none waits for an answer
            connection.sendall(f"request {number};".encode())

        assert read(connection, len(expected)) == expected
        assert time.monotonic() - began >= DELAY_MS / 1e3


def test_a_connection_that_ends_has_had_its_bytes_passed_on_first() -> None:
    """The last request of a client that closes at once is carried out all the same."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, proxy_to(listener.getsockname()[1]) as port:
        connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        connection.sendall(b"delete")
        connection.close()
        listener.settimeout(20)
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(20)
            assert read(accepted, 1000) == b"delete"


def test_a_client_of_a_server_that_is_gone_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with (
        proxy_to(port) as proxy,
        socket.create_connection(("127.0.0.1", proxy), timeout=20) as connection,
    ):
        assert connection.recv(1) == b""

"""A real service with few files to open (`ulimit -n`), and more clients than it can have."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.cli.runner import APP, READY, TIMEOUT, Client, Server, Shop, eventually


@contextmanager
def serving(shop: Shop, limits: str, **environment: str) -> Iterator[Server]:
    """`tqe serve` below `ulimit` commands."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'{limits}; exec "$0" -m task_queue_engine serve', sys.executable],
        cwd=shop.path,
        env={"TQE_APP": APP, "PORT": "0", "TQE_SHUTDOWN_GRACE": "5"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    server = Server(process)
    try:
        server.wait_for(READY)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        server.close()


def test_the_soft_limit_is_raised_and_more_clients_than_files_are_cut_off(shop: Shop) -> None:
    """Nothing but the clients over the limit suffers."""
    with serving(shop, "ulimit -S -n 100; ulimit -H -n 160", TQE_PROCESSES="2") as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        assert re.search(r"Max open files +160 +160 ", limits), "to the hard one"
        server.wait_for("TQE_MAX_CONNECTIONS: 1000 do not fit into the 160 files")
        for all_tasks, sent in ((20, "GET /health HTTP/1.1\r\nHost: loc"), (40, "")):
            with clients_that_stay(server, 400, sent):
                run_twenty(shop, server, all_tasks)
        server.signal()
        assert server.wait() == 0
    assert "Traceback" not in server.log


@contextmanager
def clients_that_stay(server: Server, number: int, sent: str) -> Iterator[None]:
    """Each sends no more than that."""
    address = urlsplit(server.url)
    with ExitStack() as clients:
        for _ in range(number):
            client = clients.enter_context(
                socket.create_connection((address.hostname, address.port), timeout=TIMEOUT)
            )
            client.sendall(sent.encode())
        yield


def run_twenty(shop: Shop, server: Server, all_tasks: int) -> None:
    """Tasks in worker processes and others, which are `all_tasks` with those before."""
    with Client(base_url=server.url, timeout=TIMEOUT) as asking:
        assert asking.get("/health").status_code == 200
        assert asking.get("/ready").status_code == 200
        for kind in ("square", "echo") * 10:
            task = {"type": kind, "payload": 7, "max_attempts": 1}
            assert asking.post("/tasks", json=task).status_code == 201

        def ended() -> bool:
            counts = asking.get("/metrics").json()
            assert counts["failed_tasks"] == 0, shop.tasks()
            return bool(counts["completed_tasks"] == all_tasks)

        eventually(ended)

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

import httpx
import pytest

from tests.cli.runner import APP, READY, TIMEOUT, Server, Shop, eventually


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


def test_the_soft_limit_is_raised_to_the_hard_one(shop: Shop) -> None:
    with serving(shop, "ulimit -S -n 256") as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        found = re.search(r"Max open files +(\S+) +(\S+)", limits)
        assert found is not None
        assert found[1] == found[2]
        assert found[1] != "256"


@pytest.mark.parametrize("sent", ["GET /health HTTP/1.1\r\nHost: loc", ""], ids=["half", "silent"])
def test_more_clients_than_files(shop: Shop, sent: str) -> None:
    """Nothing but the clients over the limit suffers."""
    with serving(shop, "ulimit -n 160", TQE_PROCESSES="2") as server, ExitStack() as clients:
        server.wait_for("TQE_MAX_CONNECTIONS: 1000 do not fit into the 160 files")
        address = urlsplit(server.url)
        for _ in range(400):
            client = clients.enter_context(
                socket.create_connection((address.hostname, address.port), timeout=TIMEOUT)
            )
            client.sendall(sent.encode())
        with httpx.Client(base_url=server.url, trust_env=False, timeout=TIMEOUT) as asking:
            assert asking.get("/health").status_code == 200
            assert asking.get("/ready").status_code == 200
            ids = [
                asking.post("/tasks", json={"type": kind, "payload": 7, "max_attempts": 1}).json()[
                    "id"
                ]
                for kind in ("square", "echo") * 10
            ]

            def ended() -> bool:
                counts = asking.get("/metrics").json()
                assert counts["failed_tasks"] == 0, shop.tasks()
                return bool(counts["completed_tasks"] == len(ids))

            eventually(ended)
        server.signal()
        assert server.wait() == 0
    assert "Traceback" not in server.log

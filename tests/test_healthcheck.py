"""The container's health check: of a server at PORT, and of a worker at TQE_WORKER_PORT."""

from __future__ import annotations

import runpy
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "healthcheck.py"


class Answers(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and nothing listens
        yield held.getsockname()[1]


def check(monkeypatch: pytest.MonkeyPatch, **variables: int) -> object:
    for name in ("PORT", "TQE_WORKER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code


def test_a_server_or_a_worker_that_answers_is_healthy(
    port: int, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(monkeypatch, PORT=port) == 0
    assert check(monkeypatch, PORT=port, TQE_WORKER_PORT=closed_port) == 0
    assert check(monkeypatch, PORT=closed_port, TQE_WORKER_PORT=port) == 0


def test_what_does_not_answer_is_not(
    port: int, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = str(check(monkeypatch, PORT=closed_port))
    assert f"port {closed_port}: no answer" in said
    monkeypatch.setattr(Answers, "status", 503)
    said = str(check(monkeypatch, PORT=closed_port, TQE_WORKER_PORT=port))
    assert f"port {port}: status 503" in said

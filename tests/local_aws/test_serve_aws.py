"""`python -m local_aws`, which is `make serve-aws`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from local_aws import __main__ as local_aws
from local_aws.servers import NotAvailable

PROGRAM = [sys.executable, "-m", "local_aws", "--servers", "moto"]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | more


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_task_completes_and_everything_ends_with_it(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [*PROGRAM, "--", "serve"],
        cwd=tmp_path,
        env=environment(PORT="0"),
        stderr=subprocess.PIPE,
        text=True,
    )
    said = ""
    assert program.stderr is not None
    with program.stderr:
        for line in program.stderr:
            said += line
            if listening := re.search(r"listening on (http://\S+?)[,\s]", line):
                break
        else:
            pytest.fail(f"it ended:\n{said}")
        base = listening[1]
        task = ask(f"{base}/tasks", {"type": "email", "payload": "user@example.com"})
        assert ask(f"{base}/tasks/{task['id']}?wait=30")["status"] == "COMPLETED"
        variables = (tmp_path / "local-aws.env").read_text()
        assert "SQS_QUEUE_URL=" in variables
        program.send_signal(signal.SIGTERM)
        program.stderr.read()
    assert program.wait(60) == 0
    assert not (tmp_path / "local-aws.env").exists()
    for port in re.findall(r"127\.0\.0\.1:(\d+)", variables):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)))


def test_another_command_of_tqe_and_its_exit_code(tmp_path: Path) -> None:
    ran = subprocess.run(
        [*PROGRAM, "--", "status", "no-such-task"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 3
    assert "no-such-task" in ran.stderr


def test_without_java_it_says_so_and_takes_the_pair_that_needs_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from local_aws import pairs

    def running(name: str) -> object:
        if name in ("elasticmq", "dynamodb-local"):
            raise NotAvailable(f"{name} cannot run here: Java 17 is not installed")
        return object()

    monkeypatch.setattr(pairs, "running", running)
    assert local_aws._start("any").pair == pairs.PAIRS["moto"]
    assert "Java 17 is not installed" in capsys.readouterr().err


def test_where_no_server_can_run_it_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from local_aws import pairs

    def running(name: str) -> object:
        raise NotAvailable(f"{name} cannot run here: nothing can")

    monkeypatch.setattr(pairs, "running", running)
    assert local_aws.main([]) == 1
    assert "moto cannot run here: nothing can" in capsys.readouterr().err

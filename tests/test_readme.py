"""Every snippet of the README's tour runs as it is printed, from top to bottom.

`sh` blocks run in one shell session's folder with a server on a free port; `python` blocks that
begin with a file name are written to that file, and run when they are programs. Nothing is left out
but the two commands that set the project up.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from task_queue_engine.client import Client
from tests.test_env_example import KNOWN

README = Path(__file__).parent.parent / "README.md"
SETTINGS = README.parent / "docs" / "settings.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LISTENING = re.compile(r"http://127\.0\.0\.1:(\d+)")
PUBLISHED = "http://127.0.0.1:8080"


def blocks(language: str, *, section: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    (part,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return [body for found, body in BLOCK.findall(part) if found == language]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A new user's: nothing set, `tqe` on the path."""
    kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "PYTHONPATH")}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PORT": "0"}


@contextmanager
def server(folder: Path, environment: dict[str, str], *arguments: str) -> Iterator[str]:
    """`tqe serve` on a free port, until the block ends; gives its URL."""
    command = [sys.executable, "-m", "task_queue_engine", "serve", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        seen: list[str] = []
        url = None
        for line in process.stderr:
            seen.append(line)
            found = LISTENING.search(line)
            if found:
                url = found.group(0)
                break
        assert url, "the server did not say where it listens:\n" + "".join(seen)
        try:
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=40)
    assert process.returncode == 0


def run_shell(script: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{script}\n--- exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_five_minute_tour(tmp_path: Path, environment: dict[str, str]) -> None:
    scripts = blocks("sh", section="Five minutes")
    assert len(scripts) == 4
    with server(tmp_path, environment) as url:
        first, export, later, command_line = [
            run_shell(script.replace(PUBLISHED, url), tmp_path, environment) for script in scripts
        ]
    assert json.loads(first)["status"] == "PENDING"
    exported = json.loads(export)
    assert exported["status"] == "COMPLETED"
    assert Path(tmp_path, exported["result"]["path"]).read_text().startswith("name,born")
    submitted, cancelled = (json.loads(part) for part in later.replace("}{", "}\n{").splitlines())
    assert submitted["id"] == cancelled["id"]
    assert cancelled["status"] == "CANCELLED"
    assert "COMPLETED" in command_line
    assert list(tmp_path.glob("outbox/new/*")), "the mail is in the outbox"


def test_own_tasks_and_embedding(tmp_path: Path, environment: dict[str, str]) -> None:
    programs = blocks("python", section="Your own tasks")
    programs += blocks("python", section="Inside your own trio program")
    for program in programs:
        (name,) = re.findall(r"^# (\w+\.py)\n", program)
        (tmp_path / name).write_text(program, encoding="utf-8")

    serve, submit = blocks("sh", section="Your own tasks")
    _, _, *arguments = serve.split()
    with server(tmp_path, environment, *arguments) as url:
        tasks: list[tuple[str, object, object]] = [
            ("ship-order", {"number": 7, "customer": "busy"}, {"tracking": "PKG-7"}),
            ("thumbnail", "a.jpg", "a-small.jpg"),
            ("crunch", [1, 2, 3], 14),
        ]
        with Client(url) as client:
            for name, payload, result in tasks:
                assert client.submit(name, payload).result(timeout=30) == result
        assert "PKG-7" in run_shell(submit, tmp_path, environment)
        (program,) = blocks("python", section="From another program")
        (tmp_path / "client.py").write_text(program.replace(PUBLISHED, url), encoding="utf-8")
        said = run_shell("python client.py", tmp_path, environment)
        assert said.strip() == "{'tracking': 'PKG-1'}"

    said = run_shell("python embedded.py", tmp_path, environment)
    assert said.strip() == "{'tracking': 'PKG-1'}"


def test_every_setting_is_in_the_tables() -> None:
    row = re.compile(r"^\| `([A-Z][A-Z0-9_]+)` \|.*$", re.MULTILINE)
    page = {found[0]: found[1] for found in row.finditer(SETTINGS.read_text(encoding="utf-8"))}
    assert len(page) == len(row.findall(SETTINGS.read_text(encoding="utf-8")))
    assert set(page.values()) == KNOWN
    assert {found[0] for found in row.finditer(README.read_text(encoding="utf-8"))} < set(page)

"""Runs `tqe`: in this process where it ends by itself, as one of its own where signals count."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import apsw
import httpx
from click.testing import CliRunner

from task_queue_engine.cli import main
from task_queue_engine.task import TaskStatus
from tests.cli.preloaded import Preloaded

TIMEOUT = 20.0
"""Seconds a step may take on a busy machine before a test calls it broken."""
APP = "shop:tasks"
KEY = "a-key-of-sixteen-characters"

Client = partial(httpx.Client, trust_env=False, verify=False, timeout=TIMEOUT + 10)
"""Servers of tests have no certificates: to load those that one would be held against takes 30 ms
of CPU for each client."""


def request(method: str, url: str, **more: Any) -> httpx.Response:
    """On a connection of its own."""
    with Client() as client:
        return client.request(method, url, **more)


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of an error."""
        (line,) = self.err.splitlines()
        assert line.startswith("tqe: "), line
        return line.removeprefix("tqe: ")


def tqe(*arguments: str, stdin: str | bytes | None = None, **environment: str) -> Ran:
    """In this process, in the current directory."""
    result = CliRunner().invoke(main, arguments, input=stdin, env=environment)
    return Ran(int(result.exit_code), result.stdout, result.stderr)


class _Command(subprocess.Popen[str]):
    def __exit__(self, kind: type[BaseException] | None, *details: Any) -> None:
        if kind is not None:  # waiting for it would hide the failure
            self.kill()
        super().__exit__(kind, *details)


class Shop:
    """A directory with tasks, and a database once something has run there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copy(Path(__file__).with_name("shop.py"), path / "shop.py")

    def command(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`tqe` in a process of its own, and in a process group of its own."""
        return _Command(
            [sys.executable, "-m", "task_queue_engine", *arguments],
            cwd=self.path,
            env=_kept() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )

    def run(self, *arguments: str, stdout: IO[str] | None = None, **environment: str) -> Ran:
        """The same to its end, as a fork (`preloaded.py`)."""
        with _file() as out, _file() as err:
            process = Preloaded(
                arguments,
                cwd=self.path,
                env=_kept() | environment,
                stdout=out if stdout is None else stdout,
                stderr=err,
            )
            with closing(process.stderr):
                try:
                    code = process.wait(TIMEOUT)
                finally:
                    process.kill()
            out.seek(0)
            err.seek(0)
            return Ran(code, out.read(), err.read())

    @contextmanager
    def serve(
        self,
        command: str = "serve",
        *arguments: str,
        from_nothing: bool = False,
        **environment: str,
    ) -> Iterator[Server]:
        """A running `tqe serve` (or `api`, or `worker`).

        Args:
            from_nothing: not as a fork (`preloaded.py`): its imports count, or what a program
                inherits from this process.
        """
        environment = {"TQE_APP": APP, "PORT": "0", "TQE_SHUTDOWN_GRACE": "0"} | environment
        process: subprocess.Popen[str] | Preloaded
        if from_nothing:
            process = self.command(command, *arguments, **environment)
        else:
            given = _kept() | environment
            process = Preloaded([command, *arguments], cwd=self.path, env=given)
        server = Server(process)
        try:
            server.wait_for("how to stop" if command == "worker" else READY)
            yield server
        finally:
            if process.poll() is None:
                process.kill()
            server.close()

    def submit(self, *arguments: str) -> str:
        """The id of a task submitted directly."""
        ran = tqe("submit", "--app", APP, *arguments)
        assert ran.code == 0, ran.err
        return ran.out.strip()

    def tasks(self) -> list[dict[str, Any]]:
        ran = tqe("list", "--all", "--json")
        assert ran.code == 0, ran.err
        return [json.loads(line) for line in ran.out.splitlines()]

    def statuses(self) -> Counter[str]:
        """How many tasks have which. Asked for again and again: not by a command."""
        with closing(apsw.Connection(str(self.path / "tasks.db"))) as connection:
            connection.set_busy_timeout(5000)
            found = connection.execute("SELECT status, count(*) FROM tasks GROUP BY status")
            return Counter({_STATUSES[status]: number for status, number in found})

    def is_there(self, name: str) -> Callable[[], bool]:
        return (self.path / name).exists


def _file() -> IO[str]:
    return TemporaryFile("w+", encoding="utf-8", errors="replace")


def _kept() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}


_STATUSES = [status.value for status in TaskStatus]

READY = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")


class Api(ABC):
    """What answers at a URL."""

    @property
    @abstractmethod
    def url(self) -> str: ...

    def post(self, type_: str, payload: object, **members: object) -> dict[str, Any]:
        """The task that was accepted."""
        body = {"type": type_, "payload": payload, **members}
        answer = request("POST", f"{self.url}/tasks", json=body)
        assert answer.status_code == 201, answer.text
        task: dict[str, Any] = answer.json()
        return task


class Server(Api):
    """A process that logs to stderr."""

    def __init__(self, process: subprocess.Popen[str] | Preloaded) -> None:
        self.process = process
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._new.put(line.rstrip("\n"))
        self._new.put(None)

    def wait_for(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """The first log line that has it, of those that were logged and those to come."""
        seen = 0
        deadline = time.monotonic() + TIMEOUT
        while True:
            for line in self.lines[seen:]:
                found = re.search(pattern, line)
                if found:
                    return found
            seen = len(self.lines)
            line = self._new.get(timeout=max(0.0, deadline - time.monotonic()))
            if line is None:
                raise AssertionError(f"ended without {pattern!r}:\n{self.log}")
            self.lines.append(line)

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    @property
    def url(self) -> str:
        return self.wait_for(READY)[1]

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ctrl_c(self) -> None:
        """As a terminal does it: to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> int:
        """Its exit code."""
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        while not self._new.empty():
            line = self._new.get()
            if line is not None:
                self.lines.append(line)
        return code

    def close(self) -> None:
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def eventually(condition: Callable[[], bool], *, seconds: float = TIMEOUT) -> None:
    """Look again and again until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)

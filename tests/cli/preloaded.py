"""`tqe` without what a start costs: one process for each test process has imported the program,
and forks for each that a test starts. So do other programs on the same modules that a test talks
with.

From the fork on it is the program: a process group of its own, no hangup ignored, the arguments,
environment and directory that it was given, Python's own end. What the imports themselves do is for
`tests/test_imports.py`, and for what `Shop.command` starts, which begins from nothing.

Between the two is a process for each program, its parent, which waits for it and tells of its end.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_FORKER = Path(__file__).with_name("forker.py")


class Preloaded:
    """As `subprocess.Popen`, as far as tests of servers go; its stderr is a pipe where no other
    place is given."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        module: str = "task_queue_engine",
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
    ) -> None:
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        told, tell = os.pipe()
        given = {
            "arguments": list(arguments),
            "cwd": str(cwd),
            "env": dict(env),
            "module": module,
        }
        standard = self._connect()
        try:
            taken, out, err = standard
            if stdout is not None:
                out = stdout.fileno()
            if stderr is not None:
                err = stderr.fileno()
            _forker().start(given, [taken, out, err, tell])
        finally:
            for descriptor in {*standard, tell}:
                os.close(descriptor)
        self._told = os.fdopen(told)
        self.pid = int(self._told.readline())

    def _connect(self) -> list[int]:
        """The program's end of its standard input, output and error."""
        read, write = os.pipe()
        self.stderr = os.fdopen(read, encoding="utf-8", errors="replace")
        nothing = os.open(os.devnull, os.O_RDWR)
        return [nothing, nothing, write]

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            with self._told:
                self.returncode = int(self._told.readline())
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._told], [], [], timeout)[0]:
            assert timeout is not None
            raise subprocess.TimeoutExpired("tqe", timeout)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class PreloadedCompanion(Preloaded):
    """One that a test talks with: its standard input and output are pipes, stderr the test's."""

    stdin: IO[str]

    def _connect(self) -> list[int]:
        theirs, write = os.pipe()
        self.stdin = os.fdopen(write, "w")
        read, to_us = os.pipe()
        self.stdout = os.fdopen(read)
        return [theirs, to_us, os.dup(2)]

    def communicate(self, text: str) -> None:
        """Say this as the last, and see it end."""
        with self.stdin:
            self.stdin.write(text)
        self.wait()

    def close(self) -> None:
        """End it."""
        self.kill()
        self.wait()
        assert self.stdout is not None
        self.stdin.close()
        self.stdout.close()


class _Forker:
    """The process that has imported the program, seen from the tests."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(_FORKER), str(theirs.fileno())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(self, given: Any, descriptors: list[int]) -> None:
        socket.send_fds(self._socket, [json.dumps(given).encode()], descriptors)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(20)


_running: list[_Forker] = []


def _forker() -> _Forker:
    if not _running:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        _running.append(_Forker(kept))
        atexit.register(_running[0].close)
    return _running[0]

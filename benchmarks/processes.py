"""Processes that are measured: started, looked at through /proc with all their children, ended.

They die with this process, and no process is ended that was not started here. Linux only.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Seconds that a process has to end after SIGTERM, then all below it after SIGKILL.
_TERM_GRACE = 5.0
_KILL_GRACE = 5.0

# Seconds between two looks at a file that handlers write, or at a process that is no child of this
# one: nothing tells of either. Short beside what is measured, and next to no CPU.
_LOOK = 0.01

# A process that has used less CPU than this within _CALM seconds, twice, has started.
_CALM_CPU = 0.03
_CALM = 0.4
_LEAST_START = 1.0
_MOST_START = 12.0


class Failed(Exception):
    """A measurement that could not be made; the message says why."""


class Process:
    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        """
        Args:
            environment: all of it.
            folder: where it runs, and where its output is kept.
        """
        self._log = folder / "log"
        setpriv = shutil.which("setpriv")
        die_with_parent = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*die_with_parent, *command],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_for(self, condition: Callable[[], bool], what: str, *, seconds: float) -> None:
        """Look until it is so.

        Raises:
            Failed: not within these seconds, or the process has ended.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if self._process.poll() is not None:
                raise Failed(f"ended with {self._process.returncode}: {self.last_lines()}")
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {seconds:g} s: {self.last_lines()}")
            time.sleep(_LOOK)

    def settle(self) -> None:
        """Wait until it has started: no two say so in the same way, but then all are calm."""
        started = time.monotonic()
        calm, last = 0, -1.0
        while calm < 2 and time.monotonic() < started + _MOST_START:
            time.sleep(_CALM)
            cpu = cpu_seconds(self.pid)
            is_calm = cpu < last + _CALM_CPU and time.monotonic() > started + _LEAST_START
            calm = calm + 1 if is_calm else 0
            last = cpu

    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def last_lines(self) -> str:
        return " / ".join(self.output().splitlines()[-4:])[-400:]

    def stop(self) -> None:
        started = tree(self.pid)
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_TERM_GRACE)
        for pid in started:
            if pid == self.pid and self._process.poll() is not None:
                continue  # its number may belong to another one by now
            if pid == self.pid or _is_in_session(pid, self.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + _KILL_GRACE
        # They are no children of this process: nothing tells of their end.
        while any(_is_running(pid) for pid in started) and time.monotonic() < deadline:
            time.sleep(_LOOK)


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found, left = [], [pid]
    while left:
        one = left.pop()
        found.append(one)
        # Any of them, and any of their threads, may end at any moment.
        with suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                with suppress(OSError):
                    left += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all below it, those that have ended included."""
    total = 0.0
    for one in tree(pid):
        with suppress(OSError):
            fields = _stat(one)
            total += _own_cpu(one, fields)
            total += (int(fields[13]) + int(fields[14])) / _TICKS  # of children that have ended
    return total


def _own_cpu(pid: int, fields: list[str]) -> float:
    """With the threads that have ended."""
    try:
        # The CPU clock of a process by its number, as clock_getcpuclockid(3) makes it: finer than
        # the ticks of /proc.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # gone, or a sandbox that knows none but the usual clocks
        return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mib(pid: int) -> float:
    pages = 0
    for one in tree(pid):
        with suppress(OSError):
            pages += int(Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()[1])
    return pages * _PAGE / 2**20


def peak_mib(pid: int) -> float:
    """The most that each of the tree has had."""
    peak = 0
    for one in tree(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{one}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    peak += int(line.split()[1])
    return peak / 1024


def written_bytes(pid: int) -> int:
    """What has been written to files, and so is on its way to the disk."""
    total = 0
    for one in tree(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{one}/io").read_text(encoding="ascii").splitlines():
                if line.startswith("write_bytes:"):
                    total += int(line.split()[1])
    return total


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """A folder for one measurement, gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may hold blanks: the first one is the state (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def _is_running(pid: int) -> bool:
    try:
        return _stat(pid)[0] not in "ZX"
    except OSError:
        return False


def _is_in_session(pid: int, session: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getsid(pid) == session
    return False

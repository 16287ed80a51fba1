"""One worker process, seen from the engine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import trio

from task_queue_engine.codec import decode_json
from task_queue_engine.execution import wire
from task_queue_engine.execution.child import SHUTDOWN_SIGNALS
from task_queue_engine.execution.child_logs import replay

# Seconds for the kernel to carry out a SIGKILL; it takes milliseconds unless the process hangs in
# the kernel itself.
_KILL_WAIT = 5.0

# The engine's own sys.path comes first thing, so that the engine and the handlers are found as
# they were here; -P keeps the working directory from shadowing the standard library until then.
# Looking for garbage in what is being imported, all of it in use, is left out until `main` runs.
_BOOTSTRAP = (
    "import gc, sys; gc.disable(); sys.path[:] = sys.argv[3:]; "
    "from task_queue_engine.execution.child import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)

# What a signal most likely means.
_HINTS = {
    "SIGKILL": ", perhaps for want of memory",
    "SIGXCPU": ": it had used all the CPU time that its task may take",
}

_log = logging.getLogger(__name__)


class HungUp(Exception):
    """The process closed its end of the socket, most likely by dying."""


class WorkerProcess:
    """A started process and the socket to it. Used by one task at a time."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process = process
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        self._frames = wire.FrameBuffer()
        self.tasks = 0
        """How many it has run."""
        self.memory: int | None = None
        """Bytes that it held after the last one, where that was asked for."""

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def wait_ready(self) -> None:
        """Raises HungUp."""
        wire.decode_ready(await self._receive())

    async def run(
        self, job: wire.Job, report_progress: Callable[[Any], Awaitable[None]]
    ) -> wire.Returned | wire.Raised:
        """Send the job, pass on its progress, return its outcome.

        When this raises (HungUp, Cancelled, what report_progress raises), the process is in an
        unknown state: it has to be killed.
        """
        try:
            await self._stream.send_all(wire.frame(wire.encode(job)))
        except trio.BrokenResourceError:
            raise HungUp from None
        while True:
            reply = wire.decode_reply(await self._receive())
            if isinstance(reply, wire.ProgressReported):
                await report_progress(decode_json(bytes(reply.value), field="progress"))
            elif isinstance(reply, wire.Logged):
                replay(reply)
            else:
                self.tasks += 1
                self.memory = reply.memory
                return reply

    async def _receive(self) -> bytes:
        while (body := self._frames.next()) is None:
            try:
                data = await self._stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                raise HungUp
            self._frames.feed(data)
        return body

    def hang_up(self) -> None:
        """Ask an idle process to end. `shutdown` and not only `close`: it reaches the process
        also where something forked from the engine holds a copy of the socket."""
        with contextlib.suppress(OSError):
            self._stream.socket.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End the process and what it started, but for programs that made themselves a process
        group of their own. The process leads its group, so the group's id is its pid."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait_until(self, deadline: float) -> bool:
        """Block until the process has ended, or until `deadline` (time.monotonic()).

        Returns:
            Whether it has ended.
        """
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        self._stream.socket.close()

    @property
    def exceeded_its_cpu_time(self) -> bool:
        """Whether the system ended it for that, once it is reaped."""
        return self._process.returncode == -signal.SIGXCPU

    def describe_exit(self, when: str) -> str:
        """How the process ended, once it is reaped."""
        code = self._process.returncode
        if code is None or code >= 0:
            return f"worker process {self.pid} ended with exit code {code} {when}"
        try:
            name = signal.Signals(-code).name
        except ValueError:  # a real-time signal
            name = f"signal {-code}"
        return f"worker process {self.pid} was killed by {name} {when}{_HINTS.get(name, '')}"


def spawn(environment: Mapping[str, str]) -> WorkerProcess:
    """Start a process. Takes milliseconds and blocks: for a thread.

    Raises:
        OSError: the system does not start it.
    """
    ours, theirs = socket.socketpair()
    # Blocked here (for this thread alone), they stay blocked in the new process until it ignores
    # them: there is no moment in which a Ctrl-C for the whole group could kill it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SHUTDOWN_SIGNALS)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
            [
                sys.executable,
                *_interpreter_options(),
                "-P",
                "-c",
                _BOOTSTRAP,
                str(theirs.fileno()),
                str(os.getpid()),
                *(entry for entry in sys.path if isinstance(entry, str)),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=environment,
        )
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    return WorkerProcess(process, ours)


def reap(workers: Collection[WorkerProcess], grace: float) -> list[WorkerProcess]:
    """Wait `grace` seconds for the processes to end by themselves, then kill them. Blocks, at most
    _KILL_WAIT longer than that: for a thread.

    Returns:
        Those that had to be killed.
    """
    deadline = time.monotonic() + grace
    killed = [worker for worker in workers if not worker.wait_until(deadline)]
    for worker in killed:
        worker.kill()
    deadline = time.monotonic() + _KILL_WAIT
    for worker in killed:
        if not worker.wait_until(deadline):
            _log.error("worker process %d does not die", worker.pid)
    return killed


def _interpreter_options() -> list[str]:
    """The options this interpreter was started with, where they change how handlers behave."""
    options = [f"-W{option}" for option in sys.warnoptions]
    options += [
        f"-X{name}" if value is True else f"-X{name}={value}"
        for name, value in sys._xoptions.items()
    ]
    if sys.flags.optimize:
        options.append("-" + "O" * sys.flags.optimize)
    if sys.flags.isolated:
        options.append("-I")
    else:
        options += ["-E"] * sys.flags.ignore_environment + ["-s"] * sys.flags.no_user_site
    return options

"""A process of a group, seen from the one that supervises it: started, talked to, watched."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
import trio

from task_queue_engine.cli import group_messages as messages
from task_queue_engine.cli.membership import VARIABLE

logger = logging.getLogger("task_queue_engine.processes")

# Seconds for one process to answer for itself: a look at its backend takes two at most.
_ANSWER_WITHIN = 2.5
# Seconds for the last lines of a process that has ended, should something it left behind hold its
# socket open.
_LAST_WORDS = 0.5
# Seconds for a line to leave: a process that does not read has other troubles.
_SEND_WITHIN = 2.0


OnAsk = Callable[["MemberProcess", messages.Ask], Awaitable[None]]


class MemberProcess:
    """One process, from its start to its end.

    Raises:
        OSError: the system does not start it.
    """

    def __init__(
        self,
        *,
        number: int,
        size: int,
        listeners: Sequence[int],
        environment: Mapping[str, str],
    ) -> None:
        ours, theirs = socket.socketpair()
        shared = (theirs.fileno(), *listeners)
        given = " ".join(map(str, (number, size, os.getpid(), *shared)))
        try:
            # Here and in no thread: the kernel tells the process of its parent's end when the
            # *thread* that started it ends (`membership.py`).
            self._process = subprocess.Popen(  # noqa: S603 - this very program
                [sys.executable, *sys.orig_argv[1:]],
                stdin=subprocess.DEVNULL,
                pass_fds=shared,
                env={**os.environ, **environment, VARIABLE: given},
                process_group=0,  # Ctrl-C in the terminal comes to the supervisor alone
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._sending = trio.Lock()
        self._asked: dict[int, trio.Event] = {}
        self._answers: dict[int, msgspec.Raw] = {}
        self._next_id = 0
        self._ended = trio.Event()
        self.ready_at: float | None = None
        """On trio's clock; None while it starts."""
        self.refusal: str | None = None
        """The line that says why it ended, where it said so."""
        self.metrics = messages.NOTHING
        """The last numbers that are known of it, a MetricsView or NOTHING."""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        return self.ready_at is not None

    @property
    def exit_code(self) -> int:
        """Once it has ended; negative: the signal that killed it."""
        code = self._process.returncode
        if code is None:
            raise RuntimeError("it has not ended")
        return code

    def look(self) -> None:
        """After a SIGCHLD."""
        if self._process.poll() is not None:
            self._ended.set()

    async def run(self, *, on_ready: Callable[[], None], on_ask: OnAsk) -> None:
        """Until it has ended, and has been heard to the end. What it asks is answered beside."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, nursery, on_ready, on_ask)
                self.look()
                await self._ended.wait()
                nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS
        finally:
            self._stream.socket.close()

    async def _listen(
        self, nursery: trio.Nursery, on_ready: Callable[[], None], on_ask: OnAsk
    ) -> None:
        lines = messages.Lines()
        while data := await self._receive():
            for line in lines.feed(data):
                match messages.decode_from_member(line):
                    case messages.Ready(metrics=metrics):
                        self.metrics = metrics
                        self.ready_at = trio.current_time()
                        on_ready()
                    case messages.Refused(line=why):
                        self.refusal = why
                    case messages.Answer() as answer:
                        come = self._asked.get(answer.id)
                        if come is not None:
                            self._answers[answer.id] = answer.value
                            come.set()
                    case messages.Ask() as ask:
                        nursery.start_soon(on_ask, self, ask)

    async def _receive(self) -> bytes:
        try:
            return await self._stream.receive_some(65536)
        except trio.BrokenResourceError:
            return b""

    # --- talking to it ----------------------------------------------------------------------

    async def stop(self, *, now: bool) -> None:
        """The order says what is meant; the signal arms the watchdog and the guard of a process
        whose event loop a handler blocks, and ends one that has not come to its event loop yet."""
        self._process.send_signal(signal.SIGTERM)
        await self.send(messages.Order(now=now))

    def kill(self) -> None:
        self._process.kill()

    async def question(self, what: messages.What) -> msgspec.Raw | None:
        """Its own part, or NOTHING; None where it does not answer in time."""
        self._next_id += 1
        number, come = self._next_id, trio.Event()
        self._asked[number] = come
        try:
            with trio.move_on_after(_ANSWER_WITHIN):
                await self.send(messages.Question(id=number, what=what))
                await come.wait()
        finally:
            del self._asked[number]
        return self._answers.pop(number, None)

    async def send(self, message: messages.FromSupervisor) -> None:
        # A process that has ended shows by its end.
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with self._sending:
                # Half a line would spoil the next one.
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _SEND_WITHIN):
                    await self._stream.send_all(messages.encode(message))


def describe_exit(code: int) -> str:
    """For the log."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    return f"was killed by {name}"

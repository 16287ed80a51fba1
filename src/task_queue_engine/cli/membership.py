"""One process of a group, seen from inside: what `process_group.py` started it with, and the socket
on which it takes orders, is asked about itself, and asks about the others."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Self

import msgspec
import trio

from task_queue_engine.cli import group_messages as messages

logger = logging.getLogger("task_queue_engine.processes")

VARIABLE = "_TQE_MEMBER"
"""Of the environment, for the process that is started and no other."""

_PR_SET_PDEATHSIG = 1
# Seconds for the answer about the whole: the supervisor gives the others less.
_ANSWER_WITHIN = 4.0
# Seconds for a line to leave; the supervisor reads all the time.
_SEND_WITHIN = 2.0

Report = Callable[[messages.What], Awaitable[msgspec.Raw]]
"""This process's own part: a MetricsView or a State; NOTHING while there is none."""


class Membership:
    """
    Args:
        number: of this process, from 1.
        size: of the group.
        connection: to the supervisor.
        listeners: descriptors of the sockets to accept from.
    """

    def __init__(
        self, *, number: int, size: int, connection: socket.socket, listeners: tuple[int, ...]
    ) -> None:
        self.number = number
        self.size = size
        self.listeners = listeners
        self._connection = connection
        self._stream: trio.SocketStream | None = None
        self._sending = trio.Lock()
        self._asked: dict[int, Callable[[messages.Whole], None]] = {}
        self._next_id = 0
        # A program that a handler forks is no part of the group.
        os.register_at_fork(after_in_child=connection.close)

    @property
    def name(self) -> str:
        return f"process-{self.number}"

    @classmethod
    def from_environment(cls) -> Self | None:
        """None: this process is on its own. Takes the variable out, so that no program started
        from here takes itself for one of the group."""
        given = os.environ.pop(VARIABLE, None)
        if given is None:
            return None
        number, size, supervisor, connection, *listeners = map(int, given.split())
        for descriptor in (connection, *listeners):
            os.set_inheritable(descriptor, False)
        _end_with(supervisor)
        return cls(
            number=number,
            size=size,
            connection=socket.socket(fileno=connection),
            listeners=tuple(listeners),
        )

    def refuse(self, line: str) -> None:
        """Tell the supervisor why this process ends; it tells the user, once. Before or after the
        event loop."""
        with contextlib.suppress(OSError):
            self._connection.send(messages.encode(messages.Refused(line)))

    # --- on the event loop ------------------------------------------------------------------

    async def run(
        self,
        *,
        on_order: Callable[[bool], None],
        report: Report,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take orders and answer questions, until cancelled.

        Args:
            on_order: called with whether the end is to be at once. An end of the supervisor is an
                order too.
            report: asked for this process's own part of what the server as a whole is asked.
        """
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._connection))
        lines = messages.Lines()
        async with trio.open_nursery() as nursery:
            task_status.started()
            while data := await self._receive(self._stream):
                for line in lines.feed(data):
                    match messages.decode_from_supervisor(line):
                        case messages.Order(now=now):
                            on_order(now)
                        case messages.Question() as question:
                            nursery.start_soon(self._answer, question, report)
                        case messages.Whole() as whole:
                            self._hear(whole)
            logger.warning("the supervising process has ended: stopping too")
            on_order(False)
            for each in list(self._asked):
                self._hear(messages.Whole(id=each))
            await trio.sleep_forever()

    async def tell_ready(self, metrics: msgspec.Raw) -> None:
        await self._send(messages.Ready(metrics))

    async def ask(self, what: messages.What, own: msgspec.Raw = messages.NOTHING) -> messages.Whole:
        """About the others; nothing where the supervisor does not answer."""
        answers: list[messages.Whole] = []
        come = trio.Event()

        def hear(whole: messages.Whole) -> None:
            answers.append(whole)
            come.set()

        self._next_id += 1
        ask = messages.Ask(id=self._next_id, what=what, own=own)
        self._asked[ask.id] = hear
        try:
            with trio.move_on_after(_ANSWER_WITHIN):
                await self._send(ask)
                await come.wait()
        finally:
            self._asked.pop(ask.id, None)
        return answers[0] if answers else messages.Whole()

    def _hear(self, whole: messages.Whole) -> None:
        hear = self._asked.get(whole.id)
        if hear is not None:
            hear(whole)

    async def _answer(self, question: messages.Question, report: Report) -> None:
        value = await report(question.what)
        await self._send(messages.Answer(id=question.id, value=value))

    async def _send(self, message: messages.FromMember) -> None:
        if self._stream is None:
            return
        # A supervisor that has ended shows where it is listened to.
        with contextlib.suppress(trio.BrokenResourceError):
            async with self._sending:
                # Half a line would spoil the next one.
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _SEND_WITHIN):
                    await self._stream.send_all(messages.encode(message))

    @staticmethod
    async def _receive(stream: trio.SocketStream) -> bytes:
        try:
            return await stream.receive_some(65536)
        except trio.BrokenResourceError:
            return b""


def _end_with(supervisor: int) -> None:
    """Have the kernel send SIGTERM when the supervisor is gone. The end of its socket says the
    same, but only to an event loop that turns; a signal also wakes the guard of one that does
    not."""
    if sys.platform == "linux":
        import ctypes  # only processes that have a supervisor pay for it

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != supervisor:  # it was faster
        os.kill(os.getpid(), signal.SIGTERM)

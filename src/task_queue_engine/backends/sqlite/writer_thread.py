"""The thread that writes: what waits at one moment is one transaction."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import apsw
import outcome
import trio

from task_queue_engine.backends.sqlite.ringer import Ringer
from task_queue_engine.backends.sqlite.threads import ConnectionThread, Request
from task_queue_engine.backends.sqlite.transaction import Transaction, Work, begin, commit
from task_queue_engine.errors import BackendError, BackendUnavailable

T = TypeVar("T")

logger = logging.getLogger("task_queue_engine.sqlite")


@dataclass(slots=True, eq=False)
class Parking:
    """Where a trio task waits in `WriterThread.park`."""

    leave: Callable[[], None] | None = None
    """Ends the wait, unless the work has begun. None while nothing waits."""


# For a parked request whose transaction came to nothing: it may look for itself.
_NOTHING = outcome.Value(None)


class WriterThread(ConnectionThread):
    """Commits whatever waits at that moment in one transaction, so that the number of fsyncs falls
    as the load rises."""

    last_failed = False
    """The last commit did not go through: the file is locked, its disk is full or read-only."""

    def __init__(self, path: str, *, name: str, busy_timeout: float, ringer: Ringer) -> None:
        super().__init__(path, name=name, busy_timeout=busy_timeout)
        self._ringer = ringer
        self._parked: dict[str, list[Request]] = {}
        """By topic, what waits for news of it. Changed in trio's thread."""

    @trio.lowlevel.enable_ki_protection  # as `run`
    async def park(self, topic: str, work: Callable[[Transaction], T], until: Parking) -> T | None:
        """Wait until a transaction of this process brings news of `topic`, and have `work` done in
        the very same one: what one task sends another takes, at the price of one commit.

        Returns:
            What `work` returns, durable; None where `until` was left before.

        Raises:
            Cancelled: before the work was begun.
        """
        request = Request(work, trio.lowlevel.current_task())
        until.leave = partial(_withdraw, request)
        waiting = self._parked.setdefault(topic, [])
        waiting.append(request)

        def abort(_: object) -> trio.lowlevel.Abort:
            withdrawn = request.begun.acquire(blocking=False)
            return trio.lowlevel.Abort.SUCCEEDED if withdrawn else trio.lowlevel.Abort.FAILED

        try:
            result: T | None = await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            waiting.remove(request)
            until.leave = None
        return result

    def _serve(self) -> None:
        try:
            super()._serve()
        finally:
            self._ringer.close()

    def _carry_out(self, connection: apsw.Connection, first: Request, group: list[Request]) -> None:
        if first.spare is not None and not self.last_failed:
            spared = self._outcome(self._look, connection, first.spare)
            if isinstance(spared, outcome.Value) and spared.value is not None:
                first.result = spared
                return  # `_serve` begins it
        # The lock first: what is cancelled while we wait for it has not begun.
        locked = self._outcome(self._lock, connection)
        self._begin(first, group)
        self.last_failed = isinstance(locked, outcome.Error)
        if isinstance(locked, outcome.Error):
            _fail(group, locked.error)
            return
        transaction, parked = Transaction(connection), list[Request]()
        done = self._outcome(_work_off, transaction, group, partial(self._take_parked, parked))
        if isinstance(done, outcome.Error):
            self.last_failed = isinstance(done.error, BackendError)
            for request in parked:
                request.result = _NOTHING
            if (len(group) == 1 and not parked) or transaction.committing:
                _fail(group, done.error)
            else:
                self._carry_out_each(connection, group)
        else:
            self._tell_others(transaction)
        group += parked

    def _take_parked(self, begun: list[Request], transaction: Transaction) -> list[Request]:
        for topic in transaction.news:
            for request in tuple(self._parked.get(topic, ())):
                if request.begun.acquire(blocking=False):
                    begun.append(request)
        return begun

    def _lock(self, connection: apsw.Connection) -> None:
        begin(connection)
        try:
            self.files.check()
        except BackendUnavailable:
            connection.execute("ROLLBACK")
            raise

    def _look(self, connection: apsw.Connection, spare: Work) -> object:
        self.files.check()
        return spare(Transaction(connection))

    def _carry_out_each(self, connection: apsw.Connection, group: list[Request]) -> None:
        """One of them failed and took the others along: each for itself."""
        for i, request in enumerate(group):
            locked = self._outcome(self._lock, connection)
            if isinstance(locked, outcome.Error):
                # The others would only wait as long, one after the other, for the same.
                _fail(group[i:], locked.error)
                return
            transaction = Transaction(connection)
            done = self._outcome(_work_off, transaction, [request], _nothing_parked)
            if isinstance(done, outcome.Error):
                request.result = done
            else:
                self._tell_others(transaction)

    def _tell_others(self, transaction: Transaction) -> None:
        # Also where it has no news: whoever listens now is to hear of what is claimed by it, which
        # starts as soon as this is answered.
        try:
            self._ringer.ring(transaction.news)
        # It is committed, and whoever was not told finds it by looking.
        except Exception:
            logger.exception("other processes could not be told of a commit")


def _work_off(
    transaction: Transaction,
    group: Sequence[Request],
    take_parked: Callable[[Transaction], list[Request]],
) -> None:
    parked: list[Request] = []

    def waiting(transaction: Transaction) -> list[Work]:
        parked.extend(take_parked(transaction))
        return [request.work for request in parked]

    values = commit(transaction, [request.work for request in group], waiting)
    for request, value in zip([*group, *parked], values, strict=True):
        request.result = outcome.Value(value)


def _nothing_parked(_: Transaction) -> list[Request]:
    return []


def _withdraw(request: Request) -> None:
    if request.begun.acquire(blocking=False):
        trio.lowlevel.reschedule(request.task, outcome.Value(None))


def _fail(group: Sequence[Request], error: BaseException) -> None:
    for request in group:
        # To each its own: an exception that is raised twice carries both tracebacks.
        request.result = outcome.Error(copy.copy(error))

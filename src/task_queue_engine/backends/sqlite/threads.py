"""Threads that own a connection, and how trio tasks ask them for something."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import apsw
import outcome
import trio

from task_queue_engine.backends.sqlite.failures import translate
from task_queue_engine.errors import BackendUnavailable

T = TypeVar("T")

_GROUP = 64
"""Requests in one transaction, at most: bounds how long the last of them waits."""

_CLOSE_TIMEOUT = 15.0
"""Seconds. A thread that hangs in the file system must not hold the exit of the process."""

_MOVE_COUNTERS = (
    "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = n + excluded.n"
)


class Transaction:
    """What a piece of work gets: the connection, and counters to move.

    Counters are collected and written once per transaction."""

    __slots__ = ("counters", "execute", "executemany")

    def __init__(self, connection: apsw.Connection) -> None:
        # Any: what a column holds is known from the schema, not from apsw's types.
        self.execute: Callable[..., Any] = connection.execute
        self.executemany: Callable[..., Any] = connection.executemany
        self.counters: Counter[str] = Counter()


class _Request:
    __slots__ = ("_decided", "result", "task", "work")

    def __init__(self, work: Callable[[Transaction], Any], task: trio.lowlevel.Task) -> None:
        self.work = work
        self.task = task
        self.result: outcome.Outcome[Any] | None = None
        self._decided = threading.Lock()

    def decide(self) -> bool:
        """True for the first who asks: the thread that takes it up, or the task that is
        cancelled before that. The other leaves it alone."""
        return self._decided.acquire(blocking=False)


class ConnectionThread:
    """One thread, one connection.

    A writer commits whatever requests wait at that moment in one transaction, so that the number
    of fsyncs falls as the load rises. A request can be cancelled until the thread takes it up;
    from then on it is carried out and answered, and the busy timeout bounds how long that takes.
    """

    def __init__(self, connection: apsw.Connection, *, writes: bool, path: str) -> None:
        self._connection = connection
        self._writes = writes
        self._path = path
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._unanswered = 0
        self._closing = False
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(
            target=self._serve, name=f"sqlite-{'writer' if writes else 'reader'}", daemon=True
        )
        self._thread.start()

    @property
    def unanswered(self) -> int:
        """Requests that trio tasks wait for."""
        return self._unanswered

    async def run(self, work: Callable[[Transaction], T]) -> T:
        """`work(transaction)` in the thread; durable when it returns (writer).

        `work` may be run a second time, where the first transaction was rolled back.

        Raises:
            BackendUnavailable, BackendRefused, and what `work` itself raises.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closing:
            raise BackendUnavailable("the backend is not open")
        request = _Request(work, trio.lowlevel.current_task())

        def abort(_: object) -> trio.lowlevel.Abort:
            if request.decide():
                return trio.lowlevel.Abort.SUCCEEDED
            return trio.lowlevel.Abort.FAILED

        self._unanswered += 1
        try:
            self._requests.put(request)
            result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self._unanswered -= 1
        return result

    async def close(self) -> None:
        """Finish what was handed over, then close the connection."""
        self._closing = True
        self._requests.put(None)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join, _CLOSE_TIMEOUT)

    # --- in the thread ----------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            group = self._next_group()
            if group is None:
                break
            taken = [request for request in group if request.decide()]
            if taken:
                self._carry_out(taken)
                try:
                    self._token.run_sync_soon(_answer, taken)
                except trio.RunFinishedError:  # nobody is left to be answered
                    break
        self._connection.close()

    def _next_group(self) -> list[_Request] | None:
        """None when it is time to close."""
        first = self._requests.get()
        if first is None:
            return None
        group = [first]
        # A reader answers one by one: a quick look does not wait for a long list.
        while self._writes and len(group) < _GROUP and not self._requests.empty():
            more = self._requests.get()
            if more is None:
                self._requests.put(None)
                break
            group.append(more)
        return group

    def _carry_out(self, group: list[_Request]) -> None:
        if not self._writes:
            for request in group:
                request.result = self._caught(self._read, request)
            return
        together = self._caught(self._write, group)
        if isinstance(together, outcome.Value):
            for request, value in zip(group, together.value, strict=True):
                request.result = outcome.Value(value)
        elif isinstance(together, outcome.Error) and isinstance(together.error, _LockedOut):
            for request in group:
                request.result = outcome.Error(_LockedOut(*together.error.args))
        elif len(group) == 1:
            group[0].result = together
        else:
            # One of them failed and took the others along: each for itself.
            for request in group:
                alone = self._caught(self._write, [request])
                request.result = (
                    outcome.Value(alone.value[0]) if isinstance(alone, outcome.Value) else alone
                )

    def _read(self, request: _Request) -> Any:
        return request.work(Transaction(self._connection))

    def _write(self, group: list[_Request]) -> list[Any]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError as error:
            raise _LockedOut(f"{self._path} is locked by another process ({error})") from None
        try:
            transaction = Transaction(connection)
            results = [request.work(transaction) for request in group]
            moved = [(name, n) for name, n in transaction.counters.items() if n]
            if moved:
                connection.executemany(_MOVE_COUNTERS, moved)
            connection.execute("COMMIT")
        except BaseException:
            # SQLite itself rolls back on some errors: a full disk, a failed write.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results

    def _caught(self, function: Callable[[Any], Any], argument: Any) -> outcome.Outcome[Any]:
        """Run it; SQLite's errors become ours."""
        try:
            return outcome.Value(function(argument))
        except apsw.Error as error:
            return outcome.Error(translate(error, self._path) or error)
        # Whatever it is belongs to whoever asked; the thread goes on.
        except BaseException as error:  # noqa: BLE001
            return outcome.Error(error)


class _LockedOut(BackendUnavailable):
    """The write lock did not come within the busy timeout: the same answer for the whole group,
    rather than one busy timeout after the other."""


def _answer(group: list[_Request]) -> None:
    for request in group:
        if request.result is not None:  # always set by now
            trio.lowlevel.reschedule(request.task, request.result)

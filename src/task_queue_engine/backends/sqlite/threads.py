"""Threads that own a connection, and how trio tasks ask them for something."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import apsw
import outcome
import trio

from task_queue_engine.errors import BackendRefused, BackendUnavailable

T = TypeVar("T")

_UNAVAILABLE = (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.IOError, apsw.NoMemError)
_HOPELESS = (apsw.CorruptError, apsw.NotADBError)
_GROUP = 64


@dataclass(slots=True, eq=False)
class _Request:
    work: Callable[[Transaction], Any]
    task: trio.lowlevel.Task
    result: outcome.Outcome[Any] | None = None


class Transaction:
    """What a piece of work gets: the connection, and counters to move.

    Counters are collected and written once per transaction."""

    __slots__ = ("counters", "execute", "executemany")

    def __init__(self, connection: apsw.Connection) -> None:
        # Any: what a column holds is known from the schema, not from apsw's types.
        self.execute: Callable[..., Any] = connection.execute
        self.executemany: Callable[..., Any] = connection.executemany
        self.counters: Counter[str] = Counter()


class ConnectionThread:
    """One thread, one connection.

    A writer commits whatever requests wait at that moment in one transaction, so that the number
    of fsyncs falls as the load rises. Work that was handed over is always finished: the trio task
    that asked cannot be cancelled out of it, and the busy timeout bounds how long that takes.
    """

    def __init__(self, connection: apsw.Connection, *, writes: bool, path: str) -> None:
        self._connection = connection
        self._writes = writes
        self._path = path
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(
            target=self._serve, name=f"sqlite-{'writer' if writes else 'reader'}", daemon=True
        )
        self._thread.start()

    async def run(self, work: Callable[[Transaction], T]) -> T:
        """`work(transaction)` in the thread; durable when it returns (writer).

        Raises:
            BackendUnavailable, BackendRefused, and what `work` itself raises.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._requests.put(_Request(work, trio.lowlevel.current_task()))

        def abort(_: object) -> trio.lowlevel.Abort:
            return trio.lowlevel.Abort.FAILED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    async def close(self) -> None:
        """Finish what was handed over, then close the connection."""
        self._requests.put(None)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    def _serve(self) -> None:
        while True:
            group = self._next_group()
            if not group:
                break
            self._carry_out(group)
            self._token.run_sync_soon(_answer, group)
        self._connection.close()

    def _next_group(self) -> list[_Request]:
        """Empty when it is time to close."""
        first = self._requests.get()
        if first is None:
            return []
        group = [first]
        while len(group) < _GROUP and not self._requests.empty():
            more = self._requests.get()
            if more is None:
                self._requests.put(None)
                break
            group.append(more)
        return group

    def _carry_out(self, group: list[_Request]) -> None:
        if not self._writes:
            for request in group:
                request.result = self._translated(self._read, request)
            return
        together = self._translated(self._write, group)
        if isinstance(together, outcome.Value):
            for request, value in zip(group, together.value, strict=True):
                request.result = outcome.Value(value)
        elif len(group) == 1:
            group[0].result = together
        else:
            # One of them failed and took the others along: each for itself.
            for request in group:
                alone = self._translated(self._write, [request])
                request.result = (
                    outcome.Value(alone.value[0]) if isinstance(alone, outcome.Value) else alone
                )

    def _read(self, request: _Request) -> Any:
        return request.work(Transaction(self._connection))

    def _write(self, group: list[_Request]) -> list[Any]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            transaction = Transaction(connection)
            results = [request.work(transaction) for request in group]
            moved = [(name, n) for name, n in transaction.counters.items() if n]
            if moved:
                connection.executemany(
                    "INSERT INTO counters VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET n = n + excluded.n",
                    moved,
                )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results

    def _translated(self, function: Callable[[Any], Any], argument: Any) -> outcome.Outcome[Any]:
        """Run it; SQLite's errors become ours."""
        try:
            return outcome.Value(function(argument))
        except _UNAVAILABLE as error:
            return outcome.Error(BackendUnavailable(f"{self._path}: {error}"))
        except _HOPELESS as error:
            return outcome.Error(BackendRefused(f"{self._path} is damaged: {error}"))
        # Whatever it is belongs to whoever asked; the thread goes on.
        except BaseException as error:  # noqa: BLE001
            return outcome.Error(error)


def _answer(group: list[_Request]) -> None:
    for request in group:
        if request.result is not None:  # always set by now
            trio.lowlevel.reschedule(request.task, request.result)

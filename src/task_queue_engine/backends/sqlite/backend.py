"""The embedded backend: queue and store in one SQLite file, for one machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import apsw
import trio

from task_queue_engine.backends.base import (
    BackendInfo,
    Stranded,
    StrandedKind,
    StrandedPage,
)
from task_queue_engine.backends.cursors import Int64, check_limit, decode_cursor, encode_cursor
from task_queue_engine.backends.sqlite.fairness import YieldToThreads
from task_queue_engine.backends.sqlite.queue import MAX_DELAY, SqliteQueue
from task_queue_engine.backends.sqlite.rows import COLUMNS, NUMBER_OF, to_row, to_us
from task_queue_engine.backends.sqlite.schema import check_path
from task_queue_engine.backends.sqlite.store import MAX_ITEM_BYTES, SqliteStore
from task_queue_engine.backends.sqlite.threads import (
    BUSY_TIMEOUT,
    ReaderThread,
    Transaction,
    WriterThread,
)
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskStatus

__all__ = ["MAX_DELAY", "SqliteBackend"]

_UNFINISHED = (NUMBER_OF[TaskStatus.PENDING], NUMBER_OF[TaskStatus.PROCESSING])
_FROM_THE_BEGINNING = (-1, -(2**63), "")
"""Before every position (status, created_at, id) in the index."""


class SqliteBackend:
    """A queue and a store in one file. Several processes of one machine may share it.

    Args:
        path: the file, made where there is none. Not on a network file system (SQLite, "WAL does
            not work over a network filesystem").
        clock: time of day; None: the machine's.
        max_item_bytes: larger payloads, in bytes of JSON, get the verdict TooLarge.
        busy_timeout: seconds a write waits for one of another process.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        max_item_bytes: int = MAX_ITEM_BYTES,
        busy_timeout: float = BUSY_TIMEOUT,
    ) -> None:
        self._given = str(path)
        # The folder of now: the program may go to another one before it opens this.
        self._path = str(Path(path).absolute())
        self._clock: Clock = clock or SystemClock()
        self._store = SqliteStore(clock=self._clock, max_item_bytes=max_item_bytes)
        self._queues: dict[str, SqliteQueue] = {}
        self._writer: WriterThread | None = None
        self._reader: ReaderThread | None = None
        self._busy_timeout = busy_timeout
        self._fairness: YieldToThreads | None = None
        self._opening = trio.Lock()
        self._times_open = 0

    @property
    def store(self) -> SqliteStore:
        return self._store

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(
            name="sqlite",
            detail=f"{self._path} (SQLite {apsw.sqlite_lib_version()})",
        )

    def queue(self, name: str) -> SqliteQueue:
        if name not in self._queues:
            self._queues[name] = queue = SqliteQueue(name, clock=self._clock)
            queue.attach(self._writer, self._reader)
        return self._queues[name]

    def open(self) -> AbstractAsyncContextManager[None]:
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        async with self._opening:
            if not self._times_open:
                await self._start()
            self._times_open += 1
        try:
            yield
        finally:
            # Not to be cancelled halfway; each step of it has a time limit of its own.
            with trio.CancelScope(shield=True):
                async with self._opening:
                    self._times_open -= 1
                    if not self._times_open:
                        await self._stop()

    async def _start(self) -> None:
        check_path(self._given)
        writer = WriterThread(self._path, name="sqlite-writer", busy_timeout=self._busy_timeout)
        reader = ReaderThread(self._path, name="sqlite-reader", busy_timeout=self._busy_timeout)
        await writer.open()
        try:
            await reader.open()
        except BaseException:
            await writer.close()
            raise
        self._fairness = YieldToThreads(lambda: writer.unanswered + reader.unanswered > 0)
        trio.lowlevel.add_instrument(self._fairness)
        self._attach(writer, reader)

    async def _stop(self) -> None:
        writer, reader, fairness = self._writer, self._reader, self._fairness
        self._attach(None, None)
        # The writer last: closing the last connection moves the WAL into the file.
        for thread in (reader, writer):
            if thread is not None:
                await thread.close()
        if fairness is not None:
            trio.lowlevel.remove_instrument(fairness)

    def _attach(self, writer: WriterThread | None, reader: ReaderThread | None) -> None:
        self._writer, self._reader = writer, reader
        self._store.attach(writer, reader)
        for queue in self._queues.values():
            queue.attach(writer, reader)

    async def ping(self) -> None:
        """Writes a little: finds a full disk, a lock that does not go away, a file that is gone."""
        if self._writer is None:
            raise BackendUnavailable("the backend is not open")
        path = self._path

        def work(transaction: Transaction) -> None:
            if not Path(path).exists():
                raise BackendUnavailable(f"{path} was moved or deleted while it was in use")
            transaction.counters["pings"] += 1

        await self._writer.run(work)

    async def stranded(
        self, queue: str, *, before: datetime, limit: int, cursor: str | None = None
    ) -> StrandedPage:
        check_limit(limit)
        if self._reader is None:
            raise BackendUnavailable("the backend is not open")
        start = (
            _FROM_THE_BEGINNING
            if cursor is None
            else decode_cursor(cursor, "stranded", tuple[Int64, Int64, str])
        )
        return await self._reader.run(lambda t: _stranded(t, queue, before, limit, start))


def _stranded(
    transaction: Transaction, queue: str, before: datetime, limit: int, start: tuple[int, int, str]
) -> StrandedPage:
    """Walk the index of unfinished tasks; every row is one look into the index of messages."""
    rows: list[tuple[Any, ...]] = []
    # One status at a time: only behind an equality does the index find where to go on.
    for status in _UNFINISHED:
        if status < start[0] or len(rows) == limit:
            continue
        after = start[1:] if status == start[0] else _FROM_THE_BEGINNING[1:]
        rows += transaction.execute(
            "SELECT (CASE status WHEN ? "
            "   THEN EXISTS (SELECT 1 FROM messages WHERE messages.id = tasks.message_id) "
            "   ELSE due_at IS NOT NULL OR "
            "        EXISTS (SELECT 1 FROM messages WHERE messages.task_id = tasks.id) END), "
            f"  {COLUMNS} FROM tasks "
            "WHERE status = ? AND (created_at, id) > (?, ?) ORDER BY created_at, id LIMIT ?",
            (NUMBER_OF[TaskStatus.PROCESSING], status, *after, limit - len(rows)),
        ).fetchall()
    before_us = to_us(before)
    found: list[Stranded] = []
    for has_message, *values in rows:
        if has_message or values[1] != queue or values[9] >= before_us:
            continue
        task = to_row(values).task
        running = task.status is TaskStatus.PROCESSING
        found.append(Stranded(task, StrandedKind.ORPHANED if running else StrandedKind.UNSENT))
    if len(rows) < limit:
        return StrandedPage(found=tuple(found), next_cursor=None)
    _, *last = rows[-1]
    position = (last[3], last[8], last[0])
    return StrandedPage(found=tuple(found), next_cursor=encode_cursor("stranded", position))

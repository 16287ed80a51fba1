"""The embedded backend: queue and store in one SQLite file, for one machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path

import apsw

from task_queue_engine.backends.base import (
    BackendInfo,
    Stranded,
    StrandedKind,
    StrandedPage,
)
from task_queue_engine.backends.cursors import Int64, check_limit, decode_cursor, encode_cursor
from task_queue_engine.backends.sqlite.queue import MAX_DELAY, SqliteQueue
from task_queue_engine.backends.sqlite.rows import COLUMNS, NUMBER_OF, to_row, to_us
from task_queue_engine.backends.sqlite.schema import check_path
from task_queue_engine.backends.sqlite.store import MAX_ITEM_BYTES, SqliteStore
from task_queue_engine.backends.sqlite.threads import ReaderThread, Transaction, WriterThread
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskStatus

__all__ = ["MAX_DELAY", "SqliteBackend"]


class SqliteBackend:
    """Args:
    path: the file; made where there is none. Several processes of one machine may share it; a
        network file system must not hold it (SQLite, "WAL does not work over a network").
    clock: time of day; None: the machine's.
    max_item_bytes: larger payloads, in bytes of JSON, get the verdict TooLarge.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        max_item_bytes: int = MAX_ITEM_BYTES,
    ) -> None:
        self._given = str(path)
        # The folder of now: the program may go to another one before it opens this.
        self._path = str(Path(path).absolute())
        self._clock: Clock = clock or SystemClock()
        self._store = SqliteStore(clock=self._clock, max_item_bytes=max_item_bytes)
        self._queues: dict[str, SqliteQueue] = {}
        self._writer: WriterThread | None = None
        self._reader: ReaderThread | None = None

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
        if self._writer is not None:
            raise RuntimeError("this backend is open already")
        check_path(self._given)
        writer = WriterThread(self._path, name="sqlite-writer")
        reader = ReaderThread(self._path, name="sqlite-reader")
        try:
            await writer.open()
            await reader.open()
            self._attach(writer, reader)
            yield
        finally:
            self._attach(None, None)
            # The writer last: closing the last connection moves the WAL into the file.
            await reader.close()
            await writer.close()

    def _attach(self, writer: WriterThread | None, reader: ReaderThread | None) -> None:
        self._writer, self._reader = writer, reader
        self._store.attach(writer, reader)
        for queue in self._queues.values():
            queue.attach(writer, reader)

    async def ping(self) -> None:
        """A write that changes nothing: finds a full disk and a lock that does not go away."""
        if self._writer is None:
            raise BackendUnavailable("the backend is not open")
        await self._writer.run(
            lambda t: t.execute(
                "INSERT INTO counters VALUES ('ping', 1) ON CONFLICT (name) DO UPDATE SET n = n"
            ).fetchall()
        )

    async def stranded(
        self, queue: str, *, before: datetime, limit: int, cursor: str | None = None
    ) -> StrandedPage:
        check_limit(limit)
        if self._reader is None:
            raise BackendUnavailable("the backend is not open")
        start = (
            (-1, 0, "")
            if cursor is None
            else decode_cursor(cursor, "stranded", tuple[Int64, Int64, str])
        )
        return await self._reader.run(lambda t: _stranded(t, queue, before, limit, start))


def _stranded(
    transaction: Transaction, queue: str, before: datetime, limit: int, start: tuple[int, int, str]
) -> StrandedPage:
    """Walk the index of unfinished tasks; every row is one look into the index of messages."""
    rows = transaction.execute(
        f"SELECT (CASE status WHEN ? "
        "   THEN EXISTS (SELECT 1 FROM messages WHERE messages.id = tasks.message_id) "
        "   ELSE due_at IS NOT NULL OR "
        "        EXISTS (SELECT 1 FROM messages WHERE messages.task_id = tasks.id) END), "
        f"  {COLUMNS} FROM tasks "
        "WHERE status IN (?, ?) AND (status, created_at, id) > (?, ?, ?) "
        "ORDER BY status, created_at, id LIMIT ?",
        (
            NUMBER_OF[TaskStatus.PROCESSING],
            NUMBER_OF[TaskStatus.PENDING],
            NUMBER_OF[TaskStatus.PROCESSING],
            *start,
            limit,
        ),
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

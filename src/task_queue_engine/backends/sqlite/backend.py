"""The embedded backend: queue and store in one SQLite file, for one machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import apsw
import trio

from task_queue_engine.backends.base import (
    BackendInfo,
    Heard,
    NewTask,
    StrandedPage,
    SubmitVerdict,
    TaskChange,
)
from task_queue_engine.backends.sqlite.broadcast import Broadcast
from task_queue_engine.backends.sqlite.database_file import DatabaseFile
from task_queue_engine.backends.sqlite.doorbell import Doorbell
from task_queue_engine.backends.sqlite.fairness import YieldToThreads
from task_queue_engine.backends.sqlite.listing import StrandedSearch
from task_queue_engine.backends.sqlite.messages import MAX_DELAY
from task_queue_engine.backends.sqlite.queue import SqliteQueue
from task_queue_engine.backends.sqlite.ringer import Ringer
from task_queue_engine.backends.sqlite.steps import SqliteSteps, submit
from task_queue_engine.backends.sqlite.store import MAX_ITEM_BYTES, SqliteStore
from task_queue_engine.backends.sqlite.threads import BUSY_TIMEOUT, ReaderThread
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.backends.sqlite.workers import SqliteWorkers
from task_queue_engine.backends.sqlite.writer_thread import WriterThread
from task_queue_engine.backends.sqlite_path import check_path
from task_queue_engine.clock import Clock, SystemClock

__all__ = ["MAX_DELAY", "SqliteBackend"]


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
        # The current folder may be another one by the time the backend is opened.
        self._path = str(Path(path).absolute())
        self._clock: Clock = clock or SystemClock()
        self._file = DatabaseFile()
        self._store = SqliteStore(file=self._file, clock=self._clock, max_item_bytes=max_item_bytes)
        self._workers = SqliteWorkers(file=self._file, database=self._path, clock=self._clock)
        self._queues: dict[str, SqliteQueue] = {}
        self._busy_timeout = busy_timeout
        self._doorbell = Doorbell(self._path)
        self._broadcast = Broadcast(
            self._path, doorbell=self._doorbell, is_shared=lambda: self._times_open > 1
        )
        self._ringer: Ringer | None = None
        self._fairness: YieldToThreads | None = None
        self._opening = trio.Lock()
        self._times_open = 0

    @property
    def store(self) -> SqliteStore:
        return self._store

    @property
    def workers(self) -> SqliteWorkers:
        return self._workers

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(
            name="sqlite",
            detail=f"{self._path} (SQLite {apsw.sqlite_lib_version()})",
            actions_first=True,
        )

    def queue(self, name: str) -> SqliteQueue:
        if name not in self._queues:
            self._queues[name] = SqliteQueue(name, file=self._file, clock=self._clock)
        return self._queues[name]

    def steps(self, name: str) -> SqliteSteps:
        return SqliteSteps(queue=self.queue(name), store=self._store, file=self._file)

    async def submit(self, tasks: Sequence[NewTask]) -> list[SubmitVerdict]:
        return await submit(tasks, file=self._file, store=self._store, queue_of=self.queue)

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
        for path in (self._given, self._path):  # the folder it is in may be no UTF-8 either
            check_path(path)
        self._broadcast.open()
        self._ringer = ringer = Ringer(
            self._path,
            own=self._doorbell.own,
            is_shared=lambda: self._times_open > 1,
            on_listeners=self._broadcast.tell_listeners,
        )
        writer = WriterThread(
            self._path, name="sqlite-writer", busy_timeout=self._busy_timeout, ringer=ringer
        )
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
        writer, reader, fairness = self._file.writer, self._file.reader, self._fairness
        self._attach(None, None)
        self._workers.close()
        self._broadcast.close()
        # The writer last: closing the last connection moves the WAL into the file.
        for thread in (reader, writer):
            if thread is not None:
                await thread.close()
        if fairness is not None:
            trio.lowlevel.remove_instrument(fairness)

    def _attach(self, writer: WriterThread | None, reader: ReaderThread | None) -> None:
        self._file.writer, self._file.reader = writer, reader
        for queue in self._queues.values():
            queue.wake()

    async def hear_messages(self, queue: str) -> None:
        await self.queue(queue).listen(self._doorbell)

    async def hear_tasks(
        self, change: TaskChange, heard: Heard, *, hears: Callable[[bool], object]
    ) -> None:
        listen = partial(self._doorbell.listen, change.value, hears=hears)
        if change is TaskChange.CANCEL_ASKED:
            await self._broadcast.hear_of_listeners(heard, listen)
        else:
            await listen(heard)

    def on_listening(self, tell: Callable[[bool], object]) -> Callable[[], None]:
        return self._broadcast.on_listening(tell)

    def broadcast(self, message: bytes) -> None:
        self._broadcast.send(message)

    async def hear_broadcasts(
        self,
        heard: Callable[[Sequence[bytes]], object],
        *,
        missed: Callable[[int | None], object],
        hears: Callable[[bool], object],
    ) -> None:
        await self._broadcast.hear(heard, missed=missed, hears=hears)

    def notes(self) -> tuple[str, ...]:
        troubles = (self._doorbell.trouble, self._ringer.trouble if self._ringer else None)
        return tuple(trouble for trouble in troubles if trouble is not None)

    async def ping(self) -> None:
        """Reads a little; and writes a little where the last write failed, to see whether one goes
        through again: a full disk, a lock that stays. A probe of what is well writes nothing."""
        reader = self._file.reader

        def look(transaction: Transaction) -> None:
            if reader is not None:
                reader.files.check()
            transaction.execute("SELECT 1 FROM counters LIMIT 1").fetchall()

        def write(transaction: Transaction) -> None:
            transaction.counters["pings"] += 1

        await self._file.read(look)
        writer = self._file.writer
        if writer is not None and writer.last_failed:
            await self._file.write(write)

    async def stranded(
        self, queue: str, *, before: datetime, limit: int, cursor: str | None = None
    ) -> StrandedPage:
        search = StrandedSearch(
            queue, now=self._clock.now(), before=before, limit=limit, cursor=cursor
        )
        page, note = await self._file.read(search.run)
        # Before the find is acted upon: what is lost with this process, the next walk finds.
        if note is not None:
            await self._file.write(note)
        return page

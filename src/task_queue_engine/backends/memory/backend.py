"""Queue and store in memory, for one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime

import trio

from task_queue_engine.backends.base import (
    BackendInfo,
    NewTask,
    Steps,
    Stranded,
    StrandedPage,
    SubmitVerdict,
    TwoServices,
    submit_to_two,
)
from task_queue_engine.backends.cursors import Moment, check_limit, decode_cursor, encode_cursor
from task_queue_engine.backends.memory.faults import Faults
from task_queue_engine.backends.memory.queue import MemoryQueue
from task_queue_engine.backends.memory.state import MemoryState, sort_key
from task_queue_engine.backends.memory.steps import MemorySteps, submit
from task_queue_engine.backends.memory.store import MAX_ITEM_BYTES, MemoryStore
from task_queue_engine.backends.memory.workers import MemoryWorkers
from task_queue_engine.clock import Clock, SystemClock


class MemoryBackend:
    """A queue and a store in memory, for one process. Several engines may share it, as several
    processes share a real backend.

    Args:
        clock: what "now" is; the machine's clock where None.
        max_item_bytes: larger payloads (in bytes of JSON) get the verdict TooLarge.
        is_one_transaction: a step is one operation, as on SQLite; else queue and store are as two
            services, and each can fail by itself, as on AWS.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        max_item_bytes: int = MAX_ITEM_BYTES,
        is_one_transaction: bool = False,
    ) -> None:
        self.state = MemoryState(clock or SystemClock(), is_one_transaction)
        self._store = MemoryStore(self.state, max_item_bytes=max_item_bytes)
        self._workers = MemoryWorkers(self.state)
        self._queues: dict[str, MemoryQueue] = {}

    @property
    def is_one_transaction(self) -> bool:
        return self.state.is_one_transaction

    @is_one_transaction.setter
    def is_one_transaction(self, value: bool) -> None:
        self.state.is_one_transaction = value

    @property
    def clock(self) -> Clock:
        return self.state.clock

    @property
    def faults(self) -> Faults:
        return self.state.faults

    @property
    def store(self) -> MemoryStore:
        return self._store

    @property
    def workers(self) -> MemoryWorkers:
        return self._workers

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(
            name="memory",
            detail="this process, nothing is kept",
            actions_first=self.is_one_transaction,
        )

    def queue(self, name: str) -> MemoryQueue:
        if name not in self._queues:
            self._queues[name] = MemoryQueue(name, self.state)
        return self._queues[name]

    def steps(self, name: str) -> Steps:
        queue = self.queue(name)
        if self.is_one_transaction:
            return MemorySteps(queue=queue, store=self._store, state=self.state)
        return TwoServices(queue=queue, store=self._store)

    async def submit(self, tasks: Sequence[NewTask]) -> list[SubmitVerdict]:
        if self.is_one_transaction:
            return await submit(tasks, state=self.state, store=self._store, queue_of=self.queue)
        return await submit_to_two(
            tasks, store=self._store, queue_of=self.queue, clock=self.state.clock
        )

    def open(self) -> AbstractAsyncContextManager[None]:
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        self.state.times_open += 1
        try:
            yield
        finally:
            self.state.times_open -= 1
            for queue in self.state.queues.values():
                queue.changed.set()

    async def ping(self) -> None:
        await self.state.call("ping", lambda: None)

    async def stranded(
        self, queue: str, *, before: datetime, limit: int, cursor: str | None = None
    ) -> StrandedPage:
        def look() -> StrandedPage:
            check_limit(limit)
            after = (
                None if cursor is None else decode_cursor(cursor, "stranded", tuple[Moment, str])
            )
            messages = self.queue(queue)
            waiting = sorted(
                (
                    row
                    for row in self.state.rows.values()
                    if row.task.queue == queue and not row.task.status.is_terminal
                ),
                key=sort_key,
            )
            if after is not None:
                waiting = [row for row in waiting if sort_key(row) > after]
            page = waiting[:limit]
            found = [
                Stranded(row.task, kind)
                for row in page
                if row.task.updated_at < before and (kind := messages.why_stranded(row)) is not None
            ]
            more = len(waiting) > limit
            return StrandedPage(
                found=tuple(found),
                next_cursor=encode_cursor("stranded", sort_key(page[-1])) if more else None,
            )

        return await self.state.call("stranded", look)

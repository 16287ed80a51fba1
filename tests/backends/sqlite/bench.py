"""Steps for tests of the embedded backend: a file, its backend, and what is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from task_queue_engine.backends.base import (
    Counts,
    Created,
    DeadLetter,
    DeadLettering,
    Delivery,
    Done,
    Message,
    NewTask,
    QueueDepth,
    QueueVerdict,
    Stranded,
    TaskQueue,
)
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.backends.sqlite.threads import BUSY_TIMEOUT
from task_queue_engine.clock import ManualClock
from task_queue_engine.lifecycle import (
    AttemptWrite,
    CancelVerdict,
    ClaimRequest,
    ClaimVerdict,
    Complete,
    Fail,
    RecordVerdict,
    ReopenVerdict,
    Started,
)
from task_queue_engine.task import Task, TaskError, new_task_id


class SqliteHarness:
    """Backends on one file in `folder`, on a clock that is moved by hand."""

    lease = 30.0

    def __init__(self, folder: Path, *, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self.clock = ManualClock()
        self._path = folder / "tasks.db"
        self._busy_timeout = busy_timeout

    def make(self) -> SqliteBackend:
        return SqliteBackend(
            self._path,
            clock=self.clock,
            max_item_bytes=10_000,
            busy_timeout=self._busy_timeout,
        )

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


BOOM = TaskError(type="builtins.ValueError", message="boom", traceback="Traceback ...")


class Bench:
    def __init__(self, harness: SqliteHarness, backend: SqliteBackend) -> None:
        self.harness = harness
        self.backend = backend
        self.store = backend.store
        self.queue: TaskQueue = backend.queue("default")
        self.lease = harness.lease

    @property
    def now(self) -> datetime:
        return self.harness.clock.now()

    def in_seconds(self, seconds: float) -> datetime:
        return self.now + timedelta(seconds=seconds)

    async def advance(self, seconds: float) -> None:
        await self.harness.advance(seconds)

    # --- the store --------------------------------------------------------------------------

    def task(self, **fields: Any) -> Task:
        """A task as it is submitted, not stored yet."""
        fields = {
            "id": new_task_id(),
            "type": "demo",
            "payload": {"n": 1},
            "created_at": self.now,
            "updated_at": self.now,
        } | fields
        return Task(**fields)

    async def create(self, *, due_at: datetime | None = None, **fields: Any) -> Task:
        task = self.task(**fields)
        assert await self.store.create([NewTask(task=task, due_at=due_at)]) == [Created()]
        return task

    async def get(self, task: Task) -> Task:
        (found,) = await self.store.get([task.id])
        assert found is not None
        return found

    async def claim(
        self, delivery: Delivery, worker: str = "worker-1", *, task_id: str | None = None
    ) -> ClaimVerdict:
        (verdict,) = await self.store.claim([claim_of(delivery, worker, task_id=task_id)])
        return verdict

    async def record(self, write: AttemptWrite) -> RecordVerdict:
        (verdict,) = await self.store.record([write])
        return verdict

    async def cancel(self, task: Task) -> CancelVerdict:
        (verdict,) = await self.store.cancel([task.id])
        return verdict

    async def reopen(self, task: Task) -> ReopenVerdict:
        (verdict,) = await self.store.reopen([task.id])
        return verdict

    async def counts(self, **expected: int) -> None:
        """Assert the counts; what is not named is 0."""
        assert await self.store.counts() == Counts(**expected)

    # --- the queue --------------------------------------------------------------------------

    async def send(self, *tasks: Task, delay: float = 0.0) -> None:
        verdicts = await self.queue.send([Message(task=task, delay=delay) for task in tasks])
        assert verdicts == [Done()] * len(tasks)

    async def receive(self, count: int = 1, *, lease: float | None = None) -> list[Delivery]:
        """Exactly `count` messages that are visible now."""
        found: list[Delivery] = []
        for _ in range(count + 3):
            if len(found) < count:
                found += await self.queue.receive(
                    count - len(found), wait=0, visibility=lease or self.lease
                )
        assert len(found) == count
        return found

    async def nothing_visible(self) -> bool:
        return await self.queue.receive(10, wait=0, visibility=self.lease) == []

    async def extend(self, delivery: Delivery, seconds: float) -> QueueVerdict:
        (verdict,) = await self.queue.extend([delivery], visibility=seconds)
        return verdict

    async def release(self, delivery: Delivery, delay: float = 0.0) -> QueueVerdict:
        (verdict,) = await self.queue.release([(delivery, delay)])
        return verdict

    async def delete(self, delivery: Delivery) -> QueueVerdict:
        (verdict,) = await self.queue.delete([delivery])
        return verdict

    def dead_letter(self, delivery: Delivery, **fields: Any) -> DeadLettering:
        fields = {
            "reason": "attempts exhausted",
            "task_type": "demo",
            "attempts": 3,
            "error": BOOM,
            "at": self.now,
        } | fields
        return DeadLettering(delivery=delivery, **fields)

    async def move_to_dead_letters(self, delivery: Delivery, **fields: Any) -> QueueVerdict:
        (verdict,) = await self.queue.dead_letter([self.dead_letter(delivery, **fields)])
        return verdict

    async def dead(self) -> list[DeadLetter]:
        """All dead letters, by walking through the pages."""
        found: list[DeadLetter] = []
        cursor = None
        while True:
            page = await self.queue.dead_letters.page(limit=10, cursor=cursor)
            found += page.dead_letters
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def depth(self, **expected: int) -> None:
        """Assert the depth; what is not named is 0."""
        wanted = {"waiting": 0, "in_flight": 0, "dead": 0} | expected
        assert await self.queue.depth() == QueueDepth(**wanted)

    # --- both -------------------------------------------------------------------------------

    async def deliver(self, **fields: Any) -> tuple[Task, Delivery]:
        """A new task, sent and received."""
        task = await self.create(**fields)
        await self.send(task)
        (delivery,) = await self.receive()
        assert delivery.task_id == task.id
        return task, delivery

    async def start(self, **fields: Any) -> tuple[Task, Delivery]:
        """A new task in its first attempt."""
        _, delivery = await self.deliver(**fields)
        verdict = await self.claim(delivery)
        assert isinstance(verdict, Started)
        return verdict.task, delivery

    async def finish(self, **fields: Any) -> Task:
        """A new task that is COMPLETED and whose message is gone."""
        task, delivery = await self.start(**fields)
        await self.record(Complete(task_id=task.id, attempt=task.attempt, result=None))
        assert await self.delete(delivery) == Done()
        return await self.get(task)

    async def fail(self, **fields: Any) -> Task:
        """A new task that is FAILED and whose message is a dead letter."""
        task, delivery = await self.start(**fields)
        await self.record(Fail(task_id=task.id, attempt=task.attempt, error=BOOM))
        assert await self.move_to_dead_letters(delivery) == Done()
        return await self.get(task)

    async def stranded(self, *, limit: int = 100) -> list[Stranded]:
        """All that the backend finds stranded as of now, by walking to the end."""
        found: list[Stranded] = []
        cursor = None
        while True:
            page = await self.backend.stranded(
                self.queue.name, before=self.now, limit=limit, cursor=cursor
            )
            found += page.found
            cursor = page.next_cursor
            if cursor is None:
                return found


def claim_of(
    delivery: Delivery, worker: str = "worker-1", *, task_id: str | None = None
) -> ClaimRequest:
    return ClaimRequest(
        task_id=task_id or delivery.task_id,
        message_id=delivery.message_id,
        receive_count=delivery.receive_count,
        worker=worker,
    )


def ids(items: Sequence[Task | Delivery]) -> list[str]:
    return [item.id if isinstance(item, Task) else item.task_id for item in items]

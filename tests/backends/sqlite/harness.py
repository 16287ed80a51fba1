"""The harness of the conformance suite on a file, with the steps that these tests add."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from task_queue_engine.backends.base import (
    Counts,
    DeadLettering,
    Delivery,
    Done,
    QueueDepth,
    QueueVerdict,
    Stranded,
)
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.backends.sqlite.threads import BUSY_TIMEOUT
from task_queue_engine.clock import ManualClock
from task_queue_engine.lifecycle import (
    AttemptWrite,
    CancelVerdict,
    Fail,
    RecordVerdict,
    ReopenVerdict,
)
from task_queue_engine.task import Task, TaskError
from task_queue_engine.testing.conformance.harness import Harness

BOOM = TaskError(type="builtins.ValueError", message="boom", traceback="Traceback ...")


class SqliteHarness(Harness):
    """The backend is not open yet: the test opens it."""

    def __init__(self, path: Path, *, busy_timeout: float = BUSY_TIMEOUT) -> None:
        clock = ManualClock()

        def make() -> SqliteBackend:
            return SqliteBackend(
                path, clock=clock, max_item_bytes=10_000, busy_timeout=busy_timeout
            )

        super().__init__(make(), clock=clock, make_another=make)

    # --- one item each ----------------------------------------------------------------------

    async def record(self, write: AttemptWrite) -> RecordVerdict:
        (verdict,) = await self.store.record([write])
        return verdict

    async def cancel(self, task: Task) -> CancelVerdict:
        (verdict,) = await self.store.cancel([task.id])
        return verdict

    async def reopen(self, task: Task) -> ReopenVerdict:
        (verdict,) = await self.store.reopen([task.id])
        return verdict

    async def extend(self, delivery: Delivery, seconds: float) -> QueueVerdict:
        (verdict,) = await self.queue.extend([delivery], visibility=seconds)
        return verdict

    async def release(self, delivery: Delivery, delay: float = 0.0) -> QueueVerdict:
        (verdict,) = await self.queue.release([(delivery, delay)])
        return verdict

    async def delete(self, delivery: Delivery) -> QueueVerdict:
        (verdict,) = await self.queue.delete([delivery])
        return verdict

    async def dead_letter(self, delivery: Delivery, **fields: Any) -> QueueVerdict:
        (verdict,) = await self.queue.dead_letter([self.dead_lettering(delivery, **fields)])
        return verdict

    def dead_lettering(self, delivery: Delivery, **fields: Any) -> DeadLettering:
        fields = {
            "reason": "attempts exhausted",
            "task_type": "email",
            "attempts": 3,
            "error": BOOM,
            "at": self.now(),
        } | fields
        return DeadLettering(delivery=delivery, **fields)

    # --- a task's way -----------------------------------------------------------------------

    async def deliver(self, **fields: Any) -> tuple[Task, Delivery]:
        """A new task, sent and received."""
        task = await self.submit(**fields)
        delivery = await self.receive_one()
        assert delivery.task_id == task.id
        return task, delivery

    async def fail(self, **fields: Any) -> Task:
        """A new task that is FAILED and whose message is a dead letter."""
        task, delivery = await self.start(**fields)
        await self.record(Fail(task_id=task.id, attempt=task.attempt, error=BOOM))
        assert await self.dead_letter(delivery) == Done()
        return await self.get(task.id)

    # --- looking ----------------------------------------------------------------------------

    async def counts(self, **expected: int) -> None:
        """Assert the counts; what is not named is 0."""
        assert await self.store.counts() == Counts(**expected)

    async def depth(self, **expected: int) -> None:
        """Assert the depth; what is not named is 0."""
        wanted = {"waiting": 0, "in_flight": 0, "dead": 0} | expected
        assert await self.queue.depth() == QueueDepth(**wanted)

    async def stranded(self, *, before: datetime, limit: int = 100) -> list[Stranded]:
        """All that the backend finds stranded, by walking to the end."""
        found: list[Stranded] = []
        cursor = None
        while True:
            page = await self.backend.stranded(
                self.queue.name, before=before, limit=limit, cursor=cursor
            )
            found += page.found
            cursor = page.next_cursor
            if cursor is None:
                return found

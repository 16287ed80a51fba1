"""The dead-letter queue: what a dead letter says, and how operators get at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from task_queue_engine.backends.base.verdicts import QueueVerdict
from task_queue_engine.lifecycle import BrokerDeadLetter
from task_queue_engine.task import Task, TaskError, TaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message in the dead-letter queue."""

    id: str
    """The dead letter's own id, as `redrive` and `delete` take it."""
    task_id: str
    task_type: str
    reason: str
    error: TaskError | None
    attempts: int
    at: datetime
    receipt: str = ""
    """Where the backend leases dead letters while they are redriven (AWS)."""

    def is_stale(self, task: Task | None) -> bool:
        """Whether its task has been retried since, or has ended otherwise: then it waits for no
        operator. Where a store cannot delete it with the retry it stays until it is redriven, which
        deletes it, or purged.

        Args:
            task: as it is now; None: it has no row, or none any more.
        """
        if task is None:
            return False
        if task.status in (TaskStatus.COMPLETED, TaskStatus.CANCELLED):
            return True
        # Of one that the broker has moved no attempts are known: its task may be yet to fail.
        is_known = self.attempts > 0
        return is_known and (task.status is not TaskStatus.FAILED or task.attempt > self.attempts)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """Some dead letters; `next_cursor` is None on the last page."""

    dead_letters: tuple[DeadLetter, ...]
    """Newest first where the backend has an order."""
    next_cursor: str | None


class DeadLetterQueue(Protocol):
    """The dead letters of one queue, for the operator and for the reconciler.

    Redriving is done by the engine, which first reopens the tasks in the store, then sends, then
    deletes the dead letters.
    """

    async def page(self, *, limit: int, cursor: str | None = None) -> DeadLetterPage:
        """Raises InvalidQuery for a cursor that is not one of its own."""
        ...

    async def take(self, *, limit: int, ids: Sequence[str] | None = None) -> list[DeadLetter]:
        """Up to `limit` dead letters (those with these ids), for redriving. The same ones may be
        taken again until they are deleted."""
        ...

    async def delete(self, dead_letters: Sequence[DeadLetter]) -> list[QueueVerdict]:
        """LeaseLost for those that are gone already, where the backend can tell."""
        ...

    async def purge(self) -> int:
        """Delete all dead letters; returns how many (approximate where depth is)."""
        ...

    async def moved_by_broker(self) -> Sequence[BrokerDeadLetter]:
        """Dead letters that no engine wrote: the broker itself moved the messages here, because
        they were received too often. As of the last look, which a call repeats where something may
        have changed; they stay where they are. Empty where a broker does no such thing."""
        ...

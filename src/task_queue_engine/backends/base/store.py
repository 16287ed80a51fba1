"""The store: the rows of all tasks, changed by conditional writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Protocol

import msgspec

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base.verdicts import CreateVerdict, TryAgain
from task_queue_engine.lifecycle import (
    AttemptWrite,
    BrokerDeadLetter,
    CancelVerdict,
    ClaimRequest,
    ClaimVerdict,
    DeleteVerdict,
    PendingFailure,
    RecordVerdict,
    ReopenVerdict,
)
from task_queue_engine.limits import DEFAULT_PAGE
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_filter import TaskFilter


# A Struct, like `Message`, since one is made of every task submitted: 0.15 us, where a frozen
# dataclass takes 0.76.
class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """To be created, PENDING."""

    task: Task
    payload_json: bytes = b""
    """The payload, encoded: made once and carried along. From `task` where it is not given."""
    due_at: datetime | None = None
    """Set: no message will be sent now; the scheduler sends one at this time."""

    def __post_init__(self) -> None:
        if not self.payload_json:
            encoded = msgspec.json.encode(self.task.payload)
            msgspec.structs.force_setattr(self, "payload_json", encoded)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery(TaskFilter):
    """Newest first, by (created_at, id); by id alone, the highest first, where the beginning of an
    id is given: it is that of the time for all but those of idempotency keys."""

    among: frozenset[TaskStatus] | None = None
    """In one of these; for an action, which is for several."""
    limit: int = DEFAULT_PAGE
    cursor: str | None = None

    @property
    def statuses(self) -> list[TaskStatus]:
        """Those that a task may be in to be listed."""
        return [
            status
            for status in TaskStatus
            if self.status in (None, status) and (self.among is None or status in self.among)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """Some tasks; `next_cursor` is None on the last page. A page may be short, or empty, and have
    one all the same: a look is bounded, however few tasks pass its filter."""

    tasks: tuple[Task, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCount:
    """So many were counted; `next_cursor` is where to go on, None at the end."""

    number: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Tasks in the store, by status. Kept by every write, read in O(1)."""

    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        return self.pending + self.processing + self.completed + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class DueTask:
    """A task whose time has come, and the mark that says so."""

    task: Task
    due_at: datetime


@dataclass(frozen=True, slots=True)
class DueChange:
    """Move a task's due mark, if it is still the one that was read."""

    task_id: str
    expected: datetime | None
    """The mark as it was read; None: the task has none."""
    due_at: datetime | None
    """The mark to set; None: clear it."""


class StrandedKind(Enum):
    """Why nothing will bring a task on."""

    UNSENT = auto()
    """PENDING, not scheduled, and no message exists."""
    ORPHANED = auto()
    """PROCESSING, and no message exists that could bring it back."""


@dataclass(frozen=True, slots=True)
class Stranded:
    """One task that nothing will bring on."""

    task: Task
    kind: StrandedKind


@dataclass(frozen=True, slots=True, kw_only=True)
class StrandedPage:
    """What a piece of the scan has found."""

    found: tuple[Stranded, ...]
    next_cursor: str | None
    """None when the scan has come to its end."""


class TaskStore(Protocol):
    """The rows. Every write is conditional, as in `lifecycle`."""

    @property
    def max_batch(self) -> int:
        """Items per call the backend takes at its best; callers never pass more."""
        ...

    async def create(self, tasks: Sequence[NewTask]) -> list[CreateVerdict]:
        """Insert rows whose ids are not there yet; never changes one that is."""
        ...

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        """In the order asked for, None for unknown ids. Sees every write answered before."""
        ...

    async def history(self, task_id: str) -> AttemptHistory | None:
        """The task's attempts, None for an unknown id: see `lifecycle.history`. One look, by the
        task's id; it sees every write answered before."""
        ...

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        """Raises InvalidQuery for a cursor that is not one of its own, and for a filter that this
        store cannot go by, naming it. Whatever the filter, a call does a bounded amount of
        work."""
        ...

    async def count_tasks(self, query: ListQuery) -> TaskCount:
        """How many tasks pass, `limit` at most, or fewer with a cursor: for counting a filter's
        tasks piece by piece, without reading them whole. Its cursors are not those of
        `list_tasks`."""
        ...

    async def counts(self) -> Counts:
        """Of all queues. Never counts: O(1)."""
        ...

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[ClaimVerdict]:
        """Just before the start: see `lifecycle.decide_claim`.

        A call that raised may have taken effect. Made again, it meets its own work: an attempt
        that looks like one running elsewhere (DuplicateDelivery), or a task that has just failed
        (Finished(FAILED)). The caller recognises what is its own, by its worker's name and by which
        attempts it holds (`actors/claimer.py`). A store may also remember what it left unanswered,
        and answer the repeated call as it would have answered the first (DynamoDB does: its
        counters count a write in the call that hears of it); no caller may rely on that.
        """
        ...

    async def record(self, writes: Sequence[AttemptWrite]) -> Sequence[RecordVerdict | TryAgain]:
        """See `lifecycle.decide_record`. Several writes of one attempt in a batch take effect in
        their order; the same write again, after an answer was lost, is answered the same.
        `TryAgain`: this one and what follows it of its attempt are not known to be written; it
        raises BackendUnavailable where that is so of all."""
        ...

    async def cancel(self, task_ids: Sequence[str]) -> list[CancelVerdict]:
        """See `lifecycle.decide_cancel`."""
        ...

    async def cancel_requested(self, task_ids: Sequence[str]) -> list[bool]:
        """Which of these (running) tasks are to be cancelled. A cheap read: it is made every second
        or so for every attempt that is held."""
        ...

    async def reopen(self, task_ids: Sequence[str]) -> list[ReopenVerdict]:
        """For a retry or redrive that an operator asks for: see `lifecycle.decide_reopen`. The dead
        letters of what it reopens go with it where the store has them: a task that waits or runs
        has none. Where queue and store are two services they stay (`DeadLetter.is_stale`)."""
        ...

    async def delete(self, task_ids: Sequence[str]) -> list[DeleteVerdict]:
        """Tasks that have ended, for good, with what is kept beside them: see
        `lifecycle.decide_delete`. Their messages and dead letters go too where the store has them;
        where it does not, a task is kept for as long as one could come."""
        ...

    async def due(self, queue: str, *, before: datetime, limit: int) -> list[DueTask]:
        """PENDING tasks of this queue whose `due_at` is at or before `before`, earliest first.
        Those of other queues never stand in the way, however many are overdue."""
        ...

    async def schedule(self, items: Sequence[tuple[str, datetime]]) -> None:
        """Set `due_at` of tasks that are PENDING; others are left alone. Clearing a mark takes
        `change_due`, which cannot wipe out a newer one."""
        ...

    async def change_due(self, items: Sequence[DueChange]) -> list[bool]:
        """Compare and set: whether each has taken effect. It does on a PENDING task whose mark is
        the expected one, so of several engines that change the same mark one succeeds. A call that
        raised may have taken effect; made again, it answers False then."""
        ...

    async def fail_pending(self, items: Sequence[PendingFailure]) -> list[RecordVerdict]:
        """End tasks that wait and can never start; see `lifecycle.decide_fail_pending`."""
        ...

    async def reclaim(self, items: Sequence[tuple[str, int]]) -> list[RecordVerdict]:
        """(task id, attempt) pairs of orphaned attempts; see `lifecycle.decide_reclaim`."""
        ...

    async def fail_dead_lettered(self, items: Sequence[BrokerDeadLetter]) -> list[RecordVerdict]:
        """End tasks whose message the broker has dead-lettered by itself; see
        `lifecycle.decide_fail_dead_lettered`."""
        ...

    async def expire(self, *, finished_before: datetime, limit: int) -> int:
        """Delete up to `limit` tasks that ended before this, with their dead letters where the
        backend can find these (on SQS it cannot: there a FAILED task is kept for as long as a dead
        letter can be); returns how many."""
        ...

"""The contract between the engine and a backend: a queue of messages and a store of tasks.

Everything works in batches and answers per item, in the order asked: one bad item never fails its
neighbours. A call that fails as a whole raises `BackendUnavailable` (expected, try again) or
`BackendRefused` (hopeless); then nothing is known about any of its items, and all of these
operations may safely be repeated.

Cancellation: a call is cancellable while it waits. A write once begun is either finished or never
happened, and `receive` never loses a message it took: it raises `Cancelled` having taken nothing,
or returns.

The rules of the store are those of `task_queue_engine.lifecycle`. `tests/conformance` holds every
backend to this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Protocol, runtime_checkable

from task_queue_engine.lifecycle import (
    AttemptWrite,
    BrokerDeadLetter,
    CancelVerdict,
    ClaimRequest,
    ClaimVerdict,
    Receive,
    RecordVerdict,
    ReopenVerdict,
)
from task_queue_engine.task import Task, TaskError, TaskStatus

# --- queue ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """To be sent: one task, visible after `delay` seconds (0 to the queue's `max_delay`)."""

    task: Task
    delay: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Received, invisible to others until its lease (visibility timeout) ends."""

    task_id: str
    message_id: str
    """The same at every delivery of this message."""
    receipt: str
    """Of this one delivery; what deletes and extends it."""
    receive_count: int
    """How often this message was received, this time included."""
    copy_of: tuple[Receive, ...] = ()
    """Where the backend gives a message back as a fresh copy: what it was a copy of."""
    body: bytes = b""
    """The task's JSON where the backend carries it in the message (AWS); else empty."""
    task_type: str = ""
    """What that JSON names as the task's type; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Done:
    """The item was carried out."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The receipt is stale: the message is somebody else's by now, or gone."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """This item failed for a passing reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """This item can never succeed (too large, malformed)."""

    reason: str


QueueVerdict = Done | LeaseLost | TryAgain | Rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettering:
    """Move this delivery to the dead-letter queue, saying why."""

    delivery: Delivery
    reason: str
    """One line for people: "attempts exhausted", "no such task in the store", ..."""
    task_type: str = ""
    attempts: int = 0
    error: TaskError | None = None
    at: datetime


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """Some dead letters; `next_cursor` is None on the last page."""

    letters: tuple[DeadLetter, ...]
    """Newest first where the backend has an order."""
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """Messages, by what they wait for. Read in O(1); approximate where the backend's is."""

    waiting: int
    """Visible or delayed: not with any worker."""
    in_flight: int
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCapabilities:
    """How a broker differs from a plain queue, where its callers have to do something about it."""

    poll_outlives_cancel: bool = False
    """Cancelling a `receive` that waits does not end it where messages are handed out: for the rest
    of its wait it takes what becomes visible, and no receiver gets that until its lease ends. A
    caller that can wait lets the poll come to its end and gives back what it brings. (SQS answers
    a long poll whose connection is gone.)"""
    settle_linger: float = 0.0
    """Seconds for which settling a message may wait for others, where each request costs money
    and no caller waits for it. The lease is kept meanwhile."""


class TaskQueue(Protocol):
    """One named queue."""

    @property
    def name(self) -> str: ...

    @property
    def max_batch(self) -> int:
        """Items per call the backend takes at its best; callers never pass more."""
        ...

    @property
    def max_delay(self) -> float:
        """The longest `delay` of `send` and `release`, in seconds; longer waits live in the
        store (SQS: 900)."""
        ...

    @property
    def capabilities(self) -> QueueCapabilities: ...

    @property
    def dead_letters(self) -> DeadLetterQueue:
        """Where `dead_letter` moves messages to."""
        ...

    async def send(self, messages: Sequence[Message]) -> list[QueueVerdict]:
        """Durable once answered Done, each with a message id never used before. Rejected: it can
        never be sent."""
        ...

    async def receive(self, max_messages: int, *, wait: float, visibility: float) -> list[Delivery]:
        """Take up to `max_messages`, leased for `visibility` seconds.

        Returns at once when something is visible, after at most `wait` seconds with an empty list
        when not. Any waiting is cancellable; what was taken is always returned.
        """
        ...

    async def extend(
        self, deliveries: Sequence[Delivery], *, visibility: float
    ) -> list[QueueVerdict]:
        """Renew leases: invisible for `visibility` seconds from now."""
        ...

    async def release(self, items: Sequence[tuple[Delivery, float]]) -> list[QueueVerdict]:
        """Give messages back, each to be received again after its delay in seconds
        (0 to `max_delay`)."""
        ...

    async def delete(self, deliveries: Sequence[Delivery]) -> list[QueueVerdict]:
        """Done with these messages. What somebody else holds by now is never deleted; LeaseLost
        says so where the backend can tell."""
        ...

    async def dead_letter(self, items: Sequence[DeadLettering]) -> list[QueueVerdict]:
        """Move messages to the dead-letter queue: never gone from both queues, whatever fails."""
        ...

    async def depth(self) -> QueueDepth:
        """Never counts: O(1)."""
        ...


class DeadLetterQueue(Protocol):
    """The dead letters of one queue, for people and for the reconciler.

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


# --- store ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """To be created, PENDING."""

    task: Task
    due_at: datetime | None = None
    """Set: no message will be sent now; the scheduler sends one at this time."""


@dataclass(frozen=True, slots=True)
class Created:
    """The row is durable."""


@dataclass(frozen=True, slots=True)
class AlreadyExists:
    """A task with this id was there before: an idempotency key used twice, or our own write whose
    answer was lost. The row is unchanged."""

    task: Task


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The item is over the backend's limit, in bytes; not stored."""

    size: int
    limit: int


CreateVerdict = Created | AlreadyExists | TooLarge | TryAgain


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Newest first, by (created_at, id)."""

    status: TaskStatus | None = None
    type: str | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """Some tasks; `next_cursor` is None on the last page."""

    tasks: tuple[Task, ...]
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

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        """Raises InvalidQuery for a cursor that is not one of its own."""
        ...

    async def counts(self) -> Counts:
        """Of all queues. Never counts: O(1)."""
        ...

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[ClaimVerdict]:
        """Just before the start: see `lifecycle.decide_claim`."""
        ...

    async def record(self, writes: Sequence[AttemptWrite]) -> list[RecordVerdict]:
        """See `lifecycle.decide_record`. Several writes of one attempt in a batch take effect in
        their order; the same write again, after an answer was lost, is answered the same."""
        ...

    async def cancel(self, task_ids: Sequence[str]) -> list[CancelVerdict]:
        """See `lifecycle.decide_cancel`."""
        ...

    async def cancel_requested(self, task_ids: Sequence[str]) -> list[bool]:
        """Which of these (running) tasks somebody has asked to cancel. A cheap read: it is made
        every second or so for everything in hand."""
        ...

    async def reopen(self, task_ids: Sequence[str]) -> list[ReopenVerdict]:
        """For an explicit retry by a person: see `lifecycle.decide_reopen`."""
        ...

    async def due(self, *, before: datetime, limit: int) -> list[Task]:
        """PENDING tasks whose `due_at` is at or before `before`, earliest first."""
        ...

    async def schedule(self, items: Sequence[tuple[str, datetime | None]]) -> None:
        """Set (or with None clear) `due_at` of tasks that are PENDING; others are left alone."""
        ...

    async def reclaim(self, items: Sequence[tuple[str, int]]) -> list[RecordVerdict]:
        """(task id, attempt) pairs of orphaned attempts; see `lifecycle.decide_reclaim`."""
        ...

    async def fail_dead_lettered(self, items: Sequence[BrokerDeadLetter]) -> list[RecordVerdict]:
        """End tasks whose message the broker has dead-lettered by itself; see
        `lifecycle.decide_fail_dead_lettered`."""
        ...

    async def expire(self, *, finished_before: datetime, limit: int) -> int:
        """Delete up to `limit` tasks that ended before this; returns how many."""
        ...


# --- both -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """For the log."""

    name: str
    detail: str
    """Where it lives: a file, a queue URL and a table."""
    limits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationUsage:
    """One kind of request to a billed service, since the backend was made."""

    service: str
    """ "sqs", "dynamodb"."""
    operation: str
    """The service's own name for it, "SendMessageBatch"."""
    requests: int = 0
    """Sent, every retry and every empty poll counted."""
    retries: int = 0
    throttles: int = 0
    """Answers that said: too fast."""
    failures: int = 0
    """Calls that ended in an error, after the retries if there were any."""
    read_units: float = 0.0
    """As far as the service reports them."""
    write_units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUsage:
    """What one of the store's methods has cost."""

    step: str
    """ "create", "claim", "record", ..."""
    requests: float = 0.0
    """Calls: their retries are in `OperationUsage`."""
    read_units: float = 0.0
    write_units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTypeUsage:
    """What tasks of one type have cost of one service. A request that served several tasks is
    shared evenly among them; what served none (empty polls, gauges, retries) is nobody's."""

    service: str
    task_type: str
    requests: float = 0.0
    read_units: float = 0.0
    write_units: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendUsage:
    """What a backend that is billed by the request has asked for, since it was made, in this
    process."""

    operations: tuple[OperationUsage, ...] = ()
    steps: tuple[StepUsage, ...] = ()
    task_types: tuple[TaskTypeUsage, ...] = ()


class Backend(Protocol):
    """A queue and a store that belong together. See `MeteredBackend` for what it may do besides."""

    @property
    def store(self) -> TaskStore: ...

    @property
    def info(self) -> BackendInfo: ...

    def queue(self, name: str) -> TaskQueue:
        """The queue of this name; the same object at every call."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Connect, check, start what has to run; undo all of it on exit. Raises BackendRefused
        when it cannot be used at all. Opening a second time after closing is allowed."""
        ...

    async def ping(self) -> None:
        """Fit to serve? Raises BackendUnavailable with the reason when not."""
        ...

    async def stranded(
        self, queue: str, *, before: datetime, limit: int, cursor: str | None = None
    ) -> StrandedPage:
        """Look through tasks of this queue not updated since `before` for those that nothing will
        ever bring on. Reads at most about `limit` rows a call; the cursor walks on from there, so
        that a long backlog costs a bounded piece per call. May find a task that is not stranded
        (its message was just received): what the engine does about it must be harmless."""
        ...


@runtime_checkable
class MeteredBackend(Protocol):
    """What a backend that costs money by the request offers besides; others have no such member."""

    def usage(self) -> BackendUsage:
        """From memory, at no cost; before and after `open` too."""
        ...

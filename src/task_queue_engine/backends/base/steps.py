"""The steps of a task's way: what queue and store do together.

Where both are one file (or one memory) a step is one transaction, and no process can die between
its halves. `TwoServices` makes the steps of a queue and a store that know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import msgspec

from task_queue_engine._version import __version__
from task_queue_engine.backends.base.queue import DeadLettering, Delivery, Message, TaskQueue
from task_queue_engine.backends.base.store import NewTask, TaskStore
from task_queue_engine.backends.base.verdicts import (
    Created,
    CreateVerdict,
    QueueVerdict,
    Rejected,
    TryAgain,
)
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Recorded,
    RecordVerdict,
    Started,
    delay_until,
)
from task_queue_engine.task import Task, TaskStatus

if TYPE_CHECKING:  # with it comes trio, which a client may be without
    from task_queue_engine.clock import Clock

# --- submit ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unsent:
    """The row is durable; its message could not be sent, for a reason that passes."""

    reason: str


SubmitVerdict = CreateVerdict | Unsent | Rejected
"""`Created`: row and message are durable (where `due_at` is set: the row). `Rejected`: the row is,
and the queue refuses its message for good."""

# --- take -----------------------------------------------------------------------------------


# Structs, like `Message`, where one is made of every task.
class TakePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What may be claimed together with its receive."""

    worker: str
    version: str = __version__
    """Of this package, in the process that asks."""
    free: int
    """Workers that are free: so many are taken, of any type that has a place."""
    ahead: int = 0
    """So many more, of `ahead_types` alone, are claimed before a worker is free for them."""
    types: Mapping[str, Hashable] = {}
    """What may be claimed: by task type, where its handler runs."""
    ahead_types: frozenset[str] = frozenset()
    places: Mapping[Hashable, int] = {}
    """So many handlers may still start there; where it says nothing, any number."""

    @property
    def most(self) -> int:
        return self.free + self.ahead

    @property
    def without_place(self) -> frozenset[str]:
        """Types whose handlers cannot start before another has ended."""
        full = {where for where, number in self.places.items() if number <= 0}
        return frozenset(name for name, where in self.types.items() if where in full)


class Taken(msgspec.Struct, frozen=True):
    """Received and leased."""

    delivery: Delivery
    started: Started | None = None
    """It was claimed in the same step; None: it is to be claimed, or given back."""
    ahead: bool = False
    """It was claimed before a worker was free for it."""


# --- finish ---------------------------------------------------------------------------------


class GiveBack(msgspec.Struct, frozen=True):
    """The message is to be received again, after so many seconds."""

    delay: float = 0.0


class Finish(msgspec.Struct, frozen=True):
    """What an attempt came to, and what becomes of its message."""

    write: AttemptWrite
    delivery: Delivery
    then: GiveBack | DeadLettering | None
    """Where the task waits again or has FAILED; None: the message is deleted."""


class Finished(msgspec.Struct, frozen=True):
    """`settled` is None where the message was left: the write was fenced or is to be tried again,
    the attempt goes on, or settling is a step of its own here."""

    recorded: RecordVerdict | TryAgain
    settled: QueueVerdict | None = None


def is_settled_by(recorded: RecordVerdict | TryAgain) -> bool:
    """Whether the message of an attempt is to be settled after this."""
    return isinstance(recorded, Recorded) and recorded.status is not TaskStatus.PROCESSING


def then_after(
    recorded: Recorded, then: GiveBack | DeadLettering | None
) -> GiveBack | DeadLettering | None:
    """What becomes of the message: a cancel request may have intervened."""
    return None if recorded.status in (TaskStatus.CANCELLED, TaskStatus.COMPLETED) else then


class Steps(Protocol):
    """The steps on one queue's tasks; one verdict an item, in their order."""

    @property
    def is_one_transaction(self) -> bool:
        """A step that raised has had no effect, `take` claims, and `finish` settles."""
        ...

    @property
    def max_batch(self) -> int:
        """Items per call the backend takes at its best; callers never pass more."""
        ...

    async def take(self, plan: TakePlan, *, wait: float, visibility: float) -> list[Taken]:
        """As `TaskQueue.receive`, of at most `plan.most`, at most `max_batch`; and, where it can be
        done in one transaction, claim what the plan allows: a task that is PENDING and due, by the
        first receive of its message, as `lifecycle.decide_claim` would. Everything else is leased
        and left to be claimed, since it may be held right here.

        A queue that is one transaction with the store chooses what it takes. Messages of types that
        have no place (`TakePlan.places`) are left where they are, and those behind them are taken,
        however many they pass. What has a place, and neither a free worker nor the claim ahead, is
        left with all behind it: with nothing before it, the answer is an empty list at once.

        It takes an action on many tasks (`task_actions.ACTION_TYPE`, where the plan has it) before
        all else within a second: what it is to stop may be all that waits."""
        ...

    async def finish(self, items: Sequence[Finish]) -> list[Finished]:
        """As `TaskStore.record`, and settle the messages of what was recorded."""
        ...


# Messages of one receive where the queue has just been found empty, or nearly: what SQS brings in
# one request.
_FIRST_REACH = 10


class TwoServices:
    """Steps of a queue and a store that are two services: the first half of each, so that the
    caller carries out the second when the first is durable.

    Status before settlement: `finish` records, and leaves every message. `take` receives, and asks
    for twice as many where as many came as it had asked for: looks of which most find nothing cost
    as much as those that find ten.
    """

    is_one_transaction = False

    def __init__(self, *, queue: TaskQueue, store: TaskStore) -> None:
        self._queue = queue
        self._store = store
        self._reach = _FIRST_REACH

    @property
    def max_batch(self) -> int:
        return self._store.max_batch

    async def take(self, plan: TakePlan, *, wait: float, visibility: float) -> list[Taken]:
        most = min(plan.most, self._queue.max_batch, self._reach)
        deliveries = await self._queue.receive(most, wait=wait, visibility=visibility)
        if len(deliveries) < most:
            self._reach = max(_FIRST_REACH, len(deliveries))
        elif most == self._reach:
            self._reach = min(2 * most, self._queue.max_batch)
        return [Taken(delivery) for delivery in deliveries]

    async def finish(self, items: Sequence[Finish]) -> list[Finished]:
        recorded = await self._store.record([item.write for item in items])
        return list(map(Finished, recorded))


async def submit_to_two(
    tasks: Sequence[NewTask],
    *,
    store: TaskStore,
    queue_of: Callable[[str], TaskQueue],
    clock: Clock,
) -> list[SubmitVerdict]:
    """`Backend.submit` where queue and store are two services: the row first, then the message."""
    verdicts: list[SubmitVerdict] = [*await store.create(tasks)]
    to_send: dict[str, list[int]] = {}
    for index, (new, verdict) in enumerate(zip(tasks, verdicts, strict=True)):
        if isinstance(verdict, Created) and new.due_at is None:
            to_send.setdefault(new.task.queue, []).append(index)
    for name, indexes in to_send.items():
        queue = queue_of(name)
        for start in range(0, len(indexes), queue.max_batch):
            part = indexes[start : start + queue.max_batch]
            now = clock.now()
            messages = [message_of(tasks[index], now, queue.max_delay) for index in part]
            try:
                sent: Sequence[QueueVerdict] = await queue.send(messages)
            except BackendUnavailable as error:
                sent = [TryAgain(str(error))] * len(part)
            for index, answer in zip(part, sent, strict=True):
                if isinstance(answer, TryAgain):
                    verdicts[index] = Unsent(answer.reason)
                elif isinstance(answer, Rejected):
                    verdicts[index] = answer
    return verdicts


def message_of(each: Task | NewTask, now: datetime, max_delay: float) -> Message:
    """The message that brings a task on, with what is left of its delay. That may be more than the
    queue holds, where a clock was set back or the message got lost: the claim looks at `run_at`
    again."""
    task, payload_json = (
        (each.task, each.payload_json) if isinstance(each, NewTask) else (each, None)
    )
    delay = min(delay_until(task.run_at, now), max_delay)
    return Message(task=task, payload_json=payload_json, delay=delay)

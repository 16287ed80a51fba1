"""The queue: messages that name a task, each leased to one receiver at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import msgspec

from task_queue_engine.backends.base.dead_letters import DeadLetterQueue
from task_queue_engine.backends.base.verdicts import QueueVerdict, TooLarge
from task_queue_engine.lifecycle import Receive
from task_queue_engine.task import Task, TaskError
from task_queue_engine.trace_context import TraceContext


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """To be sent: one task, visible after `delay` seconds (0 to the queue's `max_delay`)."""

    task: Task
    payload_json: bytes | None = None
    """The task's payload, encoded; None where the sender has the task from the store."""
    delay: float = 0.0


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
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
    """The task's type; empty where the queue cannot say. The row is what counts: this is for
    workers to see what they cannot run before they claim it."""
    payload_json: bytes = b""
    """The task's payload, encoded; likewise."""
    trace_context: TraceContext | None = None
    """As the message's own attributes have it (AWS); the row's stands before it."""
    is_worn: bool = False
    """Received so often that the broker is about to dead-letter it by itself. It is to be given
    back, as a fresh copy, and not to be claimed."""

    @property
    def receives(self) -> int:
        """How often it was received, those that it is a copy of included."""
        return self.receive_count + sum(earlier.count for earlier in self.copy_of)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettering:
    """Move this delivery to the dead-letter queue, saying why."""

    delivery: Delivery
    reason: str
    """One line, for the operator: "attempts exhausted", "no such task in the store", ..."""
    task_type: str = ""
    attempts: int = 0
    error: TaskError | None = None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """Messages of one queue, by what they wait for. Read in O(1); approximate where the backend's
    is.

    A task that waits longer than `TaskQueue.max_delay` has no message until half a minute before
    its time: it is in `Counts.pending` only.
    """

    waiting: int
    """Visible or delayed: not with any worker."""
    in_flight: int
    """With a worker: received, and neither deleted nor given back."""
    dead: int
    """In the dead-letter queue."""
    delayed: int = field(default=0, compare=False)
    """Those of `waiting` whose time is still to come; the others are due now. The clock changes it
    and no operation does, so it takes no part in comparisons."""
    oldest_age: float | None = field(default=None, compare=False)
    """Seconds for which the one that has waited longest has been due, a lapsed lease counted from
    its end; 0.0 where none is due. None: the queue cannot say (SQS)."""

    @property
    def due(self) -> int:
        """Those of `waiting` that a worker would get now."""
        return max(0, self.waiting - self.delayed)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCapabilities:
    """How a broker differs from a plain queue, where its callers have to do something about it."""

    poll_outlives_cancel: bool = False
    """A `receive` that is cancelled while it waits goes on at the broker: for the rest of its wait
    it takes messages that become visible, and no receiver gets those until their lease ends. A
    caller that can wait lets the poll come to its end and gives back what it brings. (SQS answers a
    long poll whose connection is gone.)"""
    max_hold: float = math.inf
    """Seconds from its receive after which a message is received again, however often its lease was
    renewed (SQS: 12 hours)."""
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

    def too_large(self, message: Message) -> TooLarge | None:
        """Whether this message, or a later one of the same task, would be over the queue's limit:
        to be asked before the task is stored. Answered from memory. What it says so of is not
        sent; what it does not say so of never outgrows the limit."""
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
        """Done with these messages. One that another receiver holds by now is never deleted;
        LeaseLost says so where the backend can tell."""
        ...

    async def dead_letter(self, items: Sequence[DeadLettering]) -> list[QueueVerdict]:
        """Move messages to the dead-letter queue: never gone from both queues, whatever fails."""
        ...

    async def depth(self) -> QueueDepth:
        """Never counts: O(1)."""
        ...

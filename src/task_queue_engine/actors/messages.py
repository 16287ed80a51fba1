"""What travels through the channels between actors: frozen, typed, and closed unions.

The one mutable thing is an `Attempt`'s cancel scope: the handle by which the lease keeper, a
person or a shutdown stops a run that is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import trio

from task_queue_engine.backends.base import CreateVerdict, Delivery, NewTask
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.retry import Decision
from task_queue_engine.task import Task, TaskError

# --- in hand: leases and attempts -----------------------------------------------------------


class AbortReason(StrEnum):
    CANCELLED = "cancelled"
    LEASE_LOST = "lease lost"
    SHUTDOWN = "shutdown"


@dataclass(slots=True, eq=False)
class Lease:
    """One delivery in our hands, from receive to ack. `expires_at` is on trio's clock; only the
    lease keeper moves it."""

    delivery: Delivery
    expires_at: float
    attempt: Attempt | None = None
    lost: bool = False
    cancel_asked: bool = False
    """Somebody cancelled the task while its claim was under way: it is not to start."""
    settling: bool = False
    """The acker is at it: a stale receipt no longer means that the lease was lost."""

    def lose(self) -> None:
        self.lost = True
        if self.attempt is not None:
            self.attempt.abort(AbortReason.LEASE_LOST)


@dataclass(slots=True, eq=False)
class Attempt:
    """A claimed task on its way to, or in the hands of, a worker."""

    task: Task
    lease: Lease
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Entered by the worker around the handler, and by nobody else."""
    abort_reason: AbortReason | None = None

    def abort(self, reason: AbortReason) -> None:
        """Stop the run, or keep it from starting. The first reason stands."""
        if self.abort_reason is None:
            self.abort_reason = reason
            self.scope.cancel(reason=reason.value)


# --- workers -> status writer ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The handler returned; `result` is JSON-ready."""

    attempt: Attempt
    result: Any


@dataclass(frozen=True, slots=True)
class Errored:
    """The handler raised, timed out, or its process died; `decision` is what follows."""

    attempt: Attempt
    error: TaskError
    decision: Decision


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Not started, or stopped, because this engine shuts down: give it back."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Stopped:
    """Stopped because somebody cancelled the task; `error` is what its cleanup raised."""

    attempt: Attempt
    error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease was lost: whatever the handler did no longer counts."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Progressed:
    """The handler goes on and says how far it is."""

    attempt: Attempt
    value: Any


Outcome = Succeeded | Errored | Interrupted | Stopped | Lost | Progressed


# --- status writer, poller -> acker ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ack:
    """Delete the message."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Release:
    """Give the message back, to be received again after `delay` seconds."""

    lease: Lease
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class DeadLetterIt:
    """Move the message to the dead-letter queue."""

    lease: Lease
    reason: str
    task: Task | None = None
    error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """Neither delete nor give back: the message is somebody else's."""

    lease: Lease


Settlement = Ack | Release | DeadLetterIt | Leave


# --- poller, acker, engine -> lease keeper --------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acquired:
    """Received: keep these leases."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """Done with: forget these leases."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody in this process cancelled the task: stop its attempt if it is in hand here."""

    task_id: str


LeaseEvent = Acquired | Settled | CancelAsked


# --- engine -> submitter --------------------------------------------------------------------

SubmitResult = CreateVerdict | BackendUnavailable
"""What became of one task: a store verdict, or the trouble that kept it from being stored."""


@dataclass(slots=True, eq=False)
class SubmitRequest:
    """Tasks to create and send. Once the submitter has it, it is carried out, whether or not
    somebody still waits for the answer."""

    tasks: tuple[NewTask, ...]
    on_answer: Callable[[], None]
    """Called just before the answer is given."""
    _answered: trio.Event = field(default_factory=trio.Event)
    _results: tuple[SubmitResult, ...] = ()

    def answer(self, results: tuple[SubmitResult, ...]) -> None:
        """One result for each task, in their order."""
        self.on_answer()
        self._results = results
        self._answered.set()

    async def results(self) -> tuple[SubmitResult, ...]:
        await self._answered.wait()
        return self._results

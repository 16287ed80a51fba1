"""What travels through the channels between actors: frozen, typed, and closed unions.

They are all that actors know of one another: none calls a method of another. Two things change on
their way, and say by whose hand: a `Lease`, whose fields have one writer each, and an `Attempt`,
which its worker times, and which can be stopped once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar, cast

import msgspec
import trio
from msgspec import UNSET

from task_queue_engine.backends.base import CreateVerdict, Delivery, NewTask, Rejected, TakePlan
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.execution.attempt_logs import AttemptLog
from task_queue_engine.lifecycle import Started
from task_queue_engine.retry import Decision
from task_queue_engine.task import Task, TaskError
from task_queue_engine.tracing import Span

T = TypeVar("T")

# --- answers --------------------------------------------------------------------------------


class Reply(Generic[T]):
    """Where the sender of an event waits for the receiver's answer to it."""

    __slots__ = ("_answer", "_is_refused", "_is_settled", "_waiter")

    def __init__(self) -> None:
        self._is_settled = self._is_refused = False
        self._answer: T | None = None
        # The one task that waits: a `trio.Event` for many costs three times as much.
        self._waiter: trio.lowlevel.Task | None = None

    def give(self, answer: T) -> None:
        self._answer = answer
        self._settle()

    def refuse(self) -> None:
        """There will be no answer: the receiver has ended."""
        self._is_refused = True
        self._settle()

    def _settle(self) -> None:
        self._is_settled = True
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            trio.lowlevel.reschedule(waiter)

    @property
    def is_given(self) -> bool:
        return self._is_settled and not self._is_refused

    async def get(self) -> T:
        """Wait for the answer, which one task may.

        Raises:
            trio.BrokenResourceError: there will be none.
        """
        if self._is_settled:
            await trio.lowlevel.checkpoint()
        else:
            self._waiter = trio.lowlevel.current_task()

            def abort(_: object) -> trio.lowlevel.Abort:
                self._waiter = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        if self._is_refused:
            raise trio.BrokenResourceError
        return cast("T", self._answer)


# --- held: leases and attempts --------------------------------------------------------------


class AbortReason(StrEnum):
    CANCELLED = "cancelled"
    LEASE_LOST = "lease lost"
    SHUTDOWN = "shutdown"


AttemptKey = tuple[str, int]
"""Task id and attempt: no attempt of any task ever has the same."""


@dataclass(slots=True, eq=False)
class Lease:
    """One delivery that is held, from receive to settlement.

    The poller makes it. From then on every field has one writer, named beside it, and all actors
    read. `attempt` and `settling` are not the lease keeper's, since they have to be true in the
    very moment in which a claim or a settlement begins to count: with an event still under way a
    handler could start after its cancel, or a deleted message pass for a lost lease.
    """

    delivery: Delivery
    """The lease keeper's: a message that is received again while it is held is kept under the
    latest receipt."""
    expires_at: float
    """The lease keeper's: on trio's clock."""
    lost: bool = False
    """The lease keeper's."""
    cancel_asked: bool = False
    """The lease keeper's: the task was cancelled while its claim was under way, and is not to
    start."""
    attempt: Attempt | None = None
    """The claimer's, and the poller's of what it gives back itself: set once, together with its
    `abort` where `lost` or `cancel_asked` came first."""
    settling: bool = False
    """The acker's, and the status writer's where it settles too: set before the queue is asked.
    From then on a stale receipt does not mean that the lease was lost."""
    started: Started | None = None
    """The poller's: its task was claimed together with the receive."""
    claimed_ahead: bool = False
    """The poller's and the claimer's: it was claimed before a worker was free for it."""

    @property
    def goes_on(self) -> bool:
        """It waits for its claim or runs, and nothing has been said against it."""
        stopped = self.attempt is not None and self.attempt.abort_reason is not None
        return not (stopped or self.lost or self.settling)


@dataclass(slots=True, eq=False)
class Attempt:
    """A claimed task: a worker waits for it, or runs it."""

    task: Task
    lease: Lease
    payload: Any = UNSET
    """As the handler is annotated, where it was converted before the claim."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Entered by the worker alone, around the handler."""
    began: float | None = None
    """The worker's: when its handler was started, on trio's clock; None: it never was."""
    ended: float = 0.0
    """The worker's: when its handler had come to its end, on trio's clock."""
    abort_reason: AbortReason | None = None
    recorded: bool = False
    """The status writer's: the store has what it came to, or that it no longer counts."""
    log: AttemptLog | None = None
    """The worker's, once the handler is over: where it has logged something that is kept."""
    progress: Any = None
    """The worker's: what the handler reported last."""
    span: Span | None = None
    """The worker's, from the handler's start: where the engine traces."""

    @property
    def key(self) -> AttemptKey:
        return self.task.id, self.task.attempt

    def abort(self, reason: AbortReason) -> None:
        """Stop the run, or keep it from starting. The lease keeper may, the claimer, and the worker
        at a shutdown or before a start; the first reason stands."""
        if self.abort_reason is None:
            self.abort_reason = reason
            self.scope.cancel(reason=reason.value)


# --- workers -> status writer ---------------------------------------------------------------


class Succeeded(msgspec.Struct, frozen=True):
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
    """Not started, since no worker came free in time; or stopped or not started because this
    engine shuts down: give it back."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Stopped:
    """Stopped because its task was cancelled; `error` is what its cleanup raised."""

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


# --- status writer, claimer, poller -> acker ------------------------------------------------


class Ack(msgspec.Struct, frozen=True):
    """Delete the message."""

    lease: Lease


class Release(msgspec.Struct, frozen=True):
    """Give the message back, to be received again after `delay` seconds."""

    lease: Lease
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class MoveToDeadLetters:
    """Move the message to the dead-letter queue."""

    lease: Lease
    reason: str
    task: Task | None = None
    error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """Neither delete nor give back: another attempt has the message."""

    lease: Lease


Settlement = Ack | Release | MoveToDeadLetters | Leave


# --- poller, workers, status writer, warmer -> claimer --------------------------------------


@dataclass(frozen=True, slots=True)
class Leased:
    """Received, and to be claimed as workers come free."""

    leases: tuple[Lease, ...]
    noted: Reply[tuple[Lease, ...]] | None = None
    """Answered when the lease keeper has seen them: nothing that was claimed with its receive
    starts before. None: it has."""


class WorkerFree(msgspec.Struct, frozen=True):
    """One worker has come to the end of what it had in hand, and takes what waits."""

    after: str | None = None
    """The type of what it has run, or given back; None where it has just begun."""
    seconds: float = 0.0
    """That it took, from the worker's taking it."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Whether what attempts come to can be stored: nothing new starts on top of what cannot."""

    works: bool


class ProcessTried(msgspec.Struct, frozen=True):
    """A worker process was to be started: it is ready, or not to be tried for so many seconds."""

    not_for: float = 0.0


ClaimEvent = Leased | WorkerFree | Recording | ProcessTried


# --- claimer -> poller ----------------------------------------------------------------------


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What there are places for. It replaces what was said before."""

    plan: TakePlan
    seen: int
    """Leases that the claimer had been handed when it said so: later ones have taken places."""


# --- poller, acker, engine -> lease keeper --------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Acquired:
    """Received: keep these leases. The answer is those to go on with; the others brought a message
    again that is held here, and the lease that holds it has taken over their delivery."""

    leases: tuple[Lease, ...]
    reply: Reply[tuple[Lease, ...]] = field(default_factory=Reply)


@dataclass(frozen=True, slots=True)
class Settled:
    """Done with: forget these leases."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CancelAsked:
    """The task was cancelled in this process: stop its attempt if it is held here. Once answered,
    its handler either runs (and is being stopped) or does not start any more."""

    task_id: str
    attempt: int = 0
    """That is to stop: it may have been claimed with a receive whose answer is still to come."""
    reply: Reply[None] = field(default_factory=Reply)


LeaseEvent = Acquired | Settled | CancelAsked


# --- engine -> submitter --------------------------------------------------------------------

SubmitResult = CreateVerdict | BackendUnavailable | Rejected
"""What became of one task: a store verdict, the trouble that kept it from being stored, or (stored,
and FAILED) the queue's refusal of its message."""


@dataclass(slots=True, eq=False)
class SubmitRequest:
    """Tasks to create and send. Once the submitter has it, it is carried out, whether or not its
    sender still waits for the answer."""

    tasks: tuple[NewTask, ...]
    on_answer: Callable[[], None]
    """Called just before the answer is given."""
    _reply: Reply[tuple[SubmitResult, ...]] = field(default_factory=Reply)

    def answer(self, results: tuple[SubmitResult, ...]) -> None:
        """One result for each task, in their order."""
        self.on_answer()
        self._reply.give(results)

    async def results(self) -> tuple[SubmitResult, ...]:
        return await self._reply.get()

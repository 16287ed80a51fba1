"""What an engine offers, as a Protocol: the HTTP front end and the command line are written
against this, not against the engine's insides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from task_queue_engine.backends.base import (
    BackendInfo,
    BackendUsage,
    Counts,
    DeadLetterPage,
    ListQuery,
    QueueDepth,
    TaskPage,
)
from task_queue_engine.errors import TaskQueueError
from task_queue_engine.registry import Handler, TaskRegistry
from task_queue_engine.retry import Seconds
from task_queue_engine.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One task to be submitted; the arguments of `Engine.submit` as a value, for `submit_many`."""

    task: str | Handler
    payload: Any = None
    delay: Seconds | None = None
    run_at: datetime | None = None
    max_attempts: int | None = None
    timeout: Seconds | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The task is stored and will run. `created` is False where its idempotency key had been used
    for the same submission before: `task` is then the one of that time."""

    task: Task
    created: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was stored; `error` says why (InvalidTask, IdempotencyKeyReused, ...)."""

    error: TaskQueueError


SubmitVerdict = Accepted | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveReport:
    """What redriving did, in dead letters."""

    redriven: int = 0
    skipped: int = 0
    """Their tasks are gone, running or done; the letters were removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """One look at everything that can be counted. Gauges are of the whole backend, counters of
    this process since its start."""

    counts: Counts
    depth: QueueDepth
    workers: int
    active_workers: int
    counters: dict[str, int] = field(default_factory=dict)
    """Name in Prometheus style without prefix and `_total`: "attempts_started", "leases_lost"."""
    uptime: float = 0.0
    """Seconds."""
    usage: BackendUsage | None = None
    """What the backend was asked for by this process; None where it is not billed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Fit to serve? `reasons` is empty when ready."""

    ready: bool
    reasons: tuple[str, ...] = ()


class EngineApi(Protocol):
    """All of these raise EngineNotRunning outside a running engine, BackendUnavailable when the
    backend is in trouble."""

    @property
    def registry(self) -> TaskRegistry: ...

    @property
    def backend_info(self) -> BackendInfo: ...

    async def submit_task(self, submission: Submission) -> Accepted:
        """Store and send one task.

        Once taken over by the engine a submission is carried out even when the caller is
        cancelled.

        Raises:
            InvalidTask: naming the field (UnknownTaskType, PayloadTooLarge among them).
            IdempotencyKeyReused, IdempotencyKeyInFlight.
        """
        ...

    async def submit_many(self, submissions: Sequence[Submission]) -> list[SubmitVerdict]:
        """The same for many; one bad submission does not fail the others."""
        ...

    async def get(self, task_id: str) -> Task:
        """Raises TaskNotFound."""
        ...

    async def wait(self, task_id: str, *, timeout: Seconds) -> Task:
        """The task as soon as it is terminal, or as it is when `timeout` seconds are over.
        Raises TaskNotFound."""
        ...

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        """Raises InvalidQuery."""
        ...

    async def cancel(self, task_id: str) -> Task:
        """CANCELLED at once where the task had not started; else `cancel_requested` is set and
        the attempt is stopped wherever it runs.

        Raises:
            TaskNotFound, WrongState (it is already terminal).
        """
        ...

    async def retry(self, task_id: str) -> Task:
        """A FAILED or CANCELLED task runs again, as a new round.

        Raises:
            TaskNotFound, WrongState.
        """
        ...

    async def list_dead(self, *, limit: int = 50, cursor: str | None = None) -> DeadLetterPage:
        """Raises InvalidQuery."""
        ...

    async def redrive(self, ids: Sequence[str] | None = None) -> RedriveReport:
        """Put dead letters (by id; None: all) back to work: their tasks start a new round."""
        ...

    async def purge_dead(self) -> int:
        """Delete all dead letters, not their tasks; returns how many."""
        ...

    async def metrics(self) -> EngineMetrics:
        """Fresh where the backend answers, else as last sampled."""
        ...

    async def ready(self) -> Readiness:
        """Never raises for an engine that is not fit: that is its answer."""
        ...

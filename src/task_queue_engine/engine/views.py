"""The JSON of those answers that have another shape than what the engine returns: the server and
`tqe --json` write it, the client reads it.

Docstrings and order of members are those of the OpenAPI document. What servers of other versions
may lack, the client adds (`client/schemas.py`). Not here, since they are JSON as they are: `Task`,
`TaskPage`, `RedriveReport`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Self

import msgspec
from msgspec import UNSET, UnsetType

from task_queue_engine.backends.base import (
    BackendUsage,
    Counts,
    DeadLetter,
    DeadLetterPage,
    QueueDepth,
)
from task_queue_engine.engine.metrics import EngineMetrics, Slots
from task_queue_engine.measures import Distribution, LabelledCount
from task_queue_engine.task import TaskError


class DeadLetterView(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was given up."""

    id: str
    task_id: str
    task_type: str
    reason: str
    error: TaskError | None
    attempts: int
    at: datetime

    @classmethod
    def of(cls, dead_letter: DeadLetter) -> Self:
        return cls(**{name: getattr(dead_letter, name) for name in cls.__struct_fields__})

    def dead_letter(self) -> DeadLetter:
        return DeadLetter(**msgspec.structs.asdict(self))


class DeadLetterList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of dead letters."""

    dead_letters: tuple[DeadLetterView, ...]
    next_cursor: str | None

    @classmethod
    def of(cls, page: DeadLetterPage) -> Self:
        views = tuple(DeadLetterView.of(dead_letter) for dead_letter in page.dead_letters)
        return cls(dead_letters=views, next_cursor=page.next_cursor)

    def page(self) -> DeadLetterPage:
        return DeadLetterPage(
            dead_letters=tuple(view.dead_letter() for view in self.dead_letters),
            next_cursor=self.next_cursor,
        )


class PurgeResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many dead letters were deleted. Their tasks stay."""

    purged: int


class MetricsView(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks (`..._tasks`) are counted over all queues, messages in `queue` alone, and workers,
    uptime, counters and usage are those of the server that answers, over all of its processes
    (`--processes`), since its start: each server on the same backend has its own."""

    queue: str = ""
    """The queue that this process works on."""
    total_tasks: int
    """In the store, of all queues and whatever process."""
    pending_tasks: int
    processing_tasks: int
    completed_tasks: int
    failed_tasks: int
    cancelled_tasks: int
    workers: int
    """Of this server: 0 where it only serves HTTP, whatever runs beside it."""
    active_workers: int
    """Those of `workers` that run a handler now."""
    queue_depth: int
    """Messages of `queue` that wait, delayed ones included: `waiting` and `delayed` together."""
    waiting: int = 0
    """Messages of `queue` that are due: a free worker would get one now."""
    delayed: int = 0
    """Messages of `queue` whose time is still to come. A task that waits more than 15 minutes has
    none until shortly before its time: it is in `pending_tasks` only."""
    in_flight: int
    """Messages of `queue` that are with a worker, of whatever process."""
    oldest_age_seconds: float | None = None
    """For which the message of `queue` that has waited longest has been due; null where the queue
    cannot say: SQS."""
    dead_letters: int
    """In the dead-letter queue of `queue`."""
    uptime_seconds: float
    counters: dict[str, int]
    abandoned_threads: int
    """Threads of this server whose `def` handler outlived its attempt and still runs."""
    given_back_by_type: dict[str, int] | UnsetType = UNSET
    """How often this server gave tasks back that it cannot run; only where it did."""
    usage: BackendUsage | UnsetType = UNSET
    """Only where the backend is billed by the request (AWS)."""
    slots: tuple[Slots, ...] = ()
    """Of this server, by kind; none where it runs no tasks."""
    labelled_counters: tuple[LabelledCount, ...] = ()
    """As `counters`, with labels."""
    histograms: tuple[Distribution, ...] = ()
    """What this server has measured, by buckets."""

    @classmethod
    def of(cls, metrics: EngineMetrics) -> Self:
        counts, depth = metrics.counts, metrics.depth
        return cls(
            total_tasks=counts.total,
            pending_tasks=counts.pending,
            processing_tasks=counts.processing,
            completed_tasks=counts.completed,
            failed_tasks=counts.failed,
            cancelled_tasks=counts.cancelled,
            workers=metrics.workers,
            active_workers=metrics.active_workers,
            queue=metrics.queue,
            queue_depth=depth.waiting,
            waiting=depth.due,
            delayed=depth.delayed,
            in_flight=depth.in_flight,
            oldest_age_seconds=depth.oldest_age,
            dead_letters=depth.dead,
            uptime_seconds=round(metrics.uptime, 3),
            abandoned_threads=metrics.abandoned_threads,
            counters=dict(sorted(metrics.counters.items())),
            given_back_by_type=metrics.given_back_by_type or UNSET,
            usage=UNSET if metrics.usage is None else metrics.usage,
            slots=metrics.slots,
            labelled_counters=metrics.labelled_counters,
            histograms=metrics.histograms,
        )

    def metrics(self) -> EngineMetrics:
        return EngineMetrics(
            counts=Counts(
                pending=self.pending_tasks,
                processing=self.processing_tasks,
                completed=self.completed_tasks,
                failed=self.failed_tasks,
                cancelled=self.cancelled_tasks,
            ),
            depth=QueueDepth(
                waiting=self.queue_depth,
                delayed=self.delayed,
                in_flight=self.in_flight,
                dead=self.dead_letters,
                oldest_age=self.oldest_age_seconds,
            ),
            queue=self.queue,
            workers=self.workers,
            active_workers=self.active_workers,
            abandoned_threads=self.abandoned_threads,
            counters=self.counters,
            uptime=self.uptime_seconds,
            given_back_by_type=self.given_back_by_type or {},
            usage=None if self.usage is UNSET else self.usage,
            slots=self.slots,
            labelled_counters=self.labelled_counters,
            histograms=self.histograms,
        )

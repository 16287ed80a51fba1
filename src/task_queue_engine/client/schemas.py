"""The API's answers as the client reads them, between JSON and what a running engine returns.

Kept apart from the server's own description of its answers on purpose: a client meets servers of
other versions. It overlooks members it does not know and does without some that older ones lack.
What is missing here, because both sides have it already: `Task`, `TaskPage`, `RedriveReport`.
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
from task_queue_engine.client.problems import Problem
from task_queue_engine.engine.api import EngineMetrics
from task_queue_engine.task import Task, TaskError

MAX_BATCH = 1000
"""What the server takes in one request: submissions of a batch, ids of a redrive."""
MAX_PAGE = 100
"""Items of one listing."""
MAX_WAIT = 60.0
"""Seconds of one request that waits for a task."""


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """One item of the answer to POST /tasks/batch."""

    status: int
    task: Task | None = None
    replayed: bool = False
    problem: Problem | None = None


class BatchResults(msgspec.Struct, frozen=True, kw_only=True):
    results: list[BatchResult]


class DeadLetterView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    task_id: str
    task_type: str
    reason: str
    error: TaskError | None = None
    attempts: int
    at: datetime


class DeadLetterList(msgspec.Struct, frozen=True, kw_only=True):
    dead_letters: list[DeadLetterView]
    next_cursor: str | None = None

    @classmethod
    def of(cls, page: DeadLetterPage) -> Self:
        views = [
            DeadLetterView(
                id=letter.id,
                task_id=letter.task_id,
                task_type=letter.task_type,
                reason=letter.reason,
                error=letter.error,
                attempts=letter.attempts,
                at=letter.at,
            )
            for letter in page.dead_letters
        ]
        return cls(dead_letters=views, next_cursor=page.next_cursor)

    def page(self) -> DeadLetterPage:
        letters = tuple(
            DeadLetter(
                id=view.id,
                task_id=view.task_id,
                task_type=view.task_type,
                reason=view.reason,
                error=view.error,
                attempts=view.attempts,
                at=view.at,
            )
            for view in self.dead_letters
        )
        return DeadLetterPage(dead_letters=letters, next_cursor=self.next_cursor)


class PurgeResult(msgspec.Struct, frozen=True, kw_only=True):
    purged: int


class MetricsView(msgspec.Struct, frozen=True, kw_only=True):
    total_tasks: int
    pending_tasks: int
    processing_tasks: int
    completed_tasks: int
    failed_tasks: int
    cancelled_tasks: int = 0
    workers: int = 0
    active_workers: int
    queue_depth: int
    in_flight: int = 0
    dead_letters: int = 0
    uptime_seconds: float = 0.0
    counters: dict[str, int] = {}
    usage: BackendUsage | UnsetType = UNSET

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
            queue_depth=depth.waiting,
            in_flight=depth.in_flight,
            dead_letters=depth.dead,
            uptime_seconds=round(metrics.uptime, 3),
            counters=dict(sorted(metrics.counters.items())),
            usage=UNSET if metrics.usage is None else metrics.usage,
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
                waiting=self.queue_depth, in_flight=self.in_flight, dead=self.dead_letters
            ),
            workers=self.workers,
            active_workers=self.active_workers,
            counters=self.counters,
            uptime=self.uptime_seconds,
            usage=None if self.usage is UNSET else self.usage,
        )

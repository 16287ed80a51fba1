"""The API's answers as the client reads them.

A client meets servers of other versions: it overlooks members it does not know, and does without
some that older servers lack. So these take the views of `engine/views.py` and say what such a
member counts as.
"""

from __future__ import annotations

import msgspec

from task_queue_engine.engine.views import DeadLetterList, DeadLetterView, MetricsView
from task_queue_engine.errors import Problem
from task_queue_engine.task import Task, TaskError


class BatchResultRead(msgspec.Struct, frozen=True, kw_only=True):
    """One item of the answer to POST /tasks/batch."""

    status: int
    task: Task | None = None
    replayed: bool = False
    problem: Problem | None = None


class BatchResultsRead(msgspec.Struct, frozen=True, kw_only=True):
    results: list[BatchResultRead]


class DeadLetterRead(DeadLetterView, frozen=True, kw_only=True):
    error: TaskError | None = None


class DeadLetterListRead(DeadLetterList, frozen=True, kw_only=True):
    dead_letters: tuple[DeadLetterRead, ...]
    next_cursor: str | None = None


class MetricsRead(MetricsView, frozen=True, kw_only=True):
    cancelled_tasks: int = 0
    workers: int = 0
    in_flight: int = 0
    dead_letters: int = 0
    uptime_seconds: float = 0.0
    abandoned_threads: int = 0
    counters: dict[str, int] = {}  # noqa: RUF012 - msgspec copies it

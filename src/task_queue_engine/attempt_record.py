"""What is known of one attempt of a task, and of all of them: its history.

The latest attempt lies in the task's own row; how the others are kept is `lifecycle/history.py`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from task_queue_engine.task import TaskError


class AttemptOutcome(StrEnum):
    """What an attempt came to."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The task is FAILED with it."""
    RETRIED = "retried"
    """It failed, and the task waits for its next one."""
    SNOOZED = "snoozed"
    INTERRUPTED = "interrupted"
    """Its engine gave it back: it shut down, or no worker came free in time."""
    LOST_LEASE = "lost_lease"
    """Its worker noticed that the message was no longer its own, and stopped it."""
    CRASHED = "crashed"
    """Its worker said nothing more: recorded by who took over."""
    CANCELLED = "cancelled"


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line that a handler logged, cut where it is too long."""

    time: datetime
    level: str
    logger: str
    message: str
    """With the traceback behind it, where the line has one."""


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a task."""

    number: int
    """1 at the first start; +1 at every start, interrupted ones included."""
    outcome: AttemptOutcome
    worker: str | None = None
    """The engine process that started it."""
    version: str | None = None
    """Of this package in that process; None: one that did not say."""
    started_at: datetime
    ended_at: datetime | None = None
    """None while it runs. Of a crashed one: when it was taken over."""
    error: TaskError | None = None
    progress: Any = None
    """The last that it reported."""
    logs: tuple[LogLine, ...] = ()
    """The last lines that its handler logged, oldest first; none while it runs, and none of one
    that crashed."""
    logs_omitted: int = 0
    """Lines before those."""


class AttemptHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts of a task, oldest first: the first ten and the last ten of them."""

    attempts: tuple[AttemptRecord, ...]
    omitted: int = 0
    """Attempts of which nothing is kept: those in between, where there were more, and those of
    processes that kept no history."""

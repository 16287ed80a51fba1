"""What clients and operators ask for: cancel a task, retry it as a new round, delete it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec

from task_queue_engine.lifecycle.history import latest
from task_queue_engine.lifecycle.row import Missing, Row, end
from task_queue_engine.task import Task, TaskStatus


@dataclass(frozen=True, slots=True)
class CancelledNow:
    """It was PENDING and is CANCELLED: it never starts."""

    task: Task


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """It is PROCESSING: the request is stored, the attempt's owner has to stop it."""

    task: Task


@dataclass(frozen=True, slots=True)
class AlreadyFinished:
    """It is terminal; nothing changes."""

    task: Task


CancelVerdict = CancelledNow | CancelRequested | AlreadyFinished | Missing


def decide_cancel(row: Row | None, now: datetime) -> tuple[CancelVerdict, Row | None]:
    """A waiting task ends at once; of a running one the attempt is asked to stop.

    Returns:
        The verdict, and the row to write (None where nothing changes).
    """
    if row is None:
        return Missing(), None
    task = row.task
    if task.status.is_terminal:
        return AlreadyFinished(task), None
    if task.status is TaskStatus.PENDING:
        cancelled = end(
            row,
            now,
            status=TaskStatus.CANCELLED,
            retry_count=task.retry_count,
            error=task.error,
        )
        return CancelledNow(cancelled.task), cancelled
    requested = msgspec.structs.replace(task, cancel_requested=True, updated_at=now)
    return CancelRequested(requested), replace(row, task=requested)


@dataclass(frozen=True, slots=True)
class Reopened:
    """PENDING again, as a new round: retry_count 0, no result, no error; `attempt` goes on
    counting, so that writes of older rounds stay fenced. A message has to be sent."""

    task: Task


@dataclass(frozen=True, slots=True)
class NotReopened:
    """Only FAILED and CANCELLED tasks can be retried; this one is something else."""

    task: Task


ReopenVerdict = Reopened | NotReopened | Missing


def decide_reopen(row: Row | None, now: datetime) -> tuple[ReopenVerdict, Row | None]:
    """A new round of a task that FAILED or was CANCELLED.

    Returns:
        The verdict, and the row to write (None where nothing changes).
    """
    if row is None:
        return Missing(), None
    task = row.task
    if task.status not in (TaskStatus.FAILED, TaskStatus.CANCELLED):
        return NotReopened(task), None
    fresh = msgspec.structs.replace(
        task,
        status=TaskStatus.PENDING,
        retry_count=0,
        result=None,
        error=None,
        progress=None,
        run_at=None,
        started_at=None,
        finished_at=None,
        cancel_requested=False,
        updated_at=now,
    )
    return Reopened(fresh), Row(task=fresh, version=row.version, put_away=latest(row))


@dataclass(frozen=True, slots=True)
class Deleted:
    """It is gone, and was this."""

    task: Task


@dataclass(frozen=True, slots=True)
class NotDeleted:
    """It has not ended, or its message may still come (`until`); nothing changes."""

    task: Task
    until: datetime | None = None
    """When it can be deleted."""


DeleteVerdict = Deleted | NotDeleted | Missing


def decide_delete(row: Row | None, now: datetime, *, message_for: float = 0.0) -> DeleteVerdict:
    """Only what has ended can be deleted.

    Args:
        message_for: seconds for which the message of a task that was cancelled may still be
            received, where it cannot be deleted with the task. Without its row it would become a
            dead letter.
    """
    if row is None:
        return Missing()
    task = row.task
    if not task.status.is_terminal:
        return NotDeleted(task)
    if task.status is TaskStatus.CANCELLED and message_for:
        until = (task.finished_at or task.updated_at) + timedelta(seconds=message_for)
        if until > now:
            return NotDeleted(task, until)
    return Deleted(task)

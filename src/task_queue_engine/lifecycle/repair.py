"""Repair: tasks whose owner or message is gone, as the reconciler finds them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from task_queue_engine.lifecycle.claim import crash_error, retry_count_after_crash
from task_queue_engine.lifecycle.history import DEAD_LETTERED_ERROR_TYPE, crashed
from task_queue_engine.lifecycle.record import Fenced, Recorded, RecordVerdict
from task_queue_engine.lifecycle.row import Row, end
from task_queue_engine.task import TaskError, TaskStatus


def decide_reclaim(
    row: Row | None, attempt: int, now: datetime
) -> tuple[RecordVerdict, Row | None]:
    """An attempt is PROCESSING and no message exists that could ever bring it back: count it as a
    crash. PENDING (a message has to be sent), or FAILED past max_attempts, or CANCELLED where that
    was asked for. Conditional on the attempt, like its owner's own writes.
    """
    if row is None or row.task.attempt != attempt or row.task.status is not TaskStatus.PROCESSING:
        return Fenced(), None
    task = row.task
    retry_count = retry_count_after_crash(row)
    error = crash_error(task.attempt, task.worker)
    over = crashed(row, error, now)
    if task.cancel_requested:
        new = end(row, now, status=TaskStatus.CANCELLED, retry_count=retry_count, put_away=over)
    elif retry_count >= task.max_attempts:
        new = end(row, now, status=TaskStatus.FAILED, retry_count=retry_count, error=error)
    else:
        waiting = msgspec.structs.replace(
            task,
            status=TaskStatus.PENDING,
            retry_count=retry_count,
            error=error,
            run_at=None,
            updated_at=now,
        )
        new = Row(task=waiting, version=row.version, put_away=over)
    return Recorded(new.task.status), new


MESSAGE_REFUSED_ERROR_TYPE = "task_queue_engine.errors.MessageRefused"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingFailure:
    """A waiting task can never start: its message cannot be sent, say."""

    task_id: str
    attempt: int
    """Of the row when this was found out."""
    error: TaskError


def decide_fail_pending(
    row: Row | None, failure: PendingFailure, now: datetime
) -> tuple[RecordVerdict, Row | None]:
    """FAILED with that error, at no cost of an attempt.

    Fenced where it has started since, or ended otherwise.
    """
    if row is None or row.task.attempt != failure.attempt:
        return Fenced(), None
    task = row.task
    if task.status is TaskStatus.FAILED and task.error == failure.error:
        return Recorded(task.status), None
    if task.status is not TaskStatus.PENDING:
        return Fenced(), None
    new = end(row, now, status=TaskStatus.FAILED, retry_count=task.retry_count, error=failure.error)
    return Recorded(new.task.status), new


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDeadLetter:
    """The broker itself has moved this message of this task to the dead-letter queue."""

    task_id: str
    message_id: str
    reason: str
    """One line, for the operator."""


def decide_fail_dead_lettered(
    row: Row | None, dead_letter: BrokerDeadLetter, now: datetime
) -> tuple[RecordVerdict, Row | None]:
    """FAILED with that reason, or CANCELLED where that was asked for.

    Fenced where another message brings the task on: it is running under one, waits for its time
    (that message is a leftover of an earlier attempt), or will be sent by the scheduler.
    """
    if row is None or row.task.status.is_terminal or row.due_at is not None:
        return Fenced(), None
    task = row.task
    running = task.status is TaskStatus.PROCESSING
    if running and row.message_id != dead_letter.message_id:
        return Fenced(), None
    if not running and task.run_at is not None and task.run_at > now:
        return Fenced(), None
    # Its owner's lease has lapsed, or the queue could not have moved it.
    retry_count = retry_count_after_crash(row) if running else task.retry_count
    error = TaskError(type=DEAD_LETTERED_ERROR_TYPE, message=dead_letter.reason)
    if task.cancel_requested:
        over = crashed(row, error, now) if running else None
        new = end(row, now, status=TaskStatus.CANCELLED, retry_count=retry_count, put_away=over)
    else:
        new = end(row, now, status=TaskStatus.FAILED, retry_count=retry_count, error=error)
    return Recorded(new.task.status), new

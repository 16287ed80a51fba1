"""Recording: what an attempt writes about itself, refused once it is no longer the owner."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, assert_never

import msgspec

from task_queue_engine.attempt_record import AttemptOutcome, AttemptRecord
from task_queue_engine.lifecycle.history import ended, latest
from task_queue_engine.lifecycle.row import Row, end
from task_queue_engine.task import TaskError, TaskStatus
from task_queue_engine.trace_context import TraceContext


class _AttemptWrite(msgspec.Struct, frozen=True, kw_only=True):
    """Conditional on `status = PROCESSING AND attempt = mine`."""

    task_id: str
    attempt: int
    record: AttemptRecord | None = None
    """The attempt as its worker knows it, still running. An ending is put away with it; without
    it, only one after which the task goes on, and then as the row says."""
    trace_context: TraceContext | None = None
    """The task's from now on, of an attempt that is traced and has not succeeded."""


class Complete(_AttemptWrite, frozen=True, kw_only=True):
    """The handler returned. `result` is JSON-encodable, already within the size limit."""

    result: Any


class Fail(_AttemptWrite, frozen=True, kw_only=True):
    """The last attempt failed, or the handler raised Discard: FAILED, retry_count + 1."""

    error: TaskError


class ScheduleRetry(_AttemptWrite, frozen=True, kw_only=True):
    """Back to PENDING until `run_at`, retry_count + 1."""

    error: TaskError
    run_at: datetime
    scheduled: bool
    """True: the message goes and the scheduler sends a new one; False: the message is kept."""


class ScheduleSnooze(_AttemptWrite, frozen=True, kw_only=True):
    """Back to PENDING until `run_at`; costs no attempt."""

    run_at: datetime
    scheduled: bool


class Interrupt(_AttemptWrite, frozen=True, kw_only=True):
    """Back to PENDING at once: this engine shuts down, or had no worker free in time. Costs no
    attempt."""


class Cancel(_AttemptWrite, frozen=True, kw_only=True):
    """The attempt was stopped because its task was cancelled. `error`: raised by its
    cleanup."""

    error: TaskError | None = None


class Progress(_AttemptWrite, frozen=True, kw_only=True):
    """The attempt goes on and says how far it is. `value` is JSON-encodable."""

    value: Any


class LoseLease(_AttemptWrite, frozen=True, kw_only=True):
    """The attempt was stopped, since its message is no longer its own. Always Fenced: nothing but
    its history is written, and that also where it was taken over meanwhile."""


AttemptWrite = (
    Complete | Fail | ScheduleRetry | ScheduleSnooze | Interrupt | Cancel | Progress | LoseLease
)


class Recorded(msgspec.Struct, frozen=True):
    """Written (or found written by an earlier try of the same write)."""

    status: TaskStatus
    """The status after the write. CANCELLED after a ScheduleRetry, ScheduleSnooze or Interrupt
    means that a cancel request had been waiting: the message is then to be deleted, not released.
    """


class Fenced(msgspec.Struct, frozen=True):
    """Refused: the attempt is no longer the owner. Its result is dropped, its message left."""


RecordVerdict = Recorded | Fenced


def decide_record(
    row: Row | None, write: AttemptWrite, now: datetime
) -> tuple[RecordVerdict, Row | None]:
    """Apply one attempt's write.

    Returns:
        The verdict, and the row to write (None where nothing changes).
    """
    if isinstance(write, LoseLease):
        return Fenced(), _lease_lost(row, write, now)
    if row is None or row.task.attempt != write.attempt:
        return Fenced(), None
    task = row.task
    if task.status is not TaskStatus.PROCESSING:
        return (Recorded(task.status) if task.status is target_status(write) else Fenced()), None

    new: Row
    match write:
        case Complete():
            new = end(
                row,
                now,
                status=TaskStatus.COMPLETED,
                retry_count=task.retry_count,
                result=write.result,
                put_away=ended_by(write, now),
            )
        case Fail():
            new = end(
                row,
                now,
                status=TaskStatus.FAILED,
                retry_count=task.retry_count + 1,
                error=write.error,
                put_away=ended_by(write, now),
            )
        case Cancel():
            new = end(
                row,
                now,
                status=TaskStatus.CANCELLED,
                retry_count=task.retry_count,
                error=write.error,
                put_away=ended_by(write, now),
            )
        case ScheduleRetry() | ScheduleSnooze() | Interrupt():
            counted = isinstance(write, ScheduleRetry)
            retry_count = task.retry_count + counted
            error = write.error if isinstance(write, ScheduleRetry) else task.error
            over = ended_by(write, now, latest(row))
            if task.cancel_requested:
                if over is not None:
                    over = msgspec.structs.replace(over, outcome=AttemptOutcome.CANCELLED)
                new = end(
                    row,
                    now,
                    status=TaskStatus.CANCELLED,
                    retry_count=retry_count,
                    error=error,
                    put_away=over,
                )
            else:
                run_at = None if isinstance(write, Interrupt) else write.run_at
                scheduled = not isinstance(write, Interrupt) and write.scheduled
                waiting = msgspec.structs.replace(
                    task,
                    status=TaskStatus.PENDING,
                    retry_count=retry_count,
                    error=error,
                    run_at=run_at,
                    updated_at=now,
                )
                new = Row(
                    task=waiting,
                    due_at=run_at if scheduled else None,
                    version=row.version,
                    put_away=over,
                )
        case Progress():
            moved = msgspec.structs.replace(task, progress=write.value, updated_at=now)
            new = replace(row, task=moved)
        case _:
            assert_never(write)
    if write.trace_context is not None:
        traced = msgspec.structs.replace(new.task, trace_context=write.trace_context)
        new = replace(new, task=traced)
    return Recorded(new.task.status), new


def _lease_lost(row: Row | None, write: LoseLease, now: datetime) -> Row | None:
    if row is None or row.task.attempt < write.attempt or write.record is None:
        return None
    return replace(row, put_away=ended_by(write, now))


def ended_by(
    write: AttemptWrite, now: datetime, running: AttemptRecord | None = None
) -> AttemptRecord | None:
    """What is put away with this write; None: nothing.

    Args:
        running: the attempt by its row, where the write does not say it.
    """
    record = write.record or running
    if record is None:
        return None
    match write:
        case Complete():
            return ended(record, AttemptOutcome.SUCCEEDED, now)
        case Fail(error=error):
            return ended(record, AttemptOutcome.FAILED, now, error)
        case Cancel(error=error):
            return ended(record, AttemptOutcome.CANCELLED, now, error)
        case ScheduleRetry(error=error):
            return ended(record, AttemptOutcome.RETRIED, now, error)
        case ScheduleSnooze():
            return ended(record, AttemptOutcome.SNOOZED, now)
        case Interrupt():
            return ended(record, AttemptOutcome.INTERRUPTED, now)
        case LoseLease():
            return ended(record, AttemptOutcome.LOST_LEASE, now)
        case Progress():
            return None
        case _:
            assert_never(write)


def target_status(write: AttemptWrite) -> TaskStatus:
    """The status a write leads to where no cancel request intervenes."""
    match write:
        case Complete():
            return TaskStatus.COMPLETED
        case Fail():
            return TaskStatus.FAILED
        case Cancel():
            return TaskStatus.CANCELLED
        case ScheduleRetry() | ScheduleSnooze() | Interrupt():
            return TaskStatus.PENDING
        case Progress() | LoseLease():
            return TaskStatus.PROCESSING
        case _:
            assert_never(write)

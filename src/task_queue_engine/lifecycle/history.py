"""The history of a task's attempts: which is put away when, and what is read from the row.

The latest attempt of a task lies in its row: started, ended, error, progress, worker. So nothing
more is written of a task that succeeds at its first attempt. An attempt is *put away* by the write
that ends it where the row will not say all of it: the task goes on, or the handler has logged
something. It lies in one of `SLOTS` places, so that no task keeps more, however often it starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from task_queue_engine.attempt_record import AttemptHistory, AttemptOutcome, AttemptRecord
from task_queue_engine.lifecycle.row import Row
from task_queue_engine.task import TaskError, TaskStatus

FIRST = LAST = 10
"""Kept of the first attempts and of the latest: how it began and how it stands. A task that snoozes
every minute has half a million a year."""

SLOTS = FIRST + LAST

CRASH_ERROR_TYPE = "task_queue_engine.errors.AttemptCrashed"
DEAD_LETTERED_ERROR_TYPE = "task_queue_engine.errors.MessageGivenUp"

_OUTCOME_OF_STATUS = {
    TaskStatus.PROCESSING: AttemptOutcome.RUNNING,
    TaskStatus.COMPLETED: AttemptOutcome.SUCCEEDED,
    TaskStatus.FAILED: AttemptOutcome.FAILED,
    TaskStatus.CANCELLED: AttemptOutcome.CANCELLED,
}


def slot_of(number: int) -> int:
    """1 to `SLOTS`: where this attempt is put away. The latest take turns, so each writes over the
    one `LAST` before it, and the same one always over itself."""
    return number if number <= FIRST else FIRST + 1 + (number - FIRST - 1) % LAST


def supersedes(new: AttemptRecord, old: AttemptRecord | None) -> bool:
    """Whether `new` takes the place of what lies in its slot. What an attempt's own worker has put
    away stands; it knows better than who took over."""
    if old is None or old.number != new.number:
        return old is None or old.number < new.number
    crashed, lost = AttemptOutcome.CRASHED, AttemptOutcome.LOST_LEASE
    return old.outcome is crashed and new.outcome is lost


def ended(
    record: AttemptRecord, outcome: AttemptOutcome, now: datetime, error: TaskError | None = None
) -> AttemptRecord:
    """Of an attempt that has been running."""
    return msgspec.structs.replace(record, outcome=outcome, ended_at=now, error=error)


def latest(row: Row) -> AttemptRecord | None:
    """The latest attempt, as the row says it; None where there was none, or where the task waits
    again and it has been put away."""
    task = row.task
    if not task.attempt or task.started_at is None or task.status is TaskStatus.PENDING:
        return None
    outcome, error = _OUTCOME_OF_STATUS[task.status], task.error
    if outcome is AttemptOutcome.RUNNING:
        error = None  # of the attempt before
    elif error is not None and error.type in (CRASH_ERROR_TYPE, DEAD_LETTERED_ERROR_TYPE):
        outcome = AttemptOutcome.CRASHED
    return AttemptRecord(
        number=task.attempt,
        outcome=outcome,
        worker=task.worker,
        version=row.version,
        started_at=task.started_at,
        ended_at=task.finished_at,
        error=error,
        progress=task.progress,
    )


def crashed(row: Row, error: TaskError, now: datetime) -> AttemptRecord | None:
    """The running attempt of this row, of which no more will be heard."""
    running = latest(row)
    return None if running is None else ended(running, AttemptOutcome.CRASHED, now, error)


def history_of(row: Row, put_away: Iterable[AttemptRecord]) -> AttemptHistory:
    """What `TaskStore.history` answers.

    Args:
        put_away: all that lies in the task's slots, in any order.
    """
    task = row.task
    known = {record.number: record for record in put_away if record.number <= task.attempt}
    now = latest(row)
    if now is not None:
        known.setdefault(now.number, now)
    numbers = sorted(known)
    if len(numbers) > SLOTS:
        numbers = numbers[:FIRST] + numbers[-LAST:]
    return AttemptHistory(
        attempts=tuple(known[number] for number in numbers), omitted=task.attempt - len(numbers)
    )

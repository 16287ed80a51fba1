"""The row of a task: what a store keeps, and how it looks at the task's end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from task_queue_engine.attempt_record import AttemptRecord
from task_queue_engine.task import Task, TaskError, TaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A task with what only the store and the claim need to know."""

    task: Task
    message_id: str | None = None
    """The message whose delivery started the current attempt, or the one that has FAILED."""
    receive_count: int = 0
    """That delivery's receive count."""
    due_at: datetime | None = None
    """Set while no message exists and the scheduler has to send one at this time."""
    claimed_ahead: bool = False
    """The current attempt was claimed before a worker was free for it. Where its process dies it
    may never have started, so it counts as no crash."""
    version: str | None = None
    """Of this package in the process that started the latest attempt."""
    put_away: AttemptRecord | None = None
    """Of a row to be written: the attempt that is put away with it, see `lifecycle.history`."""


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no row with this id. A message that names it is to be dead-lettered."""


def end(
    row: Row,
    now: datetime,
    *,
    status: TaskStatus,
    retry_count: int,
    result: Any = None,
    error: TaskError | None = None,
    put_away: AttemptRecord | None = None,
) -> Row:
    """The row of a task that ends now. One that FAILED keeps the message that is still to be
    dead-lettered."""
    task = msgspec.structs.replace(
        row.task,
        status=status,
        retry_count=retry_count,
        result=result,
        error=error,
        run_at=None,
        finished_at=now,
        updated_at=now,
    )
    if status is TaskStatus.FAILED:
        return Row(
            task=task,
            message_id=row.message_id,
            receive_count=row.receive_count,
            version=row.version,
            put_away=put_away,
        )
    return Row(task=task, version=row.version, put_away=put_away)


def delay_until(run_at: datetime | None, now: datetime) -> float:
    """Seconds from `now` to `run_at`, never negative; 0 for None."""
    if run_at is None:
        return 0.0
    return max(0.0, (run_at - now) / timedelta(seconds=1))

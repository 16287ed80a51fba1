"""Claiming: what becomes of a delivery that asks to start its task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from task_queue_engine._version import __version__
from task_queue_engine.attempt_record import AttemptRecord
from task_queue_engine.lifecycle.history import CRASH_ERROR_TYPE, crashed
from task_queue_engine.lifecycle.row import Missing, Row, end
from task_queue_engine.task import Task, TaskError, TaskStatus


@dataclass(frozen=True, slots=True)
class Receive:
    """A message had been received this often when it was given back unclaimed, as a fresh copy.
    The copy bears witness to that: a lease of an earlier receive has lapsed."""

    message_id: str
    count: int


class ClaimRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery asks to start its task."""

    task_id: str
    message_id: str
    receive_count: int
    worker: str
    version: str = __version__
    """Of this package, in the process that asks."""
    copy_of: tuple[Receive, ...] = ()
    """Of messages that this one replaces, see `Receive`."""
    ahead: bool = False
    """No worker is free yet: claim it only where an attempt that never starts costs nothing."""

    def receives_of(self, message_id: str | None) -> int:
        """How often that message is known to have been received; 0: nothing is known of it."""
        if message_id == self.message_id:
            return self.receive_count
        return max((one.count for one in self.copy_of if one.message_id == message_id), default=0)


class Started(msgspec.Struct, frozen=True):
    """Run it: the row is PROCESSING under `task.attempt`."""

    task: Task
    takeover: bool = False
    """The previous owner's lease had lapsed; its attempt was counted as a crash."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The lapsed attempt was the last one allowed. FAILED has been written: dead-letter it."""

    task: Task


@dataclass(frozen=True, slots=True)
class Finished:
    """The task is terminal (or has just become CANCELLED): delete the message, do not run."""

    status: TaskStatus


@dataclass(frozen=True, slots=True)
class NeedsDeadLetter:
    """FAILED, and the message of the attempt that failed has come back: the worker that wrote
    FAILED died before the message was dead-lettered or deleted. Dead-letter it (once more)."""

    task: Task


@dataclass(frozen=True, slots=True)
class DuplicateDelivery:
    """The same delivery twice, of a live attempt or of one that has just FAILED and is being
    dead-lettered: leave it alone, neither run nor delete."""


@dataclass(frozen=True, slots=True)
class ExtraCopy:
    """Another message of a task that is running: hide it and look again later."""


@dataclass(frozen=True, slots=True)
class NotAhead:
    """Asked for ahead, and to be claimed when a worker is free for it: its last chance, or its
    latest attempt may have killed its worker. Nothing has changed."""


@dataclass(frozen=True, slots=True)
class NotDue:
    """The task waits for its `run_at`: hide the message until then, do not run."""

    run_at: datetime


ClaimVerdict = (
    Started
    | Exhausted
    | Finished
    | NeedsDeadLetter
    | DuplicateDelivery
    | ExtraCopy
    | NotAhead
    | NotDue
    | Missing
)


def crash_error(attempt: int, worker: str | None) -> TaskError:
    """What is recorded for an attempt whose process reported no outcome."""
    return TaskError(
        type=CRASH_ERROR_TYPE,
        message=f"attempt {attempt} on {worker or 'an unknown worker'} lost its lease "
        "and was taken over: its process died, hung or was cut off",
    )


def decide_claim(
    row: Row | None, request: ClaimRequest, now: datetime
) -> tuple[ClaimVerdict, Row | None]:
    """The claim table.

    Returns:
        The verdict, and the row to write (None where nothing changes).
    """
    if row is None:
        return Missing(), None
    task = row.task
    if task.status is TaskStatus.FAILED and (
        row.message_id is not None and request.receives_of(row.message_id) > row.receive_count
    ):
        return NeedsDeadLetter(task), None
    if task.status is TaskStatus.FAILED and request.message_id == row.message_id:
        # The delivery that failed, twice: whoever had it the first time is dead-lettering it.
        return DuplicateDelivery(), None
    if task.status.is_terminal:
        return Finished(task.status), None
    if task.status is TaskStatus.PENDING:
        if task.run_at is not None and task.run_at > now:
            return NotDue(task.run_at), None
        if request.ahead and not may_be_claimed_ahead(task):
            return NotAhead(), None
        return _start(row, request, now, retry_count=task.retry_count, error=task.error)

    if request.receives_of(row.message_id) <= row.receive_count:
        # Another message's own receive count says nothing about the owner's lease.
        extra = request.message_id != row.message_id
        return (ExtraCopy() if extra else DuplicateDelivery()), None
    retry_count = retry_count_after_crash(row)
    error = crash_error(task.attempt, task.worker)
    if task.cancel_requested:
        cancelled = end(
            row,
            now,
            status=TaskStatus.CANCELLED,
            retry_count=retry_count,
            put_away=crashed(row, error, now),
        )
        return Finished(TaskStatus.CANCELLED), cancelled
    if retry_count < task.max_attempts and request.ahead:
        return NotAhead(), None
    if retry_count >= task.max_attempts:
        lapsed = replace(row, message_id=request.message_id, receive_count=request.receive_count)
        failed = end(lapsed, now, status=TaskStatus.FAILED, retry_count=retry_count, error=error)
        return Exhausted(failed.task), failed
    return _start(
        row,
        request,
        now,
        retry_count=retry_count,
        error=error,
        takeover=True,
        put_away=crashed(row, error, now),
    )


def may_be_claimed_ahead(task: Task) -> bool:
    """Not one whose last chance it is, and not one that may have killed its worker: that one is
    claimed as its worker starts it, and kept apart from others."""
    has_crashed = task.error is not None and task.error.type == CRASH_ERROR_TYPE
    return task.retry_count + 1 < task.max_attempts and not has_crashed


def retry_count_after_crash(row: Row) -> int:
    """Of a PROCESSING row whose owner is gone. What was claimed ahead may never have started: that
    costs nothing, once, since the next claim is no claim ahead."""
    return row.task.retry_count + (not row.claimed_ahead)


def _start(
    row: Row,
    request: ClaimRequest,
    now: datetime,
    *,
    retry_count: int,
    error: TaskError | None,
    takeover: bool = False,
    put_away: AttemptRecord | None = None,
) -> tuple[ClaimVerdict, Row]:
    task = msgspec.structs.replace(
        row.task,
        status=TaskStatus.PROCESSING,
        attempt=row.task.attempt + 1,
        retry_count=retry_count,
        error=error,
        started_at=now,
        updated_at=now,
        progress=None,
        worker=request.worker,
    )
    started = Row(
        task=task,
        message_id=request.message_id,
        receive_count=request.receive_count,
        claimed_ahead=request.ahead,
        version=request.version,
        put_away=put_away,
    )
    return Started(task, takeover), started

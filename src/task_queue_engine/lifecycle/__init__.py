"""The lifecycle of a task as pure functions: (row, what happened, now) -> (verdict, new row).

`PENDING -> PROCESSING -> COMPLETED | FAILED | CANCELLED`, and PROCESSING -> PENDING for a retry, a
snooze or an interruption. Terminal is final, but for an explicit retry by a person.

This is the reference every backend is held to. The memory backend calls these functions; the
others express the same rules as conditional writes and prove it in the conformance suite. No rule
here asks a wall clock who owns a task: ownership is `attempt` and the message's receive count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, assert_never

import msgspec

from task_queue_engine.task import Task, TaskError, TaskStatus

# --- the row --------------------------------------------------------------------------------


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


# --- claiming -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receive:
    """A message had been received this often when it was given back unclaimed, as a fresh copy.
    The copy bears witness to that: a lease of an earlier receive has lapsed."""

    message_id: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """A delivery asks to start its task."""

    task_id: str
    message_id: str
    receive_count: int
    worker: str
    copy_of: tuple[Receive, ...] = ()
    """Of messages that this one replaces, see `Receive`."""

    def receives_of(self, message_id: str | None) -> int:
        """How often that message is known to have been received; 0: nothing is known of it."""
        if message_id == self.message_id:
            return self.receive_count
        return max((one.count for one in self.copy_of if one.message_id == message_id), default=0)


@dataclass(frozen=True, slots=True)
class Started:
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
    """FAILED, and the message of the attempt that failed has come back: whoever wrote FAILED did
    not live to dead-letter it, or did not get as far as deleting it. Dead-letter it (once more)."""

    task: Task


@dataclass(frozen=True, slots=True)
class DuplicateDelivery:
    """The same delivery of a live attempt, twice: leave it alone, neither run nor delete."""


@dataclass(frozen=True, slots=True)
class ExtraCopy:
    """Another message of a task that is running: hide it and look again later."""


@dataclass(frozen=True, slots=True)
class NotDue:
    """The task waits for its `run_at`: hide the message until then, do not run."""

    run_at: datetime


@dataclass(frozen=True, slots=True)
class Missing:
    """No row: dead-letter the message with that reason."""


ClaimVerdict = (
    Started
    | Exhausted
    | Finished
    | NeedsDeadLetter
    | DuplicateDelivery
    | ExtraCopy
    | NotDue
    | Missing
)

CRASH_ERROR_TYPE = "task_queue_engine.errors.AttemptCrashed"


def crash_error(attempt: int, worker: str | None) -> TaskError:
    """What is recorded for an attempt whose process went away without a word."""
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
    if task.status.is_terminal:
        return Finished(task.status), None
    if task.status is TaskStatus.PENDING:
        if task.run_at is not None and task.run_at > now:
            return NotDue(task.run_at), None
        return _start(row, request, now, retry_count=task.retry_count, error=task.error)

    if request.receives_of(row.message_id) <= row.receive_count:
        # Another message's own receive count says nothing about the owner's lease.
        extra = request.message_id != row.message_id
        return (ExtraCopy() if extra else DuplicateDelivery()), None
    retry_count = task.retry_count + 1
    error = crash_error(task.attempt, task.worker)
    if task.cancel_requested:
        cancelled = _end(row, now, status=TaskStatus.CANCELLED, retry_count=retry_count)
        return Finished(TaskStatus.CANCELLED), cancelled
    if retry_count >= task.max_attempts:
        lapsed = replace(row, message_id=request.message_id, receive_count=request.receive_count)
        failed = _end(lapsed, now, status=TaskStatus.FAILED, retry_count=retry_count, error=error)
        return Exhausted(failed.task), failed
    return _start(row, request, now, retry_count=retry_count, error=error, takeover=True)


def _start(
    row: Row,
    request: ClaimRequest,
    now: datetime,
    *,
    retry_count: int,
    error: TaskError | None,
    takeover: bool = False,
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
    started = Row(task=task, message_id=request.message_id, receive_count=request.receive_count)
    return Started(task, takeover), started


# --- recording what an attempt did ----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _AttemptWrite:
    """Conditional on `status = PROCESSING AND attempt = mine`."""

    task_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete(_AttemptWrite):
    """The handler returned. `result` is JSON-encodable, already within the size limit."""

    result: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(_AttemptWrite):
    """The last attempt failed, or the handler raised Discard: FAILED, retry_count + 1."""

    error: TaskError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(_AttemptWrite):
    """Back to PENDING until `run_at`, retry_count + 1."""

    error: TaskError
    run_at: datetime
    scheduled: bool
    """True: the message goes and the scheduler sends a new one; False: the message is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snooze(_AttemptWrite):
    """Back to PENDING until `run_at`; costs no attempt."""

    run_at: datetime
    scheduled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt(_AttemptWrite):
    """Back to PENDING at once, since this engine shuts down; costs no attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(_AttemptWrite):
    """The attempt was stopped because somebody cancelled the task. `error`: its cleanup's."""

    error: TaskError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(_AttemptWrite):
    """The attempt goes on and says how far it is. `value` is JSON-encodable."""

    value: Any


AttemptWrite = Complete | Fail | Retry | Snooze | Interrupt | Cancel | Progress


@dataclass(frozen=True, slots=True)
class Recorded:
    """Written (or found written by an earlier try of the same write)."""

    status: TaskStatus
    """The status after the write. CANCELLED after a Retry, Snooze or Interrupt means that a
    cancel request had been waiting: the message is then to be deleted, not released."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """Refused: the attempt is no longer the owner. Its result is dropped, its message left."""


RecordVerdict = Recorded | Fenced


def decide_record(
    row: Row | None, write: AttemptWrite, now: datetime
) -> tuple[RecordVerdict, Row | None]:
    """Apply one attempt's write.

    Returns:
        The verdict, and the row to write (None where nothing changes).
    """
    if row is None or row.task.attempt != write.attempt:
        return Fenced(), None
    task = row.task
    if task.status is not TaskStatus.PROCESSING:
        return (Recorded(task.status) if task.status is target_status(write) else Fenced()), None

    new: Row
    match write:
        case Complete():
            new = _end(
                row,
                now,
                status=TaskStatus.COMPLETED,
                retry_count=task.retry_count,
                result=write.result,
            )
        case Fail():
            new = _end(
                row,
                now,
                status=TaskStatus.FAILED,
                retry_count=task.retry_count + 1,
                error=write.error,
            )
        case Cancel():
            new = _end(
                row,
                now,
                status=TaskStatus.CANCELLED,
                retry_count=task.retry_count,
                error=write.error,
            )
        case Retry() | Snooze() | Interrupt():
            counted = isinstance(write, Retry)
            retry_count = task.retry_count + counted
            error = write.error if isinstance(write, Retry) else task.error
            if task.cancel_requested:
                new = _end(
                    row,
                    now,
                    status=TaskStatus.CANCELLED,
                    retry_count=retry_count,
                    error=error,
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
                new = Row(task=waiting, due_at=run_at if scheduled else None)
        case Progress():
            moved = msgspec.structs.replace(task, progress=write.value, updated_at=now)
            new = replace(row, task=moved)
        case _:
            assert_never(write)
    return Recorded(new.task.status), new


def target_status(write: AttemptWrite) -> TaskStatus:
    """The status a write leads to where no cancel request intervenes."""
    match write:
        case Complete():
            return TaskStatus.COMPLETED
        case Fail():
            return TaskStatus.FAILED
        case Cancel():
            return TaskStatus.CANCELLED
        case Retry() | Snooze() | Interrupt():
            return TaskStatus.PENDING
        case Progress():
            return TaskStatus.PROCESSING
        case _:
            assert_never(write)


def _end(
    row: Row,
    now: datetime,
    *,
    status: TaskStatus,
    retry_count: int,
    result: Any = None,
    error: TaskError | None = None,
) -> Row:
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
    if status is TaskStatus.FAILED:  # its message is still to be dead-lettered
        return Row(task=task, message_id=row.message_id, receive_count=row.receive_count)
    return Row(task=task)


# --- what people ask for --------------------------------------------------------------------


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
        cancelled = _end(
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
    return Reopened(fresh), Row(task=fresh)


# --- what the reconciler finds --------------------------------------------------------------


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
    retry_count = task.retry_count + 1
    error = crash_error(task.attempt, task.worker)
    if task.cancel_requested:
        new = _end(row, now, status=TaskStatus.CANCELLED, retry_count=retry_count)
    elif retry_count >= task.max_attempts:
        new = _end(row, now, status=TaskStatus.FAILED, retry_count=retry_count, error=error)
    else:
        waiting = msgspec.structs.replace(
            task,
            status=TaskStatus.PENDING,
            retry_count=retry_count,
            error=error,
            run_at=None,
            updated_at=now,
        )
        new = Row(task=waiting)
    return Recorded(new.task.status), new


GIVEN_UP_ERROR_TYPE = "task_queue_engine.errors.MessageGivenUp"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDeadLetter:
    """The queue has moved this message of this task to the dead-letter queue by itself."""

    task_id: str
    message_id: str
    reason: str
    """One line for people."""


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
    retry_count = task.retry_count + running
    if task.cancel_requested:
        new = _end(row, now, status=TaskStatus.CANCELLED, retry_count=retry_count)
    else:
        error = TaskError(type=GIVEN_UP_ERROR_TYPE, message=dead_letter.reason)
        new = _end(row, now, status=TaskStatus.FAILED, retry_count=retry_count, error=error)
    return Recorded(new.task.status), new


def delay_until(run_at: datetime | None, now: datetime) -> float:
    """Seconds from `now` to `run_at`, never negative; 0 for None."""
    if run_at is None:
        return 0.0
    return max(0.0, (run_at - now) / timedelta(seconds=1))

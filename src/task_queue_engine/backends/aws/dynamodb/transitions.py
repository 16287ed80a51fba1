"""What the store can be asked to do to a row, as `RowUpdate`s: the blind write where there is one,
the function of `lifecycle` for all else, and how an own earlier write is recognised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import replace
from datetime import datetime

import msgspec

from task_queue_engine import lifecycle
from task_queue_engine.backends.aws.dynamodb import conditional_writes
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Update
from task_queue_engine.backends.aws.dynamodb.item_format import Item, MalformedItem, to_task
from task_queue_engine.backends.aws.dynamodb.update import RowUpdate, V
from task_queue_engine.backends.aws.dynamodb.write_tokens import StatusChange
from task_queue_engine.errors import ResultNotStorable
from task_queue_engine.lifecycle import (
    CRASH_ERROR_TYPE,
    AttemptWrite,
    BrokerDeadLetter,
    CancelledNow,
    CancelRequested,
    CancelVerdict,
    ClaimRequest,
    ClaimVerdict,
    Complete,
    Exhausted,
    ExtraCopy,
    Fail,
    Fenced,
    Finished,
    LoseLease,
    PendingFailure,
    Progress,
    Recorded,
    RecordVerdict,
    Reopened,
    ReopenVerdict,
    Row,
    Started,
)
from task_queue_engine.task import TaskError, TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")

_START: StatusChange = (TaskStatus.PENDING, TaskStatus.PROCESSING)
# Of an error's message where the item has no room for more: what a reader needs of it.
_MESSAGE_CHARACTERS = 1_000


class Claim(RowUpdate[ClaimVerdict]):
    """A delivery asks to start its task."""

    def __init__(self, request: ClaimRequest) -> None:
        super().__init__(request.task_id, ("claim", request))
        self._request = request

    def blind(self, now: datetime, token: str) -> tuple[Update, StatusChange]:
        return conditional_writes.start(self._request, now, token), _START

    def blindly_written(self, item: Item | None) -> ClaimVerdict:
        if item is None:
            raise MalformedItem("DynamoDB did not return the item that was changed")
        return Started(to_task(item))

    def decide(self, row: Row | None, now: datetime) -> tuple[ClaimVerdict, Row | None]:
        return lifecycle.decide_claim(row, self._request, now)

    def recognise(self, row: Row) -> ClaimVerdict:
        task = row.task
        if task.status is TaskStatus.PROCESSING:
            crashed = task.error is not None and task.error.type == CRASH_ERROR_TYPE
            return Started(task, takeover=crashed)
        return Exhausted(task) if task.status is TaskStatus.FAILED else Finished(task.status)

    def invalid(self, message: str) -> ClaimVerdict:
        # Another program's item, so large that it has no room for our attributes. Hidden and
        # looked at again until the queue's own redrive policy takes its message away.
        logger.error("task %s cannot be started: %s", self.task_id, message)
        return ExtraCopy()


class Record(RowUpdate[RecordVerdict]):
    """What an attempt came to.

    Args:
        retention: seconds after its end at which a task expires; 0: never.
    """

    def __init__(self, write: AttemptWrite, *, retention: float) -> None:
        super().__init__(write.task_id, ("record", write.task_id, write.attempt, type(write)))
        self._write = write
        self.changes_status = not isinstance(write, Progress | LoseLease)
        self._retention = retention
        # The item has no room: leave out what can be done without.
        self._is_squeezed = False

    def blind(self, now: datetime, token: str) -> tuple[Update, StatusChange] | None:
        write = self._write
        if isinstance(write, LoseLease):
            return None
        target = lifecycle.target_status(write)
        if target is TaskStatus.PENDING and write.record is None:
            return None  # it is put away as the row says it
        return (
            conditional_writes.record(write, now, token, retention=self._retention),
            (TaskStatus.PROCESSING, target),
        )

    def blindly_written(self, item: Item | None) -> RecordVerdict:
        return Recorded(lifecycle.target_status(self._write))

    def decide(self, row: Row | None, now: datetime) -> tuple[RecordVerdict, Row | None]:
        verdict, wanted = lifecycle.decide_record(row, self._write, now)
        if wanted is not None and self._is_squeezed:
            wanted = _squeezed(wanted)
        return verdict, wanted

    def recognise(self, row: Row) -> RecordVerdict:
        return Fenced() if isinstance(self._write, LoseLease) else Recorded(row.task.status)

    def invalid(self, message: str) -> RecordVerdict | None:
        if self._is_squeezed:
            return super().invalid(message)
        if isinstance(self._write, LoseLease):
            logger.warning("the lost lease of task %s was not noted: %s", self.task_id, message)
            return Fenced()
        if isinstance(self._write, Progress):
            logger.warning("progress of task %s was not stored: %s", self.task_id, message)
            return Recorded(TaskStatus.PROCESSING)
        if isinstance(self._write, Complete):
            error = TaskError(
                type=f"{ResultNotStorable.__module__}.{ResultNotStorable.__qualname__}",
                message="the handler returned, but its result and its payload together do not "
                f"fit into a DynamoDB item of 400 KB: {message}",
            )
            self._write = Fail(
                task_id=self.task_id,
                attempt=self._write.attempt,
                error=error,
                record=self._write.record,
            )
        logger.warning("task %s has no room for all of its outcome: %s", self.task_id, message)
        self._is_squeezed = True
        return None


def _squeezed(row: Row) -> Row:
    """Without progress and traceback, and with a short message."""
    error = row.task.error
    if error is not None:
        error = TaskError(type=error.type, message=error.message[:_MESSAGE_CHARACTERS])
    return replace(row, task=msgspec.structs.replace(row.task, error=error, progress=None))


class Decided(RowUpdate[V]):
    """What always needs a look at the row.

    Args:
        rule: the function of `lifecycle`.
        own: the verdict where the row is as `rule` has made it before.
    """

    def __init__(
        self,
        task_id: str,
        request_key: Hashable,
        rule: Callable[[Row | None, datetime], tuple[V, Row | None]],
        own: Callable[[Row], V],
    ) -> None:
        super().__init__(task_id, request_key)
        self._rule = rule
        self._own = own

    def decide(self, row: Row | None, now: datetime) -> tuple[V, Row | None]:
        return self._rule(row, now)

    def recognise(self, row: Row) -> V:
        return self._own(row)


def cancel(task_id: str) -> Decided[CancelVerdict]:
    def own(row: Row) -> CancelVerdict:
        is_cancelled = row.task.status is TaskStatus.CANCELLED
        return CancelledNow(row.task) if is_cancelled else CancelRequested(row.task)

    return Decided(task_id, ("cancel", task_id), lifecycle.decide_cancel, own)


def reopen(task_id: str) -> Decided[ReopenVerdict]:
    return Decided(
        task_id, ("reopen", task_id), lifecycle.decide_reopen, lambda row: Reopened(row.task)
    )


def reclaim(task_id: str, attempt: int) -> Decided[RecordVerdict]:
    return Decided(
        task_id,
        ("reclaim", task_id, attempt),
        lambda row, now: lifecycle.decide_reclaim(row, attempt, now),
        _recorded,
    )


def fail_dead_lettered(dead_letter: BrokerDeadLetter) -> Decided[RecordVerdict]:
    return Decided(
        dead_letter.task_id,
        ("fail_dead_lettered", dead_letter.task_id, dead_letter.message_id),
        lambda row, now: lifecycle.decide_fail_dead_lettered(row, dead_letter, now),
        _recorded,
    )


def fail_pending(failure: PendingFailure) -> Decided[RecordVerdict]:
    return Decided(
        failure.task_id,
        ("fail_pending", failure.task_id, failure.attempt),
        lambda row, now: lifecycle.decide_fail_pending(row, failure, now),
        _recorded,
    )


def _recorded(row: Row) -> RecordVerdict:
    return Recorded(row.task.status)

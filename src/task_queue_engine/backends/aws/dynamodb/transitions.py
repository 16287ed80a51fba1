"""What the store can be asked to do to a row, as `Change`s: the blind write where there is one,
the function of `lifecycle` for all else, and how an own earlier write is recognised.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from task_queue_engine import lifecycle
from task_queue_engine.backends.aws.dynamodb import conditional_writes as writes
from task_queue_engine.backends.aws.dynamodb import item_format as items
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Update
from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.dynamodb.update import Change
from task_queue_engine.backends.aws.dynamodb.write_tokens import Transition
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
    Finished,
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

_START: Transition = (TaskStatus.PENDING, TaskStatus.PROCESSING)
_MESSAGE_CHARACTERS = 1_000


@dataclass(slots=True, eq=False)
class Claiming(Change[ClaimVerdict]):
    request: ClaimRequest

    @property
    def task_id(self) -> str:
        return self.request.task_id

    @property
    def question(self) -> Hashable:
        return ("claim", self.request)

    def blind(self, now: datetime, token: str) -> tuple[Update, Transition]:
        return writes.start(self.request, now, token), _START

    def blindly_written(self, item: Item | None) -> ClaimVerdict:
        if item is None:
            raise items.MalformedItem("DynamoDB did not return the item that was changed")
        return Started(items.to_task(item))

    def decide(self, row: Row | None, now: datetime) -> tuple[ClaimVerdict, Row | None]:
        return lifecycle.decide_claim(row, self.request, now)

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


@dataclass(slots=True, eq=False)
class Recording(Change[RecordVerdict]):
    write: AttemptWrite
    retention: float
    is_squeezed: bool = False
    """The item has no room: leave out what can be done without."""

    @property
    def task_id(self) -> str:
        return self.write.task_id

    @property
    def question(self) -> Hashable:
        return ("record", self.write.task_id, self.write.attempt, type(self.write))

    def blind(self, now: datetime, token: str) -> tuple[Update, Transition]:
        target = lifecycle.target_status(self.write)
        return (
            writes.record(self.write, now, token, retention=self.retention),
            (TaskStatus.PROCESSING, target),
        )

    def blindly_written(self, item: Item | None) -> RecordVerdict:
        return Recorded(lifecycle.target_status(self.write))

    def decide(self, row: Row | None, now: datetime) -> tuple[RecordVerdict, Row | None]:
        verdict, wanted = lifecycle.decide_record(row, self.write, now)
        if wanted is not None and self.is_squeezed:
            wanted = _squeezed(wanted)
        return verdict, wanted

    def recognise(self, row: Row) -> RecordVerdict:
        return Recorded(row.task.status)

    def invalid(self, message: str) -> RecordVerdict | None:
        if self.is_squeezed:
            return Change.invalid(self, message)
        if isinstance(self.write, Progress):
            logger.warning("progress of task %s was not stored: %s", self.task_id, message)
            return Recorded(TaskStatus.PROCESSING)
        if isinstance(self.write, Complete):
            error = TaskError(
                type=f"{ResultNotStorable.__module__}.{ResultNotStorable.__qualname__}",
                message="the handler returned, but its result and its payload together do not "
                f"fit into a DynamoDB item of 400 KB: {message}",
            )
            self.write = Fail(task_id=self.task_id, attempt=self.write.attempt, error=error)
        logger.warning("task %s has no room for all of its outcome: %s", self.task_id, message)
        self.is_squeezed = True
        return None


def _squeezed(row: Row) -> Row:
    """Without progress and traceback, and with a short message."""
    error = row.task.error
    if error is not None:
        error = TaskError(type=error.type, message=error.message[:_MESSAGE_CHARACTERS])
    return replace(row, task=msgspec.structs.replace(row.task, error=error, progress=None))


@dataclass(slots=True, eq=False)
class Cancelling(Change[CancelVerdict]):
    id: str

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def question(self) -> Hashable:
        return ("cancel", self.task_id)

    def decide(self, row: Row | None, now: datetime) -> tuple[CancelVerdict, Row | None]:
        return lifecycle.decide_cancel(row, now)

    def recognise(self, row: Row) -> CancelVerdict:
        if row.task.status is TaskStatus.CANCELLED:
            return CancelledNow(row.task)
        return CancelRequested(row.task)


@dataclass(slots=True, eq=False)
class Reopening(Change[ReopenVerdict]):
    id: str

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def question(self) -> Hashable:
        return ("reopen", self.task_id)

    def decide(self, row: Row | None, now: datetime) -> tuple[ReopenVerdict, Row | None]:
        return lifecycle.decide_reopen(row, now)

    def recognise(self, row: Row) -> ReopenVerdict:
        return Reopened(row.task)


@dataclass(slots=True, eq=False)
class Reclaiming(Change[RecordVerdict]):
    id: str
    attempt: int

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def question(self) -> Hashable:
        return ("reclaim", self.task_id, self.attempt)

    def decide(self, row: Row | None, now: datetime) -> tuple[RecordVerdict, Row | None]:
        return lifecycle.decide_reclaim(row, self.attempt, now)

    def recognise(self, row: Row) -> RecordVerdict:
        return Recorded(row.task.status)


@dataclass(slots=True, eq=False)
class FailingDeadLettered(Change[RecordVerdict]):
    dead_letter: BrokerDeadLetter

    @property
    def task_id(self) -> str:
        return self.dead_letter.task_id

    @property
    def question(self) -> Hashable:
        return ("fail_dead_lettered", self.dead_letter.task_id, self.dead_letter.message_id)

    def decide(self, row: Row | None, now: datetime) -> tuple[RecordVerdict, Row | None]:
        return lifecycle.decide_fail_dead_lettered(row, self.dead_letter, now)

    def recognise(self, row: Row) -> RecordVerdict:
        return Recorded(row.task.status)

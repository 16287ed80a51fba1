"""Conditional writes of one item, as data: what `lifecycle` decides, said in DynamoDB's terms.

What every task goes through is written *blindly*, in one request: to start a PENDING task, to
record what its attempt came to. The condition holds all that `lifecycle` would look at; where it
fails, the refusal brings the row, the pure function decides, and `change` writes conditionally on
what was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Literal, assert_never

import msgspec

from task_queue_engine.backends.aws.dynamodb import attempt_slots, schema
from task_queue_engine.backends.aws.dynamodb.item_format import (
    NOT_DELAYED,
    OPTIONAL,
    STATUS,
    AttributeValue,
    Item,
    as_json,
    changeable,
    delivery_of,
    expiry,
    is_counted,
    moment,
    number,
    text,
)
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition
from task_queue_engine.backends.aws.dynamodb.write_tokens import read_token
from task_queue_engine.backends.base import DueChange
from task_queue_engine.backends.claimed_by import claimed_by
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Cancel,
    ClaimRequest,
    Complete,
    Fail,
    Interrupt,
    LoseLease,
    Progress,
    Row,
    ScheduleRetry,
    ScheduleSnooze,
    ended_by,
)
from task_queue_engine.task import TaskStatus


class Condition(msgspec.Struct, frozen=True):
    """On one attribute. `value` is None for "missing" and "exists" alone."""

    attribute: str
    relation: Literal["=", "<=", ">=", "missing", "exists"]
    value: AttributeValue | None = None


class Insert(msgspec.Struct, frozen=True, kw_only=True):
    """A new item; refused where the id exists."""

    item: Item

    @property
    def task_id(self) -> str:
        task_id: str = self.item["id"]["S"]
        return task_id


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """Refused where a condition fails or the item does not exist."""

    task_id: str
    sets: Mapping[str, AttributeValue]
    increments: tuple[str, ...] = ()
    """Numbers that go up by 1."""
    removes: tuple[str, ...] = ()
    conditions: tuple[Condition, ...]
    """Never empty: without any, DynamoDB would create a missing item."""
    returning: bool = False
    """The new item is wanted."""


class Delete(msgspec.Struct, frozen=True, kw_only=True):
    """Refused where a condition fails; of an item that does not exist, nothing happens."""

    task_id: str
    conditions: tuple[Condition, ...]


Write = Insert | Update | Delete


_PENDING = STATUS[TaskStatus.PENDING]
_PROCESSING = STATUS[TaskStatus.PROCESSING]
_NOT_DELAYED = text(NOT_DELAYED)
_START_REMOVES = ("progress", "due_at", "due_shard", "stranded_at")
_WAIT_REMOVES = ("message_id", "receive_count")
# What `status-index` holds of a task and a change to this status need not touch: an unfinished task
# stays in its partition, and COMPLETED ones lie where most of them lay before.
_LEFT_ALONE = {
    TaskStatus.PROCESSING: ("status_shard", "status_at"),
    TaskStatus.COMPLETED: ("status_at",),
}
_END_REMOVES = ("run_at", "message_id", "receive_count", "cancel_shard")
_IS_PROCESSING = Condition("status", "=", _PROCESSING)
_NOT_TO_BE_CANCELLED = Condition("cancel_requested", "missing")

# One time is that of a whole batch of writes.
_shared_moment = lru_cache(maxsize=4)(moment)


@lru_cache(maxsize=4)
def _can_start(now: datetime) -> tuple[Condition, ...]:
    return (
        Condition("status", "=", _PENDING),
        Condition("status_shard", "exists"),
        Condition("not_before", "<=", _shared_moment(now)),
    )


@lru_cache(maxsize=64)
def _claimant(version: str, worker: str) -> AttributeValue:
    return text(claimed_by(version, worker) or "")


# A task that has failed before goes the long way, which takes a look at how.
_AHEAD = (Condition("error", "missing"), Condition("max_attempts", ">=", number(2)))


def start(request: ClaimRequest, now: datetime, token: str) -> Update:
    """`lifecycle.decide_claim` of a task that is PENDING and due. (That it has a `status_shard`
    says that the item is one of ours: other programs' go the long way.)"""
    at, said = _shared_moment(now), text(token)
    ahead: Item = {}
    conditions = _can_start(now)
    if request.ahead:
        delivery = delivery_of(request.message_id, request.receive_count)
        ahead = {"claimed_ahead": text(delivery)}
        conditions += _AHEAD
    return Update(
        task_id=request.task_id,
        sets={
            "status": _PROCESSING,
            "started_at": at,
            "updated_at": at,
            "worker": text(request.worker),
            "claimed_by": _claimant(request.version, request.worker),
            "message_id": text(request.message_id),
            "receive_count": number(request.receive_count),
            # The second until the next start: `token` is the last write's.
            "token": said,
            "claim_token": said,
            **ahead,
        },
        increments=("attempt",),
        removes=_START_REMOVES,
        conditions=conditions,
        returning=True,
    )


def record(write: AttemptWrite, now: datetime, token: str, *, retention: float) -> Update:
    """`lifecycle.decide_record` of the running attempt's own write."""
    at = _shared_moment(now)
    sets: Item = {"updated_at": at, "token": text(token)}
    increments: tuple[str, ...] = ()
    removes: tuple[str, ...]
    conditions: tuple[Condition, ...] = (
        _IS_PROCESSING,
        Condition("attempt", "=", number(write.attempt)),
    )
    match write:
        case Progress(value=value):
            removes = () if value is not None else ("progress",)
            if value is not None:
                sets["progress"] = as_json(value)
        case Complete() | Fail() | Cancel():
            removes = _END_REMOVES
            status = _set_ending(write, sets)
            sets["finished_at"] = at
            sets["not_before"] = _NOT_DELAYED
            _set_status(sets, write.task_id, status, at)
            for name in _LEFT_ALONE.get(status, ()):
                del sets[name]
            if retention:
                sets[schema.TTL_ATTRIBUTE] = expiry(now, status, retention)
            if "result" not in sets:
                removes += ("result",)
            if "error" not in sets:
                removes += ("error",)
            if isinstance(write, Fail):
                increments = ("retry_count",)
                removes = tuple(name for name in removes if name not in _WAIT_REMOVES)
        case ScheduleRetry() | ScheduleSnooze():
            removes = _WAIT_REMOVES
            _set_status(sets, write.task_id, TaskStatus.PENDING, moment(max(now, write.run_at)))
            sets["run_at"] = sets["not_before"] = moment(write.run_at)
            if write.scheduled:
                sets["due_at"] = moment(write.run_at)
                sets["due_shard"] = text(schema.due_shard(write.task_id))
            if isinstance(write, ScheduleRetry):
                sets["error"] = as_json(write.error)
                increments = ("retry_count",)
            conditions += (_NOT_TO_BE_CANCELLED,)
        case Interrupt():
            removes = (*_WAIT_REMOVES, "run_at")
            _set_status(sets, write.task_id, TaskStatus.PENDING, at)
            sets["not_before"] = _NOT_DELAYED
            conditions += (_NOT_TO_BE_CANCELLED,)
        case LoseLease():
            raise ValueError("what becomes of this depends on the row")
        case _:
            assert_never(write)
    if write.trace_context is not None:
        sets["trace_context"] = as_json(write.trace_context)
    if write.record is not None and (over := ended_by(write, now)) is not None:
        sets[attempt_slots.name_of(over)] = attempt_slots.encode(over)
    return Update(
        task_id=write.task_id,
        sets=sets,
        increments=increments,
        removes=removes,
        conditions=conditions,
    )


def _set_ending(write: Complete | Fail | Cancel, sets: Item) -> TaskStatus:
    if isinstance(write, Complete):
        if write.result is not None:
            sets["result"] = as_json(write.result)
        return TaskStatus.COMPLETED
    if write.error is not None:
        sets["error"] = as_json(write.error)
    return TaskStatus.FAILED if isinstance(write, Fail) else TaskStatus.CANCELLED


def _set_status(sets: Item, task_id: str, status: TaskStatus, since: AttributeValue) -> None:
    sets["status"] = STATUS[status]
    sets["status_shard"] = text(schema.status_shard(schema.PARTITION_OF[status], task_id))
    sets["status_at"] = since


def change(read: Item, row: Row, token: str, *, retention: float) -> Update:
    """Make `row` of the item that was read, if it is still as it was read.

    Every write of an engine leaves a token of its own, so an unchanged token is an unchanged row;
    the status guards against writers that know nothing of tokens.
    """
    wanted = changeable(row, retention=retention)
    sets = {name: value for name, value in wanted.items() if read.get(name) != value}
    # Said even where it was so when read: the sweep leaves no token.
    sets["status_shard"] = wanted["status_shard"]
    if "status_shard" in read:
        for name in _LEFT_ALONE.get(row.task.status, ()):
            sets.pop(name, None)
    sets["token"] = text(token)
    if row.task.status is TaskStatus.PROCESSING and is_counted(read) and read["status"] == _PENDING:
        sets["claim_token"] = text(token)
    if _is_taken_from_another(read, token) and not row.task.status.is_terminal:
        # Its process may have died without counting that start, and the next one writes over it.
        # (Of its own starts a process has counted those before this change once it has this one.)
        sets["taken_token"] = read["claim_token"]
    # Removed whether or not it was there when read: the scheduler's mark has no token.
    removes = tuple(name for name in OPTIONAL if name not in wanted)
    if row.put_away is not None:
        attempt_slots.put_away(row.put_away, read, sets)
    if row.put_away is not None or not attempt_slots.NAMES.isdisjoint(read):
        removes = attempt_slots.make_room(read, sets, removes)
    return Update(
        task_id=row.task.id,
        sets=sets,
        removes=removes,
        conditions=(
            Condition("status", "=", read["status"]),
            Condition("token", "=", read["token"])
            if "token" in read
            else Condition("token", "missing"),
        ),
        returning=False,
    )


def _is_taken_from_another(read: Item, token: str) -> bool:
    if read["status"] != _PROCESSING or "claim_token" not in read:
        return False
    process, _ = read_token(read["claim_token"]["S"])
    return process != read_token(token)[0]


def mark_due(task_id: str, due_at: datetime) -> Update:
    """`TaskStore.schedule` of one task."""
    return Update(
        task_id=task_id,
        sets={"due_at": moment(due_at), "due_shard": text(schema.due_shard(task_id))},
        conditions=(Condition("status", "=", _PENDING),),
    )


def change_due(change: DueChange) -> Update:
    """`TaskStore.change_due` of one task."""
    is_as_expected = (
        Condition("due_at", "missing")
        if change.expected is None
        else Condition("due_at", "=", moment(change.expected))
    )
    conditions = (Condition("status", "=", _PENDING), is_as_expected)
    if change.due_at is not None:
        return msgspec.structs.replace(
            mark_due(change.task_id, change.due_at), conditions=conditions
        )
    return Update(
        task_id=change.task_id, sets={}, removes=("due_at", "due_shard"), conditions=conditions
    )


def expire_at(read: Item, expires_at: AttributeValue) -> Update:
    """Let a task expire that ended without a time to, unless it has been reopened."""
    return Update(
        task_id=read["id"]["S"],
        sets={schema.TTL_ATTRIBUTE: expires_at},
        conditions=(
            Condition("status", "=", read["status"]),
            Condition("finished_at", "=", read["finished_at"]),
            Condition(schema.TTL_ATTRIBUTE, "missing"),
        ),
    )


def mark_stranded(read: Item, now: datetime) -> Update:
    """Say that this task is being reported as stranded, if no other engine has meanwhile."""
    return Update(
        task_id=read["id"]["S"],
        sets={"stranded_at": moment(now)},
        conditions=(
            Condition("status", "=", read["status"]),
            Condition("stranded_at", "=", read["stranded_at"])
            if "stranded_at" in read
            else Condition("stranded_at", "missing"),
        ),
    )


def reindex(task_id: str, status_at: AttributeValue) -> Update:
    """Move to OPEN what is still in the default partition, unless it has finished.

    No token is left and none asked for: no decision rests on the partition of a task, and a start
    in the same moment is neither refused nor refuses this.

    Args:
        status_at: of `item_format.status_at_of`.
    """
    return Update(
        task_id=task_id,
        sets={
            "status_shard": text(schema.status_shard(IndexPartition.OPEN, task_id)),
            "status_at": status_at,
        },
        conditions=(
            Condition(
                "status_shard", "=", text(schema.status_shard(IndexPartition.DEFAULT, task_id))
            ),
            Condition("finished_at", "missing"),
        ),
    )


def remove(task_id: str, status: TaskStatus, finished_at: AttributeValue | None) -> Delete:
    """Forget a task that ended at this time, unless it has been reopened. Other programs' items may
    not say when."""
    return Delete(
        task_id=task_id,
        conditions=(
            Condition("status", "=", STATUS[status]),
            Condition("finished_at", "missing")
            if finished_at is None
            else Condition("finished_at", "=", finished_at),
        ),
    )

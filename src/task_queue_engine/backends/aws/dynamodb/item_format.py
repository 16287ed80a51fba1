"""Between `lifecycle.Row` and the table's items.

An item can be read without this package, but for its earlier attempts (`attempt_slots`): the API's
names, times as RFC 3339 text, numbers as numbers. `payload` is the text itself where it is a string
(as the Go service stored it), else JSON text with `payload_encoding` = "json" beside it; `result`,
`error` and `progress` are always JSON text. Native maps would not do: their numbers have 38 digits,
their nesting ends at 32 levels, and 1.0 comes back as 1.

Other programs' items may lack everything but `id`, `type` and `created_at`, may hold times of
another precision or zone, and payloads as native maps.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.native_values import native
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition
from task_queue_engine.backends.aws.dynamodb.sort_keys import (
    created_at_of_sort_key,
    moment_text,
    sort_key,
)
from task_queue_engine.backends.claimed_by import claimed_by, version_of
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import DEFAULT_QUEUE, Task, TaskError, TaskStatus
from task_queue_engine.trace_context import decode

logger = logging.getLogger("task_queue_engine.dynamodb")

AttributeValue = dict[str, Any]
"""DynamoDB's JSON: one member, named by the type: {"S": "text"}, {"N": "1"}, ..."""
Item = dict[str, AttributeValue]

NOT_DELAYED = "0"
"""`not_before` of a task without `run_at`: smaller than any time."""

_JSON_ENCODING = "json"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_error = msgspec.json.Decoder(TaskError).decode

OPTIONAL = (
    "run_at",
    "started_at",
    "finished_at",
    "result",
    "error",
    "progress",
    "worker",
    "cancel_requested",
    "cancel_shard",
    "message_id",
    "receive_count",
    "due_at",
    "due_shard",
    schema.TTL_ATTRIBUTE,
    "stranded_at",
)
"""Of `changeable`: those that may be missing."""


class MalformedItem(ValueError):
    """An item under a task's id that cannot be understood; says which attribute is wrong."""


# --- values ---------------------------------------------------------------------------------


def text(value: str) -> AttributeValue:
    return {"S": value}


def number(value: float) -> AttributeValue:
    return {"N": repr(value)}


def moment(value: datetime) -> AttributeValue:
    return {"S": moment_text(value)}


STATUS: dict[TaskStatus, AttributeValue] = {each: text(each.value) for each in TaskStatus}
_NEVER_DELAYED = text(NOT_DELAYED)
_STATUS_OF = {each.value: each for each in TaskStatus}


def as_json(value: Any) -> AttributeValue:
    return {"S": _encode(value).decode()}


# --- from a row -----------------------------------------------------------------------------


def new_item(
    row: Row,
    *,
    payload_json: bytes,
    token: str,
    retention: float,
    in_default_partition: bool = False,
) -> Item:
    """The whole item of a task to be created.

    Args:
        in_default_partition: where the index has tasks that will soon have run; without it, where
            the status says.
    """
    task = row.task
    item: Item = {
        "id": text(task.id),
        "type": text(task.type),
        "queue": text(task.queue),
        "max_attempts": number(task.max_attempts),
    }
    if payload_json.startswith(b'"'):
        item["payload"] = text(_decode(payload_json))
    else:
        item["payload"] = text(payload_json.decode())
        item["payload_encoding"] = text(_JSON_ENCODING)
    if task.timeout_seconds is not None:
        item["timeout_seconds"] = number(task.timeout_seconds)
    item.update(changeable(row, retention=retention))
    item["created_at"] = text(created_at_of_sort_key(item["position"]["S"]))
    if in_default_partition:
        item["status_shard"] = text(schema.status_shard(IndexPartition.DEFAULT, task.id))
    # For good: `token` is the last write's.
    item["token"] = item["create_token"] = text(token)
    return item


def changeable(row: Row, *, retention: float) -> Item:
    """Every attribute of a row that a change may touch, but for `token`; what is not there is
    to be missing in the item.

    Args:
        retention: seconds after its end at which a task expires; 0: never.
    """
    task = row.task
    status = task.status
    since = _status_at(task)
    position = sort_key(task.created_at, task.id)
    is_untouched = task.updated_at is task.created_at  # a new one is
    updated_at = text(created_at_of_sort_key(position)) if is_untouched else moment(task.updated_at)
    item: Item = {
        "status": STATUS[status],
        "status_shard": text(schema.status_shard(schema.PARTITION_OF[status], task.id)),
        "status_at": updated_at if since is task.updated_at else moment(since),
        "position": text(position),
        "not_before": _NEVER_DELAYED if task.run_at is None else moment(task.run_at),
        "retry_count": number(task.retry_count),
        "attempt": number(task.attempt),
        "updated_at": updated_at,
    }
    if task.run_at is not None:
        item["run_at"] = moment(task.run_at)
    if task.started_at is not None:
        item["started_at"] = moment(task.started_at)
    if task.finished_at is not None:
        item["finished_at"] = moment(task.finished_at)
        if retention:
            item[schema.TTL_ATTRIBUTE] = expiry(task.finished_at, status, retention)
    if task.result is not None:
        item["result"] = as_json(task.result)
    if task.error is not None:
        item["error"] = as_json(task.error)
    if task.progress is not None:
        item["progress"] = as_json(task.progress)
    if task.worker is not None:
        item["worker"] = text(task.worker)
        if (claimant := claimed_by(row.version, task.worker)) is not None:
            item["claimed_by"] = text(claimant)
    if task.cancel_requested:
        item["cancel_requested"] = {"BOOL": True}
        if status is TaskStatus.PROCESSING:
            item["cancel_shard"] = text(schema.CANCEL_SHARD)
    if row.message_id is not None:
        item["message_id"] = text(row.message_id)
        item["receive_count"] = number(row.receive_count)
        if row.claimed_ahead:
            item["claimed_ahead"] = text(delivery_of(row.message_id, row.receive_count))
    if task.trace_context is not UNSET:
        item["trace_context"] = as_json(task.trace_context)
    if row.due_at is not None:
        item["due_at"] = moment(row.due_at)
        item["due_shard"] = text(schema.due_shard(task.id))
    return item


def delivery_of(message_id: str, receive_count: int) -> str:
    """What `claimed_ahead` holds: the delivery that was claimed ahead, and not a flag, which a
    process that does not know it would leave there for its own claims."""
    return f"{receive_count}.{message_id}"


def expiry(finished_at: datetime, status: TaskStatus, retention: float) -> AttributeValue:
    """A FAILED task is kept as long as its dead letter can be: without its row that could not be
    redriven any more."""
    kept = max(retention, schema.DEAD_LETTERS_KEPT) if status is TaskStatus.FAILED else retention
    return number(int(finished_at.timestamp() + kept))


def _status_at(task: Task) -> datetime:
    """Since when it has been what it is: when it became ready, started or ended. A blind start and
    a completion leave `status_at` alone, so in the index it means: since then at the earliest."""
    if task.status is TaskStatus.PENDING:
        return task.updated_at if task.run_at is None else max(task.updated_at, task.run_at)
    since = task.started_at if task.status is TaskStatus.PROCESSING else task.finished_at
    return since or task.updated_at


def status_at_of(item: Item) -> AttributeValue:
    """The same of a stored item that is not finished."""
    is_running = item.get("status") == STATUS[TaskStatus.PROCESSING]
    names = ("started_at",) if is_running else ("updated_at", "run_at")
    # Where other programs have left none of them: as old as can be.
    return text(max((item[name].get("S", "") for name in names if name in item), default="0"))


# --- to a row -------------------------------------------------------------------------------


def to_row(item: Item) -> Row:
    """
    Raises:
        MalformedItem
    """
    task = to_task(item)
    message_id = _text_or_none(item, "message_id")
    receive_count = _integer(item, "receive_count", 0)
    claimed_ahead = _text_or_none(item, "claimed_ahead")
    return Row(
        task=task,
        message_id=message_id,
        receive_count=receive_count,
        claimed_ahead=claimed_ahead is not None
        and claimed_ahead == delivery_of(message_id or "", receive_count),
        due_at=_moment_or_none(item, "due_at"),
        version=version_of(_text_or_none(item, "claimed_by"), task.worker),
    )


def read_row(item: Item) -> Row | None:
    """As `to_row`; None for an item that cannot be understood, which is logged."""
    try:
        return to_row(item)
    except MalformedItem as error:
        logger.error("the item of task %s is malformed: %s", item["id"].get("S"), error)
        return None


def to_task(item: Item) -> Task:
    """
    Raises:
        MalformedItem
    """
    created_at = _moment_or_none(item, "created_at")
    if created_at is None:
        raise MalformedItem("created_at is missing")
    return Task(
        id=_text(item, "id"),
        type=_text(item, "type"),
        payload=_payload(item),
        status=status_of(item),
        queue=_text_or_none(item, "queue") or DEFAULT_QUEUE,
        retry_count=_integer(item, "retry_count", 0),
        attempt=_integer(item, "attempt", 0),
        max_attempts=_integer(item, "max_attempts", 3),
        timeout_seconds=_float_or_none(item, "timeout_seconds"),
        created_at=created_at,
        updated_at=_moment_or_none(item, "updated_at") or created_at,
        run_at=_moment_or_none(item, "run_at"),
        started_at=_moment_or_none(item, "started_at"),
        finished_at=_moment_or_none(item, "finished_at"),
        result=_json_or_none(item, "result"),
        error=_error_or_none(item),
        progress=_json_or_none(item, "progress"),
        worker=_text_or_none(item, "worker"),
        cancel_requested=item.get("cancel_requested", {}).get("BOOL") is True,
        trace_context=decode(_text_or_none(item, "trace_context")),
    )


def is_counted(item: Item) -> bool:
    """Whether the task is in the counters: other programs' items are not until they start."""
    return "status_shard" in item


def created_at_of(item: Item | None) -> datetime | None:
    """Of an item of ours; None where that cannot be read."""
    try:
        return datetime.fromisoformat((item or {})["created_at"]["S"])
    except (KeyError, ValueError):
        return None


def token_of(item: Item) -> str | None:
    return item["token"].get("S") if "token" in item else None


def _payload(item: Item) -> Any:
    value = item.get("payload")
    if value is None:
        return None
    if _text_or_none(item, "payload_encoding") == _JSON_ENCODING:
        return _json_or_none(item, "payload")
    return native(value)


def status_of(item: Item) -> TaskStatus:
    """
    Raises:
        MalformedItem
    """
    value = _text(item, "status")
    status = _STATUS_OF.get(value)
    if status is None:
        raise MalformedItem(f"status is {value!r}")
    return status


def finished_at_of(item: Item) -> datetime | None:
    """
    Raises:
        MalformedItem
    """
    return _moment_or_none(item, "finished_at")


def _text(item: Item, name: str) -> str:
    value = _text_or_none(item, name)
    if value is None:
        raise MalformedItem(f"{name} is missing or not a string")
    return value


def _text_or_none(item: Item, name: str) -> str | None:
    value = item.get(name)
    return None if value is None else value.get("S")


def _integer(item: Item, name: str, default: int) -> int:
    value = item.get(name)
    if value is None:
        return default
    try:
        return int(value["N"])
    except (KeyError, ValueError):
        raise MalformedItem(f"{name} is not a whole number") from None


def _float_or_none(item: Item, name: str) -> float | None:
    value = item.get(name)
    if value is None:
        return None
    try:
        return float(value["N"])
    except (KeyError, ValueError):
        raise MalformedItem(f"{name} is not a number") from None


def _moment_or_none(item: Item, name: str) -> datetime | None:
    value = item.get(name)
    if value is None or "NULL" in value:
        return None
    try:
        if "N" in value:  # seconds since 1970
            return datetime.fromtimestamp(float(value["N"]), UTC)
        found = datetime.fromisoformat(value["S"])
        if found.tzinfo is UTC:  # written by us
            return found
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (KeyError, ValueError, OverflowError, OSError):
        raise MalformedItem(f"{name} is not a time of RFC 3339") from None


def _json_or_none(item: Item, name: str) -> Any:
    value = item.get(name)
    if value is None:
        return None
    try:
        return _decode(value["S"])
    except (KeyError, msgspec.DecodeError):
        raise MalformedItem(f"{name} is not JSON text") from None


def _error_or_none(item: Item) -> TaskError | None:
    value = item.get("error")
    if value is None:
        return None
    try:
        return _decode_error(value["S"])
    except (KeyError, msgspec.DecodeError):
        raise MalformedItem("error is not the JSON text of an error") from None

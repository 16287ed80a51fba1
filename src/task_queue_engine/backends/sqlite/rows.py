"""Between table rows and `lifecycle.Row`: times as microseconds, JSON as it is.

Rows are read as one JSON text for all of them (see batches.py), which msgspec decodes faster than
Python could take columns apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET

from task_queue_engine.backends.claimed_by import claimed_by, version_of
from task_queue_engine.backends.sqlite.batches import Batch, Execute, JsonRows
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import Task, TaskError, TaskStatus
from task_queue_engine.trace_context import TraceContext

STATUSES = tuple(TaskStatus)
NUMBER_OF = {status: number for number, status in enumerate(STATUSES)}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

encode = msgspec.json.Encoder().encode


def to_us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def to_us_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    return _EPOCH + timedelta(0, 0, us)


def from_us_or_none(us: int | None) -> datetime | None:
    return None if us is None else _EPOCH + timedelta(0, 0, us)


def encode_or_none(value: Any) -> bytes | None:
    return None if value is None or value is UNSET else encode(value)


# --- reading --------------------------------------------------------------------------------


class Stored(msgspec.Struct, array_like=True):
    id: str
    queue: str
    type: str
    status: int
    retry_count: int
    attempt: int
    max_attempts: int
    timeout_seconds: float | None
    created_at: int
    updated_at: int
    run_at: int | None
    started_at: int | None
    finished_at: int | None
    due_at: int | None
    cancel_requested: int
    message_id: str | None
    receive_count: int
    worker: str | None
    claimed_ahead: int | None
    claimed_by: str | None
    payload: Any
    result: Any
    error: TaskError | None
    progress: Any
    trace_context: TraceContext | None


_TEXTS = {"id", "queue", "type", "message_id", "worker", "claimed_by"}
_NEVER_NULL = {
    "status", "retry_count", "attempt", "max_attempts", "created_at", "updated_at",
    "cancel_requested", "receive_count",
}  # fmt: skip
LARGE_PAYLOAD = "SELECT l.payload FROM large_payloads AS l WHERE l.task_id = tasks.id"


def _as_json(column: str) -> str:
    name = f"tasks.{column}"
    if column == "payload":
        return f"ifnull({name}, ({LARGE_PAYLOAD}))"
    if column in _TEXTS:
        return f"json_quote({name})"
    if column == "timeout_seconds":  # SQLite by itself would write 15 digits of the 17
        return f"ifnull(iif({name} IS NULL, NULL, printf('%!.17g', {name})), 'null')"
    return name if column in _NEVER_NULL else f"ifnull({name}, 'null')"


ROW_AS_JSON = f"concat_ws(',', {', '.join(map(_as_json, Stored.__struct_fields__))})"
_LOAD = Batch(
    f"SELECT '[[' || group_concat({ROW_AS_JSON}, '],[') || ']]' "  # constants
    "FROM tasks WHERE id IN (VALUES {rows})",
    width=1,
)
_loaded = JsonRows(Stored)


def _to_row(stored: Stored) -> Row:
    return Row(
        task=Task(
            id=stored.id,
            type=stored.type,
            payload=stored.payload,
            status=STATUSES[stored.status],
            queue=stored.queue,
            retry_count=stored.retry_count,
            attempt=stored.attempt,
            max_attempts=stored.max_attempts,
            timeout_seconds=stored.timeout_seconds,
            created_at=from_us(stored.created_at),
            updated_at=from_us(stored.updated_at),
            run_at=from_us_or_none(stored.run_at),
            started_at=from_us_or_none(stored.started_at),
            finished_at=from_us_or_none(stored.finished_at),
            result=stored.result,
            error=stored.error,
            progress=stored.progress,
            worker=stored.worker,
            cancel_requested=bool(stored.cancel_requested),
            trace_context=stored.trace_context or UNSET,
        ),
        message_id=stored.message_id,
        receive_count=stored.receive_count,
        due_at=from_us_or_none(stored.due_at),
        claimed_ahead=stored.claimed_ahead == stored.attempt,
        version=version_of(stored.claimed_by, stored.worker),
    )


def load(execute: Execute, task_ids: Iterable[str]) -> dict[str, Row]:
    """The rows there are, by task id."""
    found = _LOAD.run(execute, [(task_id,) for task_id in task_ids])
    return {stored.id: _to_row(stored) for stored in _loaded.of(found)}


# --- writing --------------------------------------------------------------------------------

_CHANGING = (
    "status, retry_count, attempt, updated_at, run_at, started_at, finished_at, due_at, "
    "cancel_requested, message_id, receive_count, worker, claimed_ahead, claimed_by, result, "
    "error, progress, trace_context"
)
_SAVE = Batch(
    f"WITH new (id, {_CHANGING}) AS (VALUES {{rows}}) "
    f"UPDATE tasks SET ({_CHANGING}) = "
    f"({', '.join(f'new.{column}' for column in _CHANGING.split(', '))}) "
    "FROM new WHERE tasks.id = new.id",
    width=1 + len(_CHANGING.split(", ")),
)


def save(execute: Execute, rows: Iterable[Row]) -> None:
    """All but what never changes after creation."""
    _SAVE.run(execute, [_to_columns(row) for row in rows])


def _to_columns(row: Row) -> tuple[Any, ...]:
    task = row.task
    return (
        task.id,
        NUMBER_OF[task.status],
        task.retry_count,
        task.attempt,
        to_us(task.updated_at),
        to_us_or_none(task.run_at),
        to_us_or_none(task.started_at),
        to_us_or_none(task.finished_at),
        to_us_or_none(row.due_at),
        task.cancel_requested,
        row.message_id,
        row.receive_count,
        task.worker,
        task.attempt if row.claimed_ahead else None,
        claimed_by(row.version, task.worker),
        encode_or_none(task.result),
        encode_or_none(task.error),
        encode_or_none(task.progress),
        encode_or_none(task.trace_context),
    )

"""Between table rows and `lifecycle.Row`: integers of microseconds, JSON as blobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from task_queue_engine.backends.sqlite.threads import Transaction
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import Task, TaskError, TaskStatus

STATUSES = tuple(TaskStatus)
NUMBER_OF = {status: number for number, status in enumerate(STATUSES)}

COLUMNS = (
    "id, queue, type, status, retry_count, attempt, max_attempts, timeout_seconds, created_at, "
    "updated_at, run_at, started_at, finished_at, due_at, cancel_requested, message_id, "
    "receive_count, worker, payload, result, error, progress"
)
_UPDATE = (
    "UPDATE tasks SET status=?, retry_count=?, attempt=?, updated_at=?, run_at=?, started_at=?, "
    "finished_at=?, due_at=?, cancel_requested=?, message_id=?, receive_count=?, worker=?, "
    "result=?, error=?, progress=? WHERE id=?"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode
_decode_error = msgspec.json.Decoder(TaskError).decode


def to_us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def to_us_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)


def from_us(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def _from_us_or_none(us: int | None) -> datetime | None:
    return None if us is None else _EPOCH + timedelta(microseconds=us)


def encode_or_none(value: Any) -> bytes | None:
    return None if value is None else encode(value)


def to_task(values: Any) -> Task:
    """From a row of COLUMNS."""
    (
        id_, queue, type_, status, retry_count, attempt, max_attempts, timeout, created_at,
        updated_at, run_at, started_at, finished_at, _, cancel_requested, _, _, worker,
        payload, result, error, progress,
    ) = values  # fmt: skip
    return Task(
        id=id_,
        type=type_,
        payload=decode(payload),
        status=STATUSES[status],
        queue=queue,
        retry_count=retry_count,
        attempt=attempt,
        max_attempts=max_attempts,
        timeout_seconds=timeout,
        created_at=from_us(created_at),
        updated_at=from_us(updated_at),
        run_at=_from_us_or_none(run_at),
        started_at=_from_us_or_none(started_at),
        finished_at=_from_us_or_none(finished_at),
        result=None if result is None else decode(result),
        error=None if error is None else _decode_error(error),
        progress=None if progress is None else decode(progress),
        worker=worker,
        cancel_requested=bool(cancel_requested),
    )


def to_row(values: Any) -> Row:
    """From a row of COLUMNS."""
    return Row(
        task=to_task(values),
        message_id=values[15],
        receive_count=values[16],
        due_at=_from_us_or_none(values[13]),
    )


def load(transaction: Transaction, task_id: str) -> Row | None:
    values = transaction.execute(f"SELECT {COLUMNS} FROM tasks WHERE id=?", (task_id,)).fetchone()
    return None if values is None else to_row(values)


def save(transaction: Transaction, row: Row) -> None:
    """All but what never changes after creation."""
    task = row.task
    transaction.execute(
        _UPDATE,
        (
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
            encode_or_none(task.result),
            encode_or_none(task.error),
            encode_or_none(task.progress),
            task.id,
        ),
    )

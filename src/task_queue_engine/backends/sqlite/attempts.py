"""Attempts that were put away: rows of their own, deleted with their task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from task_queue_engine.attempt_record import AttemptOutcome, AttemptRecord, LogLine
from task_queue_engine.backends.sqlite.batches import Batch, Execute
from task_queue_engine.backends.sqlite.rows import (
    NUMBER_OF,
    encode_or_none,
    from_us,
    from_us_or_none,
    to_us,
    to_us_or_none,
)
from task_queue_engine.lifecycle import slot_of
from task_queue_engine.task import TaskError, TaskStatus

_COLUMNS = (
    "task_id, slot, number, outcome, worker, version, started_at, ended_at, error, progress, "
    "logs, logs_omitted"
)
_WIDTH = len(_COLUMNS.split(", "))
_CRASHED, _LOST = AttemptOutcome.CRASHED.value, AttemptOutcome.LOST_LEASE.value
# `lifecycle.supersedes`
_PUT_AWAY = (
    f"WITH new ({_COLUMNS}) AS (VALUES {{{{rows}}}}) "
    "INSERT INTO attempts SELECT new.* FROM new {of} WHERE new.task_id IS NOT NULL "
    "ON CONFLICT (task_id, slot) DO UPDATE SET "
    f"({_COLUMNS}) = ({', '.join(f'excluded.{name}' for name in _COLUMNS.split(', '))}) "
    "WHERE attempts.number < excluded.number OR (attempts.number = excluded.number "
    f"AND attempts.outcome = '{_CRASHED}' AND excluded.outcome = '{_LOST}')"
)
_ANY = Batch(_PUT_AWAY.format(of=""), width=_WIDTH)
# A write that will be refused puts nothing away.
_PROCESSING = Batch(
    _PUT_AWAY.format(
        of="JOIN tasks ON tasks.id = new.task_id AND tasks.attempt = new.number "
        f"AND tasks.status = {NUMBER_OF[TaskStatus.PROCESSING]}"
    ),
    width=_WIDTH,
)
_READ = (
    "SELECT number, outcome, worker, version, started_at, ended_at, error, progress, logs, "
    "logs_omitted FROM attempts WHERE task_id = ?"
)

_decode = msgspec.json.decode
_decode_error = msgspec.json.Decoder(TaskError).decode
_decode_logs = msgspec.json.Decoder(tuple[LogLine, ...]).decode

PutAway = tuple[str, AttemptRecord]
"""A task's id, and one of its attempts."""


def put_away(execute: Execute, attempts: Sequence[PutAway]) -> None:
    _ANY.run(execute, [_to_columns(*each) for each in attempts])


def put_away_processing(execute: Execute, attempts: Sequence[PutAway]) -> None:
    """Those of them whose task is PROCESSING in this very attempt: before the write that ends it,
    since afterwards it looks as if a write that came before had put them away."""
    _PROCESSING.run(execute, [_to_columns(*each) for each in attempts])


def read(execute: Execute, task_id: str) -> list[AttemptRecord]:
    """All that is put away of a task, in any order."""
    return [
        AttemptRecord(
            number=number,
            outcome=AttemptOutcome(outcome),
            worker=worker,
            version=version,
            started_at=from_us(started_at),
            ended_at=from_us_or_none(ended_at),
            error=None if error is None else _decode_error(error),
            progress=None if progress is None else _decode(progress),
            logs=() if logs is None else _decode_logs(logs),
            logs_omitted=omitted,
        )
        for (
            number,
            outcome,
            worker,
            version,
            started_at,
            ended_at,
            error,
            progress,
            logs,
            omitted,
        ) in execute(_READ, (task_id,)).fetchall()
    ]


def _to_columns(task_id: str, record: AttemptRecord) -> tuple[Any, ...]:
    return (
        task_id,
        slot_of(record.number),
        record.number,
        record.outcome.value,
        record.worker,
        record.version,
        to_us(record.started_at),
        to_us_or_none(record.ended_at),
        encode_or_none(record.error),
        encode_or_none(record.progress),
        encode_or_none(record.logs or None),
        record.logs_omitted,
    )

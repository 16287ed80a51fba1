"""Rows on their way to a file, and those that come with the payload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from task_queue_engine.handlers.export.payload import ExportPayload


@dataclass(frozen=True, slots=True)
class RowSource:
    """Column names, and rows in their order, read once and one at a time."""

    columns: tuple[str, ...]
    rows: Iterable[Sequence[Any]]


def payload_rows(payload: ExportPayload) -> RowSource:
    """`rows` of the payload. Members that an object lacks are null."""
    rows = payload.rows or []
    if not rows or isinstance(rows[0], list):
        return RowSource(tuple(payload.columns or ()), rows)
    if payload.columns is not None:
        columns = tuple(payload.columns)
    else:
        columns = tuple({name: None for row in rows for name in row})
    return RowSource(columns, ([row.get(name) for name in columns] for row in rows))

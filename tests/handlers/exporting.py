"""Shared by the tests of `data-export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from task_queue_engine.handlers import registry
from task_queue_engine.handlers.export.file import ExportAttempt, ExportResult
from task_queue_engine.handlers.export.handler import export_data
from task_queue_engine.handlers.export.payload import ExportPayload
from task_queue_engine.handlers.export.write_query import write_query
from task_queue_engine.task import new_task_id
from tests.handlers.contexts import AsyncContext, SyncContext


def accept(data: Any) -> ExportPayload:
    payload = registry.get("data-export").convert_payload(data)
    assert isinstance(payload, ExportPayload)
    return payload


async def export(data: Any, context: AsyncContext | None = None) -> ExportResult:
    """What the handler does; a query's part of it in this process, where a test can reach in (as
    a worker process does it: `test_export_process.py`)."""
    payload = accept(data)
    context = context or AsyncContext()
    if payload.query is None:
        return await export_data(payload, context)
    inside = SyncContext(task_id=context.task_id, attempt=context.attempt)
    try:
        return write_query(payload, inside)
    finally:
        context.reported += inside.reported


async def exported(data: Any) -> bytes:
    return content((await export(data)).path)


def content(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def attempt(
    number: int = 1, task_id: str | None = None, check_cancelled: Any = lambda: None
) -> ExportAttempt:
    return ExportAttempt(
        task_id=task_id or new_task_id(),
        number=number,
        check_cancelled=check_cancelled,
        report=lambda rows: None,
    )


def all_files(folder: Path) -> list[str]:
    """Hidden ones too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def make_database(path: Path) -> None:
    with apsw.Connection(str(path)) as connection:
        connection.execute(
            """
            CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, total REAL, note BLOB);
            INSERT INTO orders VALUES (1, 'Ada', 12.5, x'00ff'), (2, 'Jörg', -3, NULL),
                                      (3, '=1+1', 9e999, 'said "hi", left');
            """
        )
    connection.close()

"""Small steps for tests of the embedded backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from task_queue_engine.backends.base import Counts, NewTask
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.task import Task, TaskStatus, new_task_id


def make_task(**fields: Any) -> Task:
    now = datetime.now(UTC)
    defaults: dict[str, Any] = {
        "id": new_task_id(),
        "type": "email",
        "payload": None,
        "created_at": now,
        "updated_at": now,
    }
    return Task(**(defaults | fields))


async def create(backend: SqliteBackend, **fields: Any) -> Task:
    task = make_task(**fields)
    await backend.store.create([NewTask(task=task)])
    return task


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Another program holds the file's write lock."""
    connection = apsw.Connection(str(path))
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def real_counts(path: Path) -> Counts:
    """Counted row by row, past the backend."""
    connection = apsw.Connection(str(path))
    try:
        rows = connection.execute("SELECT status, count(*) FROM tasks GROUP BY status").fetchall()
    finally:
        connection.close()
    statuses = list(TaskStatus)
    return Counts(**{statuses[number].lower(): count for number, count in rows})


def integrity(path: Path) -> str:
    connection = apsw.Connection(str(path))
    try:
        return str(connection.pragma("integrity_check"))
    finally:
        connection.close()

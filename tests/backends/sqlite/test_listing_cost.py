"""What a page of a list costs does not depend on how many tasks there are, whatever its filter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from task_queue_engine.backends.base import ListQuery
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.backends.sqlite.listing import MOST_LOOKED_AT
from task_queue_engine.task import TaskStatus
from tests.sizes import LONG

# So many that a look which is not bounded would show: of each status alone more than it takes in.
FEW, MANY = (50_000, 500_000) if LONG else (50_000, 100_000)

_FILL = """
WITH RECURSIVE numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
INSERT INTO tasks (id, queue, type, status, retry_count, attempt, max_attempts, created_at,
    updated_at, cancel_requested, receive_count, payload, error)
SELECT printf('%08x-0000-7000-8000-000000000000', n), iif(n % 2, 'default', 'other'),
    'type-' || (n % 3), n % 5, 0, 1, 3, n, n, 0, 0, CAST('1' AS BLOB),
    iif(n % 5 = 3, CAST('{"type":"ValueError","message":"no route ' || n || '"}' AS BLOB), NULL)
FROM numbers
"""
_MOMENT = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=4_000)

QUERIES: dict[str, dict[str, Any]] = {
    "all": {},
    "by status": {"status": TaskStatus.FAILED},
    "by type": {"type": "type-1"},
    "by time": {"created_before": _MOMENT},
    "by both times": {"created_before": _MOMENT, "created_after": _MOMENT},
    "by queue": {"queue": "other"},
    "by a queue that no task is in": {"queue": "nowhere"},
    "by error": {"error": "no route"},
    "by an error that no task has": {"error": "no such route"},
    "by error and status": {"error": "no such route", "status": TaskStatus.FAILED},
    "by id": {"id": f"{4_000:08x}-0000-7000-8000-000000000000"},
    "by the beginning of ids": {"id": "0"},
    "by the beginning of ids and a type that no task has": {"id": "0", "type": "nothing"},
}


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(tmp_path / "tasks.db")
    async with backend.open():
        yield backend


def fill(path: Path, first: int, last: int) -> None:
    connection = apsw.Connection(str(path))
    with connection:
        connection.execute(_FILL, {"first": first, "last": last})
    connection.close()


async def steps_of(backend: SqliteBackend, query: ListQuery) -> int:
    """Of SQLite's virtual machine."""
    steps = 0

    def count(event: dict[str, Any]) -> None:
        nonlocal steps
        steps += event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]

    reader = backend._file.reader
    await reader.run(lambda t: t.connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, count))
    await backend.store.list_tasks(query)
    await reader.run(lambda t: t.connection.trace_v2(0, None))
    return steps


async def test_a_page_costs_the_same_at_any_number(tmp_path: Path, backend: SqliteBackend) -> None:
    fill(tmp_path / "tasks.db", 1, FEW)
    before = {name: await steps_of(backend, ListQuery(**each)) for name, each in QUERIES.items()}
    fill(tmp_path / "tasks.db", FEW + 1, MANY)
    for name, each in QUERIES.items():
        # The tree of an index is a level deeper, and the ids are others: nothing that grows.
        assert await steps_of(backend, ListQuery(**each)) <= 1.1 * before[name] + 100, name


async def test_what_the_index_says_is_counted_there(tmp_path: Path, backend: SqliteBackend) -> None:
    """Nothing is read and put in order for it: a million take a tenth of a second."""
    fill(tmp_path / "tasks.db", 1, FEW)
    most = FEW // 4
    steps = []

    def count(event: dict[str, Any]) -> None:
        steps.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])

    reader = backend._file.reader
    await reader.run(lambda t: t.connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, count))
    for query, expected in (
        (ListQuery(limit=most), FEW),
        (ListQuery(limit=most, type="type-1"), FEW // 3 + 1),
        (ListQuery(limit=most, created_before=_MOMENT), 3_999),
        (ListQuery(limit=most, created_after=_MOMENT, status=TaskStatus.FAILED), 9_200),
    ):
        number, cursor = 0, None
        steps.clear()
        while number == 0 or cursor is not None:
            counted = await backend.store.count_tasks(replace(query, cursor=cursor))
            number += counted.number
            cursor = counted.next_cursor
        assert number == expected
        # Eight for a task, and eight to go by those of the pieces before.
        assert sum(steps) < 20 * expected + 5_000
    await reader.run(lambda t: t.connection.trace_v2(0, None))


async def test_a_look_in_vain_is_bounded_and_can_be_gone_on_with(
    tmp_path: Path, backend: SqliteBackend
) -> None:
    """The one task that passes is the oldest of many."""
    fill(tmp_path / "tasks.db", 1, FEW)
    connection = apsw.Connection(str(tmp_path / "tasks.db"))
    connection.execute("UPDATE tasks SET queue = 'rare' WHERE created_at = 1")
    connection.close()
    cursor, pages, found = None, 0, 0
    while pages == 0 or cursor is not None:
        page = await backend.store.list_tasks(ListQuery(queue="rare", cursor=cursor))
        found += len(page.tasks)
        cursor = page.next_cursor
        pages += 1
    assert found == 1
    assert pages == -(-FEW // MOST_LOOKED_AT), "each page looks at so many, and no more"

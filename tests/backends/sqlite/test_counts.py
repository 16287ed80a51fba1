"""What counts cost does not depend on how much there is to count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from task_queue_engine.backends.base import Counts
from task_queue_engine.backends.sqlite import SqliteBackend
from tests.backends.sqlite.child import create

_FILL = (
    "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "
    "INSERT INTO messages (queue, task_id, visible_at, hidden_at, receive_count, leased) "
    "SELECT 'default', 'task ' || n, ?, 0, 0, 0 FROM numbers"
)
_COUNT = "INSERT INTO counters VALUES ('messages:default', ?) ON CONFLICT DO UPDATE SET n = n + ?"


async def test_counts_read_no_task_and_no_message(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    backend = SqliteBackend(path)
    async with backend.open():
        await create(backend)
        # Whatever would look into these tables, at one row or all, fails from now on.
        connection = apsw.Connection(str(path))
        for table in ("tasks", "messages", "dead_letters"):
            connection.execute(f"DROP TABLE {table}")
        connection.close()
        assert await backend.store.counts() == Counts(pending=1)


async def test_the_depth_of_a_queue_costs_the_same_at_any_length(tmp_path: Path) -> None:
    """Those that are delayed are counted one by one, up to a number; the rest are counters."""
    path = tmp_path / "tasks.db"
    backend = SqliteBackend(path)
    far_away = 2**60
    async with backend.open():
        connection = apsw.Connection(str(path))

        def fill(number: int) -> None:
            with connection:
                for visible_at in (0, far_away):
                    connection.execute(_FILL, (number, visible_at))
                connection.execute(_COUNT, (2 * number, 2 * number))

        fill(12_000)
        before = await steps_of_depth(backend)
        fill(24_000)
        assert await steps_of_depth(backend) == before
        depth = await backend.queue("default").depth()
        assert depth.waiting == 72_000
        assert 10_000 <= depth.delayed <= 36_000
        assert depth.oldest_age is not None, "the first of 36,000 by the index"
        assert depth.oldest_age > 1e6
        connection.close()


async def steps_of_depth(backend: SqliteBackend) -> int:
    """Of SQLite's virtual machine."""
    steps = 0

    def count(event: dict[str, Any]) -> None:
        nonlocal steps
        steps += event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]

    reader = backend._file.reader
    await reader.run(lambda t: t.connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, count))
    await backend.queue("default").depth()
    await reader.run(lambda t: t.connection.trace_v2(0, None))
    return steps

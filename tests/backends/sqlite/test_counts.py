"""What counts cost does not depend on how much there is to count."""

from __future__ import annotations

from pathlib import Path

import apsw

from task_queue_engine.backends.base import Counts, QueueDepth
from task_queue_engine.backends.sqlite import SqliteBackend
from tests.backends.sqlite.child import create


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
        depth = await backend.queue("default").depth()
        assert depth == QueueDepth(waiting=0, in_flight=0, dead=0)

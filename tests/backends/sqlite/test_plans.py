"""No page and no list reads through a table: what SQLite itself says of each statement."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import trio

from task_queue_engine import Engine, TaskRegistry
from task_queue_engine.backends.base import ListQuery
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.task import TaskStatus
from task_queue_engine.task_actions import ActionRequest, TaskAction
from task_queue_engine.task_filter import TaskFilter
from tests.engine.engines import settings

MOMENT = datetime(2030, 1, 1, tzinfo=UTC)
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "status": {"status": TaskStatus.FAILED},
    "type": {"type": "email"},
    "queue": {"queue": "default"},
    "times": {"created_after": MOMENT, "created_before": MOMENT},
    "id": {"id": "0"},
    "error": {"error": "no route"},
    "every": {"status": TaskStatus.FAILED, "type": "email", "queue": "q", "error": "no route"},
}
_TABLES = re.compile(r"SCAN (tasks|messages|attempts|dead_letters|large_payloads|l)\b")
"""The tables that grow with the tasks; `l` is what one of them is called in a join."""


class Plans:
    """Of all statements that both connections run."""

    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = {}
        self._is_asking = False

    async def attach(self, backend: SqliteBackend) -> None:
        for thread in (backend._file.writer, backend._file.reader):
            await thread.run(lambda t: setattr(t.connection, "exec_trace", self._note))

    def _note(self, cursor: Any, sql: str, bindings: Any) -> bool:
        is_savepoint = isinstance(cursor, apsw.Connection)
        if not self._is_asking and not is_savepoint and sql not in self.seen:
            self._is_asking = True
            try:
                asked = f"EXPLAIN QUERY PLAN {sql}"
                rows = cursor.connection.execute(asked, bindings).fetchall()
                self.seen[sql] = [row[3] for row in rows]
            finally:
                self._is_asking = False
        return True

    def scans(self) -> dict[str, list[str]]:
        return {sql: plan for sql, plan in self.seen.items() if any(map(_TABLES.match, plan))}


def looks(engine: Engine, task_id: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """All that pages and lists ask an engine for."""
    found: dict[str, Callable[[], Awaitable[Any]]] = {
        "metrics": engine.metrics,
        "scale": engine.scale,
        "workers": engine.workers,
        "dead letters": engine.list_dead,
        "a task": lambda: engine.get(task_id),
        "its attempts": lambda: engine.history(task_id),
    }
    for name, each in FILTERS.items():
        found[f"list by {name}"] = lambda each=each: engine.list_tasks(ListQuery(**each))
        if each:
            request = ActionRequest(action=TaskAction.DELETE, which=TaskFilter(**each))
            found[f"how many by {name}"] = lambda request=request: engine.preview_action(request)
    return found


async def test_no_page_and_no_list_reads_through_a_table(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "tasks.db")
    tasks = TaskRegistry()

    @tasks.task("email")
    async def email(payload: Any) -> None: ...

    plans = Plans()
    async with trio.open_nursery() as nursery:
        engine = Engine(tasks, settings(), backend=backend, consume=False)
        await nursery.start(engine.run)
        handle = await engine.submit("email", "x" * 5_000)
        await plans.attach(backend)
        for look in looks(engine, handle.id).values():
            await look()
        second = await engine.list_tasks(ListQuery(limit=1))
        assert second.tasks
        await engine.stop()
    assert len(plans.seen) >= 15, "each kind of look is among them"
    assert not plans.scans()

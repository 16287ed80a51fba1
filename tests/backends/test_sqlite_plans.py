"""What has to stay as quick with many rows as with few: no statement walks or sorts a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from task_queue_engine.backends.base import ListQuery, Message
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.clock import SystemClock
from task_queue_engine.lifecycle import ClaimRequest, Complete, Started
from task_queue_engine.task import TaskStatus
from tests.backends.child import create


@contextmanager
def statements() -> Iterator[dict[str, Any]]:
    """Every statement that is run on connections opened meanwhile, with its bindings."""
    seen: dict[str, Any] = {}

    def note(_: object, statement: str, bindings: Any) -> bool:
        seen[statement] = bindings
        return True

    def watch(connection: apsw.Connection) -> None:
        connection.exec_trace = note

    apsw.connection_hooks.append(watch)
    try:
        yield seen
    finally:
        apsw.connection_hooks.remove(watch)


def plan(path: Path, statement: str, bindings: Any) -> list[str]:
    connection = apsw.Connection(str(path))
    try:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", bindings).fetchall()
    finally:
        connection.close()
    return [str(row[3]) for row in rows]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


async def _everything(backend: SqliteBackend) -> None:
    """What an engine does again and again, and what people look at."""
    store, queue = backend.store, backend.queue("default")
    now = SystemClock().now()
    first, second = await create(backend), await create(backend)
    await queue.send([Message(task=first), Message(task=second)])
    held = await queue.receive(2, wait=0.01, visibility=30)
    await queue.receive(1, wait=0.01, visibility=30)
    requests = [
        ClaimRequest(
            task_id=delivery.task_id,
            message_id=delivery.message_id,
            receive_count=delivery.receive_count,
            worker="w",
        )
        for delivery in held
    ]
    (started, _) = await store.claim(requests)
    assert isinstance(started, Started)
    await store.cancel_requested([first.id])
    await queue.extend(held, visibility=30)
    await store.record([Complete(task_id=started.task.id, attempt=1, result=None)])
    await queue.delete(held[:1])
    await queue.release([(held[1], 0)])
    await store.schedule([(second.id, now)])
    await store.due(before=now, limit=10)
    await backend.stranded("default", before=now, limit=1)
    await store.expire(finished_before=now - timedelta(days=1), limit=10)
    await store.counts()
    await queue.depth()
    await store.cancel([second.id])
    await queue.list_dead(limit=10)
    await queue.take_dead(limit=10)
    for query in (
        ListQuery(limit=1),
        ListQuery(limit=1, status=TaskStatus.COMPLETED),
        ListQuery(limit=1, type="demo"),
    ):
        page = await store.list_tasks(query)
        if page.next_cursor is not None:
            await store.list_tasks(
                ListQuery(limit=1, status=query.status, type=query.type, cursor=page.next_cursor)
            )


async def test_no_statement_walks_or_sorts_a_table(path: Path) -> None:
    with statements() as seen:
        backend = SqliteBackend(path)
        async with backend.open():
            seen.clear()
            await _everything(backend)
    asked = {
        statement: bindings
        for statement, bindings in seen.items()
        if statement.split()[0] in ("SELECT", "UPDATE", "DELETE", "INSERT")
    }
    assert len(asked) > 15
    for statement, bindings in asked.items():
        steps = plan(path, statement, bindings)
        # The first page of a list of everything walks an index in its order, as far as its limit.
        in_order = "USING" in str(steps) and "LIMIT" in statement
        walks = [step for step in steps if step.startswith("SCAN") and "json_each" not in step]
        assert in_order or not walks, (statement, steps)
        assert not [step for step in steps if "TEMP B-TREE" in step], (statement, steps)


async def test_what_comes_due_is_found_by_its_time(path: Path) -> None:
    """However many tasks wait, and however many of them for the same moment."""
    with statements() as seen:
        backend = SqliteBackend(path)
        async with backend.open():
            seen.clear()
            await backend.store.due(before=SystemClock().now(), limit=10)
    ((statement, bindings),) = seen.items()
    assert plan(path, statement, bindings) == ["SEARCH tasks USING INDEX tasks_due (due_at<?)"]


async def test_the_search_for_the_stranded_goes_on_where_it_was(path: Path) -> None:
    with statements() as seen:
        backend = SqliteBackend(path)
        async with backend.open():
            for _ in range(3):
                await create(backend)
            before = SystemClock().now()
            page = await backend.stranded("default", before=before, limit=2)
            seen.clear()
            await backend.stranded("default", before=before, limit=2, cursor=page.next_cursor)
    ((statement, bindings),) = seen.items()
    (walk, *_) = plan(path, statement, bindings)
    assert walk == "SEARCH tasks USING INDEX tasks_by_status (status=? AND (created_at,id)>(?,?))"

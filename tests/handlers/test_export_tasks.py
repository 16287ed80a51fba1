"""Exports of the engine's own tasks, through the store's Protocol."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from task_queue_engine.backends.base import ListQuery, TaskPage
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.handlers.export import handler as data_export
from task_queue_engine.handlers.export import task_store
from task_queue_engine.handlers.export.task_rows import COLUMNS
from task_queue_engine.retry import Discard
from task_queue_engine.task import Task, TaskError, TaskStatus, new_task_id
from tests.handlers.exporting import all_files, export, exported

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


class FakeStore:
    """`list_tasks` as every store answers it: filtered, newest first, a page at a time."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks = list(tasks)
        self.queries: list[ListQuery] = []

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        await trio.lowlevel.checkpoint()
        self.queries.append(query)
        found = [
            task
            for task in sorted(self.tasks, key=lambda t: (t.created_at, t.id), reverse=True)
            if query.status in (None, task.status) and query.type in (None, task.type)
        ]
        start = int(query.cursor or 0)
        end = start + query.limit
        more = end < len(found)
        return TaskPage(tasks=tuple(found[start:end]), next_cursor=str(end) if more else None)


def task(number: int, **fields: Any) -> Task:
    at = EPOCH + timedelta(minutes=number)
    given = {"type": "email", "payload": {"n": number}, **fields}
    return Task(id=new_task_id(), created_at=at, updated_at=at, **given)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    fake = FakeStore()

    @asynccontextmanager
    async def opened() -> AsyncIterator[FakeStore]:
        yield fake

    monkeypatch.setattr(data_export, "open_task_store", opened)
    return fake


async def numbers(wanted: dict[str, Any]) -> list[int]:
    lines = (await exported({"tasks": wanted, "format": "jsonl"})).splitlines()
    return [json.loads(line)["payload"]["n"] for line in lines]


async def test_all_tasks_newest_first_over_many_pages(store: FakeStore) -> None:
    store.tasks = [task(number) for number in range(250)]
    assert await numbers({}) == list(range(249, -1, -1))
    assert len(store.queries) == 3


async def test_the_filter(store: FakeStore) -> None:
    store.tasks = [
        *(task(number, type="email" if number % 2 else "image-resize") for number in range(20)),
        task(20, status=TaskStatus.FAILED),
    ]
    assert await numbers({"status": "FAILED"}) == [20]
    assert await numbers({"type": "email", "limit": 3}) == [20, 19, 17]
    assert await numbers({"since": "2030-01-01T00:15:00Z"}) == [20, 19, 18, 17, 16, 15]
    assert await numbers({"until": "2030-01-01T00:02:00Z"}) == [1, 0]
    since_until = {"since": "2030-01-01T01:05:00+01:00", "until": "2030-01-01T00:08:00Z"}
    assert await numbers(since_until) == [7, 6, 5]


async def test_reading_stops_where_the_filter_ends(store: FakeStore) -> None:
    store.tasks = [task(number) for number in range(1000)]
    assert len(await numbers({"limit": 150})) == 150
    assert len(store.queries) == 2
    store.queries.clear()
    assert len(await numbers({"since": "2030-01-01T16:00:00Z"})) == 40
    assert len(store.queries) == 1


async def test_rows_have_the_fields_and_the_spelling_of_the_api(store: FakeStore) -> None:
    failed = task(
        1,
        status=TaskStatus.FAILED,
        error=TaskError(type="ValueError", message="=bad"),
        worker="=w",
        payload=None,
    )
    store.tasks = [failed]
    (row,) = json.loads(await exported({"tasks": {}, "format": "json"}))
    assert tuple(row) == COLUMNS
    assert row["status"] == "FAILED"
    assert row["created_at"] == "2030-01-01T00:01:00Z"
    assert row["error"] == {"type": "ValueError", "message": "=bad", "traceback": None}

    (line,) = csv.DictReader(io.StringIO((await exported({"tasks": {}})).decode(), newline=""))
    assert line["id"] == failed.id
    assert line["worker"] == "'=w"
    assert json.loads(line["error"]) == row["error"]
    assert line["cancel_requested"] == "false"
    assert line["payload"] == ""


async def test_no_tasks(store: FakeStore) -> None:
    assert await exported({"tasks": {}}) == ",".join(COLUMNS).encode() + b"\r\n"


async def test_trouble_of_the_store_comes_out_and_leaves_nothing(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def locked(query: ListQuery) -> TaskPage:
        raise BackendUnavailable("locked")

    monkeypatch.setattr(store, "list_tasks", locked)
    with pytest.raises(BackendUnavailable):
        await export({"tasks": {}})
    assert all_files(tmp_path / "exports") == []


async def test_cancelling_while_the_store_answers(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def hang(query: ListQuery) -> TaskPage:
        scope.cancel()
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(store, "list_tasks", hang)
    with trio.fail_after(30), trio.CancelScope() as scope:
        await export({"tasks": {}})
    assert scope.cancelled_caught
    assert all_files(tmp_path / "exports") == []


async def test_a_store_that_runs_tasks_does_not_wrap_the_handlers_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Backend:
        store = FakeStore(task(1), task(2))
        is_open = False

        @asynccontextmanager
        async def open(self) -> AsyncIterator[None]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                self.is_open = True
                yield
                nursery.cancel_scope.cancel()
            self.is_open = False

    backend = Backend()
    monkeypatch.setattr(task_store, "create_backend", lambda settings, clock: backend)
    monkeypatch.setenv("TQE_EXPORT_MAX_ROWS", "1")
    # A group would be retried; the verdict is that nothing helps.
    with pytest.raises(Discard, match="TQE_EXPORT_MAX_ROWS"):
        await export({"tasks": {}})
    assert not backend.is_open

"""What is filled in by statements is what an engine would have stored."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import apsw
import trio

from benchmarks import weeks
from task_queue_engine import Engine, Retry, TaskContext, TaskRegistry, TaskStatus
from task_queue_engine.backends.sqlite import SqliteBackend
from tests.engine.engines import settings

COUNT = 3_000
Shape = dict[str, str]
"""Of a row: what type each column has."""

tasks = TaskRegistry()


@tasks.task("completes")
async def completes(payload: Any) -> dict[str, int]:
    return {"rows": 1}


@tasks.task("logs")
async def logs(payload: Any) -> dict[str, int]:
    logging.getLogger("tests.weeks").warning("a line")
    return {"rows": 1}


@tasks.task("again")
async def again(payload: Any, context: TaskContext) -> dict[str, int]:
    if context.attempt == 1:
        raise Retry(delay=0)
    return {"rows": 1}


@tasks.task("fails", max_attempts=1)
async def fails(payload: Any) -> None:
    raise ConnectionError("no route to host")


def shapes(path: Path, table: str, where: str, **bound: Any) -> list[Shape]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    types = ", ".join(f"typeof({name})" for name in names)
    rows = connection.execute(f"SELECT DISTINCT {types} FROM {table} WHERE {where}", bound)
    found = [dict(zip(names, row, strict=True)) for row in rows]
    connection.close()
    return found


async def as_engines_store(path: Path) -> None:
    backend = SqliteBackend(path)
    async with trio.open_nursery() as nursery:
        engine = Engine(tasks, settings(), backend=backend)
        await nursery.start(engine.run)
        handles = [
            await engine.submit(name, {"customer": 1})
            for name in ("completes", "logs", "again", "fails")
        ]
        handles.append(await engine.submit("completes", {"customer": 1}, delay=10**7))
        cancelled = await engine.submit("completes", {"customer": 1}, delay=10)
        await engine.cancel(cancelled.id)
        for handle in handles[:-1]:
            with trio.fail_after(60):
                while not (await engine.get(handle.id)).status.is_terminal:  # noqa: ASYNC110  # a file, by the machine's clock
                    await trio.sleep(0.05)
        await engine.stop()


KINDS = (
    ("tasks", f"status = {list(TaskStatus).index(TaskStatus.COMPLETED)} AND payload NOT NULL"),
    ("tasks", f"status = {list(TaskStatus).index(TaskStatus.FAILED)}"),
    ("tasks", f"status = {list(TaskStatus).index(TaskStatus.CANCELLED)}"),
    ("tasks", "status = 0 AND due_at NOT NULL"),
    ("attempts", "outcome = 'succeeded'"),
    ("attempts", "outcome = 'retried' AND logs IS NULL"),
    ("dead_letters", "1"),
    ("counters", "name IN ('COMPLETED', 'dead:default')"),
)


async def test_rows_are_as_an_engine_stores_them(tmp_path: Path) -> None:
    filled, run = tmp_path / "filled.db", tmp_path / "run.db"
    await trio.to_thread.run_sync(weeks.fill, filled, COUNT)
    await as_engines_store(run)
    for table, kind in KINDS:
        expected = shapes(run, table, kind)
        assert expected, kind
        for shape in shapes(filled, table, kind):
            assert shape in expected, kind


async def test_its_counts_are_true(tmp_path: Path) -> None:
    path = tmp_path / "filled.db"
    await trio.to_thread.run_sync(weeks.fill, path, COUNT)
    backend = SqliteBackend(path)
    async with backend.open():
        counts = await backend.store.counts()
        _, ids, number = weeks.found_in(path)
        history = await backend.store.history(ids["history"])
    assert counts.total == number == COUNT
    assert counts.failed > 50
    assert counts.pending == COUNT // 100
    assert history is not None
    assert [each.number for each in history.attempts] == list(range(1, 21))
    assert all(len(each.logs) == weeks.LOG_LINES for each in history.attempts)

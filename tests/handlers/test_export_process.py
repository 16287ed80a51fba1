"""Exports by query as the engine runs them: in a process that can be ended, whatever it is at."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers.export.handler import export_data
from task_queue_engine.retry import Discard
from tests.handlers.contexts import AsyncContext
from tests.handlers.exporting import accept, all_files, content, make_database
from tests.processes import children

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT {} FROM n"

# One call that takes an hour: eight million characters are compared at each of eight million
# places, with no step of SQLite's virtual machine, and so no progress handler, between.
ONE_CALL = "SELECT instr(printf('%.*c', 16000000, 'a'), printf('%.*c', 8000000, 'a') || 'b')"

# Seconds of real time, for a process to start on a busy machine and then some.
BOUND = 60


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shop.db"
    make_database(path)
    monkeypatch.setenv("TQE_EXPORT_DATABASE", str(path))
    return path


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    return tmp_path / "exports"


async def run(data: Any, context: AsyncContext | None = None) -> Any:
    with trio.fail_after(BOUND):
        return await export_data(accept(data), context or AsyncContext())


async def test_rows_reach_the_file_and_verdicts_and_progress_the_engine(exports: Path) -> None:
    before = children(os.getpid())
    context = AsyncContext()
    result = await run({"query": ENDLESS.format("x") + " LIMIT 10000", "filename": "x"}, context)
    assert (result.rows, result.path) == (10_000, str(exports / "x.csv"))
    assert context.reported == [{"rows": 10_000}]
    assert content(exports / "x.csv").startswith(b"x\r\n1\r\n2\r\n")

    with pytest.raises(Discard, match="no such table: nope"):
        await run({"query": "SELECT * FROM nope"})
    assert all_files(exports) == ["x.csv"]
    assert children(os.getpid()) == before


async def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQE_EXPORT_DATABASE")
    with pytest.raises(ConfigurationError) as failed:
        await run({"query": "SELECT 1"})
    assert failed.value.variable == "TQE_EXPORT_DATABASE"


async def test_cancelling_stops_an_endless_export_and_removes_its_file(exports: Path) -> None:
    class Cancelling(AsyncContext):
        async def progress(self, value: Any) -> None:
            assert len(all_files(exports)) == 1  # under way
            scope.cancel()

    before = children(os.getpid())
    with trio.CancelScope() as scope:
        await run({"query": ENDLESS.format("x")}, Cancelling())
    assert scope.cancelled_caught
    assert all_files(exports) == []
    assert children(os.getpid()) == before


async def until(condition: Callable[[], bool]) -> None:
    """For what another process does without telling."""
    while not condition():  # noqa: ASYNC110 - nothing here can set an Event
        await trio.sleep(0.01)


async def cancelled_at_work(work: Callable[[], Awaitable[Any]], exports: Path) -> None:
    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await until(lambda: len(all_files(exports)) == 1)
            nursery.cancel_scope.cancel()


async def test_work_inside_one_sql_function_is_stopped_too(exports: Path) -> None:
    before = children(os.getpid())
    await cancelled_at_work(lambda: run({"query": ONE_CALL}), exports)
    assert all_files(exports) == []
    assert children(os.getpid()) == before


async def test_a_query_that_takes_more_cpu_time_is_ended_for_good(
    exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQE_EXPORT_MAX_CPU_SECONDS", "0.1")
    with pytest.raises(Discard, match="TQE_EXPORT_MAX_CPU_SECONDS"):
        await run({"query": ONE_CALL})
    assert all_files(exports) == []


async def test_more_memory_than_allowed_is_final(
    exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TQE_EXPORT_MAX_MEMORY_BYTES", str(64 * 2**20))
    wide = "SELECT " + ", ".join(["zeroblob(16000000)"] * 12)
    with pytest.raises(Discard, match="TQE_EXPORT_MAX_MEMORY_BYTES"):
        await run({"query": wide})
    assert all_files(exports) == []

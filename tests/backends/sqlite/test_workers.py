"""Processes show that they live without writing, and that they died without a minute's wait."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
import trio

from task_queue_engine import Engine, TaskRegistry
from task_queue_engine.actors import presence
from task_queue_engine.backends.sqlite import SqliteBackend, bells
from task_queue_engine.testing.conformance.workers import make_worker
from task_queue_engine.worker import LIVING_FOR, LOST_FOR, RunningTask, Worker, WorkerState
from tests.backends.sqlite.harness import SqliteHarness
from tests.backends.sqlite.test_processes import child, read_line
from tests.engine.engines import settings


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SqliteHarness]:
    harness = SqliteHarness(tmp_path / "tasks.db")
    async with harness.backend.open():
        yield harness


def folder(harness: SqliteHarness) -> Path:
    return bells.folder_of(harness.backend._path)


async def changes(harness: SqliteHarness) -> int:
    """Rows that have been written so far."""
    writer = harness.backend._file.writer
    assert writer is not None
    return int(await writer.run(lambda t: t.changes()))


def busy(worker: Worker, harness: SqliteHarness) -> Worker:
    running = (RunningTask(task_id="a", type="email", attempt=1, since=harness.now()),)
    return msgspec.structs.replace(worker, busy=1, running=running)


async def test_what_says_nothing_new_is_not_written(harness: SqliteHarness) -> None:
    workers, worker = harness.backend.workers, make_worker(harness)
    await workers.put(worker)
    before = await changes(harness)
    await harness.advance(7 * 24 * 3600)
    await workers.put(
        msgspec.structs.replace(
            worker, memory_bytes=1, loop_lag_seconds=0.1, last_seen=harness.now()
        )
    )
    await workers.forget_lost()
    assert await changes(harness) == before
    (seen,) = (await workers.look()).workers
    assert seen.last_seen == harness.now()


async def test_what_says_something_new_is(harness: SqliteHarness) -> None:
    workers, worker = harness.backend.workers, make_worker(harness)
    await workers.put(worker)
    for said in (
        busy(worker, harness),
        busy(worker, harness),  # its lag and its memory
        worker,
        msgspec.structs.replace(worker, state=WorkerState.DRAINING),
    ):
        before = await changes(harness)
        await workers.put(said)
        assert await changes(harness) == before + 1


async def test_a_busy_one_that_says_nothing_any_more_shows_since_when(
    harness: SqliteHarness,
) -> None:
    """Its handler holds the loop: the process lives, and tells nothing."""
    await harness.backend.workers.put(busy(make_worker(harness), harness))
    then = harness.now()
    await harness.advance(1000)
    (seen,) = (await harness.backend.workers.look()).workers
    assert seen.last_seen == then


async def test_a_backend_that_closes_takes_its_workers_with_it(tmp_path: Path) -> None:
    one, two = SqliteHarness(tmp_path / "tasks.db"), SqliteHarness(tmp_path / "tasks.db")
    async with two.backend.open():
        async with one.backend.open():
            await one.backend.workers.put(make_worker(one))
            assert len((await two.backend.workers.look()).workers) == 1
        found = await two.backend.workers.look()
        assert (found.workers, found.lost) == ((), 1)
        await two.backend.workers.forget_lost()
        assert (await two.backend.workers.look()).lost == 1
        await two.advance(LOST_FOR + 1)
        await two.backend.workers.forget_lost()
        assert await two.backend._file.read(_rows) == 0
    assert not folder(two).exists()


def _rows(transaction: Any) -> int:
    return int(transaction.execute("SELECT count(*) FROM workers").fetchall()[0][0])


async def test_a_killed_process_is_lost_at_once_whatever_it_has_forked(
    harness: SqliteHarness,
) -> None:
    with child("live", Path(harness.backend._path)) as victim:
        forked = int(await trio.to_thread.run_sync(read_line, victim))
        try:
            # Its clock is the machine's, which matters to none.
            found = await harness.backend.workers.look()
            assert [one.pid for one in found.workers] == [victim.pid]
            victim.kill()
            await trio.to_thread.run_sync(victim.wait)
            found = await harness.backend.workers.look()
            assert found.workers == ()
        finally:
            os.kill(forked, signal.SIGKILL)


async def test_a_pipe_that_a_cleanup_has_removed_is_made_again(harness: SqliteHarness) -> None:
    workers, worker = harness.backend.workers, make_worker(harness)
    await workers.put(worker)
    for pipe in folder(harness).iterdir():
        pipe.unlink()
    assert (await workers.look()).workers == ()
    await workers.put(worker)
    assert len((await workers.look()).workers) == 1


async def test_a_name_that_leads_elsewhere_is_no_pipe_of_a_worker(
    harness: SqliteHarness, tmp_path: Path
) -> None:
    """Whoever may write to the database shall not have the pipes of others removed."""
    os.mkfifo(tmp_path / "another")
    await harness.backend.workers.put(make_worker(harness))
    other = apsw.Connection(harness.backend._path)
    other.execute("UPDATE workers SET pipe = '../another'")
    other.close()
    assert (await harness.backend.workers.look()).workers == ()
    assert (tmp_path / "another").exists()


async def test_without_pipes_rows_are_written_and_grow_old(harness: SqliteHarness) -> None:
    folder(harness).touch()  # no folder can be made there
    workers, worker = harness.backend.workers, make_worker(harness)
    for _ in range(2):
        before = await changes(harness)
        await workers.put(worker)
        assert await changes(harness) == before + 1
    await harness.advance(LIVING_FOR - 1)
    assert len((await workers.look()).workers) == 1
    await harness.advance(2)
    found = await workers.look()
    assert (found.workers, found.lost) == ((), 1)
    await harness.advance(LOST_FOR)
    await workers.forget_lost()
    assert await harness.backend._file.read(_rows) == 0


async def test_an_idle_engine_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise of an idle engine, over many beats."""
    monkeypatch.setattr(presence, "BEAT", 0.01)
    backend = SqliteBackend(tmp_path / "tasks.db")
    engine = Engine(TaskRegistry(), settings(), backend=backend)

    def beats() -> int:
        return int(engine.statistics()["presence"]["beats"])

    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        with trio.fail_after(20):
            while not beats():  # noqa: ASYNC110  # soon, and no event says it
                await trio.sleep(0.01)
        commits = 0

        def trace(event: dict[str, Any]) -> None:
            nonlocal commits
            commits += event["sql"].startswith("COMMIT")

        writer = backend._file.writer
        assert writer is not None
        await writer.run(lambda t: t.connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, trace))
        before = beats()
        commits = 0
        with trio.fail_after(20):
            while beats() < before + 30:  # noqa: ASYNC110  # as above
                await trio.sleep(0.01)
        assert commits <= 1, "of the tracing itself"
        assert len((await engine.workers()).workers) == 1
        await engine.stop()

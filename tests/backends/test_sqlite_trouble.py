"""Passing trouble: locks, a full disk, cancellation, an event loop that is never idle."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from task_queue_engine.backends.base import Message, NewTask
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.backends.sqlite.threads import Transaction
from task_queue_engine.errors import BackendUnavailable
from tests.backends.steps import create, integrity, make_task, real_counts, write_lock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(path, busy_timeout=0.1)
    async with backend.open():
        with trio.fail_after(60):
            yield backend


@pytest.fixture
async def patient(path: Path) -> AsyncIterator[SqliteBackend]:
    """The same, but it waits long for locks."""
    backend = SqliteBackend(path, busy_timeout=30)
    async with backend.open():
        with trio.fail_after(60):
            yield backend


async def in_one_transaction(
    backend: SqliteBackend, path: Path, *requests: Callable[[], Awaitable[object]]
) -> None:
    """Have the requests wait until the thread, held up by a lock, takes them all up at once."""
    async with trio.open_nursery() as nursery:
        with write_lock(path):
            nursery.start_soon(backend.ping)
            await trio.testing.wait_all_tasks_blocked(0.05)
            for request in requests:
                nursery.start_soon(request)
            await trio.testing.wait_all_tasks_blocked(0.05)


# --- locks ----------------------------------------------------------------------------------


async def test_a_lock_is_waited_for(path: Path) -> None:
    backend = SqliteBackend(path, busy_timeout=30)
    async with backend.open(), trio.open_nursery() as nursery:
        with write_lock(path):
            nursery.start_soon(create, backend)
            await trio.testing.wait_all_tasks_blocked(0.05)
    assert real_counts(path).pending == 1


async def test_a_lock_that_stays_is_passing_trouble(backend: SqliteBackend, path: Path) -> None:
    with write_lock(path):
        with pytest.raises(BackendUnavailable, match="locked") as caught:
            await create(backend)
        assert "tasks.db" in str(caught.value)
        with pytest.raises(BackendUnavailable, match="locked"):
            await backend.ping()
    await backend.ping()
    await create(backend)
    assert (await backend.store.counts()).pending == 1


async def test_everybody_who_waits_for_a_lock_waits_once(
    backend: SqliteBackend, path: Path
) -> None:
    """Not one busy timeout after the other."""
    answers = []

    async def ask() -> None:
        with pytest.raises(BackendUnavailable):
            await create(backend)
        answers.append(trio.current_time())

    with write_lock(path):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.01)
            for _ in range(40):
                nursery.start_soon(ask)
    assert len(set(answers)) == 2 or answers[-1] - answers[0] < 40 * 0.1 / 2


async def test_reads_do_not_wait_for_a_lock(backend: SqliteBackend, path: Path) -> None:
    task = await create(backend)
    with write_lock(path):
        assert await backend.store.get([task.id]) == [task]
        assert (await backend.store.counts()).pending == 1
        assert (await backend.queue("default").depth()).waiting == 0


# --- a full disk ----------------------------------------------------------------------------


async def limit_pages(backend: SqliteBackend, pages: int) -> None:
    """SQLite's own limit on the file's size: a disk with no room left."""

    def work(transaction: Transaction) -> None:
        transaction.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    await backend._writer.run(work)


async def test_a_full_disk_is_passing_trouble(backend: SqliteBackend, path: Path) -> None:
    queue = backend.queue("default")
    first = await create(backend)
    await queue.send([Message(task=first)])
    await limit_pages(backend, 1)  # SQLite takes it as: no larger than it is

    large = make_task(payload="x" * 100_000)
    with pytest.raises(BackendUnavailable, match="full") as caught:
        await backend.store.create([NewTask(task=large)])
    assert caught.value.retry_after > 0
    assert await backend.store.get([large.id]) == [None]

    # What needs no room still works.
    (delivery,) = await queue.receive(1, wait=0, visibility=30)
    assert delivery.task_id == first.id

    await limit_pages(backend, 1_000_000)
    await backend.store.create([NewTask(task=large)])
    assert await backend.store.get([large.id]) == [large]
    assert await backend.store.counts() == real_counts(path)
    assert integrity(path) == "ok"


async def test_what_does_not_fit_fails_alone(patient: SqliteBackend, path: Path) -> None:
    """Requests share a transaction, not their fate."""
    await create(patient)
    await limit_pages(patient, 1)

    async def ask_too_much() -> None:
        with pytest.raises(BackendUnavailable, match="full"):
            await create(patient, payload="x" * 100_000)

    await in_one_transaction(
        patient, path, partial(create, patient), ask_too_much, partial(create, patient)
    )
    assert (await patient.store.counts()).pending == 3
    assert await patient.store.counts() == real_counts(path)


async def test_a_defect_in_one_request_leaves_its_neighbours_alone(
    patient: SqliteBackend, path: Path
) -> None:
    def broken(transaction: Transaction) -> None:
        transaction.counters["PENDING"] += 7
        transaction.execute("DELETE FROM tasks")
        raise RuntimeError("a defect")

    async def ask_broken() -> None:
        with pytest.raises(RuntimeError, match="a defect"):
            await patient._writer.run(broken)

    await in_one_transaction(
        patient, path, partial(create, patient), ask_broken, partial(create, patient)
    )
    assert (await patient.store.counts()).pending == 2
    assert await patient.store.counts() == real_counts(path)


async def test_requests_that_wait_share_a_transaction(patient: SqliteBackend, path: Path) -> None:
    """One fsync for all of them."""
    commits = 0

    def count() -> int:
        nonlocal commits
        commits += 1
        return 0

    patient._writer._connection.set_commit_hook(count)
    await in_one_transaction(patient, path, *[partial(create, patient) for _ in range(30)])
    assert (await patient.store.counts()).pending == 30
    assert commits == 2, "the one that met the lock, and all that came meanwhile"


# --- cancellation ---------------------------------------------------------------------------


async def test_a_write_that_was_begun_is_finished(backend: SqliteBackend, path: Path) -> None:
    """Cancelled in the midst of its transaction: it is carried out, and its answer is given."""
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()
    answers = []

    def work(transaction: Transaction) -> str:
        token.run_sync_soon(begun.set)
        transaction.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) "
            "SELECT count(*) FROM n"
        ).fetchall()
        transaction.counters["finished"] += 1
        return "done"

    async def ask() -> None:
        answers.append(await backend._writer.run(work))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert answers == ["done"]


async def test_a_write_that_waits_in_line_can_be_cancelled(path: Path) -> None:
    """Somebody else's lock must not hold up a shutdown: what was not begun never happens."""
    backend = SqliteBackend(path, busy_timeout=1)
    async with backend.open():
        with write_lock(path):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_ignore_trouble, backend)  # the thread waits for the lock
                await trio.testing.wait_all_tasks_blocked(0.05)
                with trio.move_on_after(0.01) as scope:
                    await create(backend)
                assert scope.cancelled_caught
                nursery.cancel_scope.cancel()
        assert (await backend.store.counts()).pending == 0


async def _ignore_trouble(backend: SqliteBackend) -> None:
    with suppress(BackendUnavailable):
        await create(backend)


async def test_closing_waits_for_writes_in_line(path: Path) -> None:
    backend = SqliteBackend(path)
    accepted = 0

    async def ask() -> None:
        nonlocal accepted
        try:
            await create(backend)
        except BackendUnavailable:
            return
        accepted += 1

    async with trio.open_nursery() as nursery, backend.open():
        for _ in range(30):
            nursery.start_soon(ask)
        await trio.lowlevel.checkpoint()
    assert real_counts(path).pending == accepted


# --- fairness -------------------------------------------------------------------------------


async def test_a_loop_that_is_never_idle_does_not_starve_writes(backend: SqliteBackend) -> None:
    """Without help the writer would not get the interpreter lock for seconds at a time."""
    done = trio.Event()

    async def spin() -> None:
        while not done.is_set():
            until = time.perf_counter() + 0.0003
            while time.perf_counter() < until:
                pass
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spin)
        with trio.fail_after(20):
            for _ in range(50):
                await create(backend)
        done.set()
    assert (await backend.store.counts()).pending == 50


async def test_a_closed_thread_takes_nothing_more(path: Path) -> None:
    backend = SqliteBackend(path)
    async with backend.open():
        writer = backend._writer
    with pytest.raises(BackendUnavailable, match="not open"):
        await writer.run(lambda t: None)


async def test_the_file_is_gone(backend: SqliteBackend, path: Path) -> None:
    await backend.ping()
    await trio.Path(path).rename(path.with_suffix(".moved"))
    with pytest.raises(BackendUnavailable, match="moved or deleted"):
        await backend.ping()

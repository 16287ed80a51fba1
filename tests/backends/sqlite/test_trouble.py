"""Locked, full, cancelled, closed: nothing lost, nothing twice, and well again by itself."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from task_queue_engine.backends.base import Created, NewTask
from task_queue_engine.backends.sqlite import SqliteBackend, threads
from task_queue_engine.backends.sqlite.threads import BUSY_TIMEOUT
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.errors import BackendRefused, BackendUnavailable
from task_queue_engine.lifecycle import Complete, Started
from task_queue_engine.testing.conformance.harness import claim_request
from tests.backends.sqlite.harness import SqliteHarness
from tests.backends.sqlite.sqlite_file import check

SHORT_BUSY_TIMEOUT = 0.1
"""Seconds; a busy timeout for tests that wait until it is over."""
LONG_BUSY_TIMEOUT = 60.0
"""Seconds; one for tests that end before it, in a third of that."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def busy_timeout() -> float:
    return BUSY_TIMEOUT


short_busy_timeout = pytest.mark.parametrize("busy_timeout", [SHORT_BUSY_TIMEOUT])
long_busy_timeout = pytest.mark.parametrize("busy_timeout", [LONG_BUSY_TIMEOUT])


@pytest.fixture
async def harness(path: Path, busy_timeout: float) -> AsyncIterator[SqliteHarness]:
    harness = SqliteHarness(path, busy_timeout=busy_timeout)
    backend = harness.backend
    async with backend.open():
        yield harness
    check(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process in the middle of a write. (For SQLite, any other connection.)"""
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def size_of(path: Path) -> int:
    return path.stat().st_size


def sqlite_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sqlite-")]


# --- locked ---------------------------------------------------------------------------------


async def test_a_lock_that_goes_away_in_time_is_not_noticed(
    harness: SqliteHarness, path: Path
) -> None:
    async with trio.open_nursery() as nursery:
        with locked(path):
            nursery.start_soon(harness.create)
            await trio.sleep(0.05)
            await harness.counts()  # a reader does not wait
    await harness.counts(pending=1)


@short_busy_timeout
async def test_a_lock_that_stays_is_trouble_that_passes(harness: SqliteHarness, path: Path) -> None:
    with locked(path):
        for call in (harness.create, harness.backend.ping):
            with pytest.raises(BackendUnavailable, match=r"tasks\.db.*locked"):
                await call()
        await harness.counts()
    await harness.create()
    await harness.backend.ping()
    await harness.counts(pending=1)


@short_busy_timeout
async def test_all_who_wait_for_a_lock_are_told_at_once(harness: SqliteHarness, path: Path) -> None:
    """Not one after the other, each after a wait of its own."""
    told: list[float] = []

    async def create() -> None:
        with pytest.raises(BackendUnavailable):
            await harness.create()
        told.append(trio.current_time())

    start = trio.current_time()
    with locked(path):
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(create)
    assert max(told) - start < 100 * SHORT_BUSY_TIMEOUT / 3


@long_busy_timeout
async def test_who_waits_for_a_lock_can_be_cancelled_and_has_written_nothing(
    harness: SqliteHarness, path: Path
) -> None:
    with trio.fail_after(LONG_BUSY_TIMEOUT / 3):
        with locked(path), trio.move_on_after(0.05) as scope:
            await harness.create()
        assert scope.cancelled_caught
        kept = await harness.create()
    await harness.counts(pending=1)
    assert await harness.get(kept.id) == kept


async def test_opening_a_file_that_is_locked(path: Path) -> None:
    harness = SqliteHarness(path, busy_timeout=SHORT_BUSY_TIMEOUT)
    backend = harness.backend
    apsw.Connection(str(path)).close()
    with locked(path):
        with pytest.raises(BackendUnavailable, match=r"tasks\.db"):
            async with backend.open():
                pass
        assert sqlite_threads() == []
    async with backend.open():
        await harness.create()
    check(path)


async def test_opening_can_be_cancelled_while_it_waits(path: Path) -> None:
    backend = SqliteHarness(path, busy_timeout=LONG_BUSY_TIMEOUT).backend
    apsw.Connection(str(path)).close()
    with (
        trio.fail_after(LONG_BUSY_TIMEOUT / 3),
        locked(path),
        trio.move_on_after(0.05) as scope,
    ):
        async with backend.open():
            pass
    assert scope.cancelled_caught
    assert sqlite_threads() == []
    async with backend.open():
        await backend.ping()


async def test_open_that_fails_leaves_no_thread(tmp_path: Path) -> None:
    (tmp_path / "tasks.db").write_text("no database " * 1000)
    with pytest.raises(BackendRefused):
        async with SqliteBackend(tmp_path / "tasks.db").open():
            pass
    assert sqlite_threads() == []


async def test_open_whose_second_connection_fails_leaves_no_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = threads.connect
    connections: list[apsw.Connection] = []

    def connect(*args: Any) -> apsw.Connection:
        if connections:
            raise BackendUnavailable("no more")
        connections.append(real(*args))
        return connections[0]

    monkeypatch.setattr(threads, "connect", connect)
    with pytest.raises(BackendUnavailable, match="no more"):
        async with SqliteBackend(path).open():
            pass
    assert sqlite_threads() == []
    with pytest.raises(apsw.ConnectionClosedError):
        connections[0].execute("SELECT 1")


async def test_one_object_may_be_opened_by_several(path: Path) -> None:
    """As the memory backend may. It closes with the last of them."""
    backend = SqliteBackend(path)
    async with backend.open():
        async with backend.open():
            await backend.ping()
        await backend.ping()
    assert sqlite_threads() == []
    with pytest.raises(BackendUnavailable):
        await backend.ping()


# --- full -----------------------------------------------------------------------------------


async def limit_pages(harness: SqliteHarness, pages: int | None) -> None:
    """A disk that has room for this many pages more, as far as SQLite can see."""

    def limit(transaction: Transaction) -> None:
        (now,) = transaction.execute("PRAGMA page_count").fetchone()
        allowed = 2**30 if pages is None else now + pages
        transaction.execute(f"PRAGMA max_page_count = {allowed}").fetchall()

    await harness.backend._file.writer.run(limit)  # type: ignore[attr-defined]  # no public way


async def test_a_full_disk_is_trouble_that_passes(harness: SqliteHarness) -> None:
    kept = [await harness.create(payload="x" * 2000) for _ in range(10)]
    await limit_pages(harness, 2)
    made = list(kept)

    async def fill() -> None:
        for _ in range(100):
            made.append(await harness.create(payload="x" * 8000))

    with pytest.raises(BackendUnavailable, match=r"tasks\.db.*full"):
        await fill()

    assert await harness.store.get([task.id for task in made]) == made
    await harness.counts(pending=len(made))

    await limit_pages(harness, None)
    await harness.create(payload="x" * 8000)
    await harness.counts(pending=len(made) + 1)


async def test_on_a_full_disk_what_needs_no_room_goes_on(harness: SqliteHarness) -> None:
    """Tasks that run can finish while new ones are turned away, in one and the same group."""
    task, delivery = await harness.start(payload="x" * 2000)
    await limit_pages(harness, 0)
    refused = 0

    async def create() -> None:
        nonlocal refused
        try:
            await harness.create(payload="x" * 9000)
        except BackendUnavailable:
            refused += 1

    async def finish() -> None:
        await harness.record(Complete(task_id=task.id, attempt=1, result=None))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(create)
        nursery.start_soon(finish)
    assert refused == 5
    await harness.counts(completed=1)
    await harness.delete(delivery)
    await harness.depth()
    await limit_pages(harness, None)


# --- groups ---------------------------------------------------------------------------------


@contextmanager
def writer_held(harness: SqliteHarness, path: Path) -> Iterator[None]:
    """What is asked for inside comes into one group, or few."""
    with locked(path):
        yield


async def test_one_that_fails_does_not_fail_its_group_and_nothing_is_written_twice(
    harness: SqliteHarness, path: Path
) -> None:
    failed: list[int] = []
    created: list[str] = []

    async def good(i: int) -> None:
        task = await harness.create(payload=i)
        await harness.send(task)
        created.append(task.id)

    async def bad(i: int) -> None:
        def work(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM tasks")
            transaction.counters["PENDING"] -= 1000
            raise ZeroDivisionError(i)

        with pytest.raises(ZeroDivisionError, match=str(i)):
            await harness.backend._file.writer.run(work)  # type: ignore[attr-defined]
        failed.append(i)

    async with trio.open_nursery() as nursery:
        with writer_held(harness, path):
            for i in range(20):
                nursery.start_soon(bad if i % 5 == 0 else good, i)
            await trio.sleep(0.02)
    assert sorted(failed) == [0, 5, 10, 15]
    assert len(created) == 16
    await harness.counts(pending=16)
    await harness.depth(waiting=16)


async def test_every_write_may_be_done_again_after_a_rollback(
    harness: SqliteHarness, path: Path
) -> None:
    """Each kind of write stands once in a group that fails as a whole the first time."""
    fresh = harness.make_task()
    started, delivery = await harness.start()
    _, to_release = await harness.start()
    _, to_delete = await harness.start()
    _, to_move = await harness.start()
    _, to_extend = await harness.start()
    (claimable, claim_delivery) = await harness.deliver()
    to_cancel = await harness.create()
    to_reopen = await harness.fail()
    orphan, _ = await harness.start()
    answers: dict[str, Any] = {}

    async def ask(name: str, function: Any, *args: Any) -> None:
        answers[name] = await function(*args)

    async def fail() -> None:
        def work(transaction: Transaction) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await harness.backend._file.writer.run(work)  # type: ignore[attr-defined]

    async with trio.open_nursery() as nursery:
        with writer_held(harness, path):
            for name, function, *args in (
                ("create", harness.store.create, [NewTask(task=fresh)]),
                ("send", harness.send, fresh),
                (
                    "record",
                    harness.record,
                    Complete(task_id=started.id, attempt=1, result=[1]),
                ),
                ("claim", harness.store.claim, [claim_request(claim_delivery)]),
                ("cancel", harness.cancel, to_cancel),
                ("reopen", harness.reopen, to_reopen),
                ("reclaim", harness.store.reclaim, [(orphan.id, 1)]),
                ("release", harness.release, to_release),
                ("delete", harness.delete, to_delete),
                ("dead_letter", harness.dead_letter, to_move),
                ("extend", harness.extend, to_extend, 100.0),
                ("purge", harness.queue.dead_letters.purge),
            ):
                nursery.start_soon(ask, name, function, *args)
            nursery.start_soon(fail)
            await trio.sleep(0.05)

    assert answers["create"] == [Created()]
    assert [type(verdict) for verdict in answers["claim"]] == [Started]
    await harness.counts(pending=3, processing=5, completed=1, cancelled=1)
    depth = await harness.queue.depth()
    assert (depth.waiting, depth.in_flight) == (2, 4)
    assert delivery.task_id == started.id
    assert claimable.id == answers["claim"][0].task.id


# --- cancelled ------------------------------------------------------------------------------


async def test_what_was_begun_is_finished_and_answered(harness: SqliteHarness) -> None:
    begun = threading.Event()
    go_on = threading.Event()

    def work(transaction: Transaction) -> str:
        transaction.counters["probe"] += 1
        begun.set()
        go_on.wait(5)
        return "done"

    answers = []

    async def ask() -> None:
        answers.append(await harness.backend._file.writer.run(work))  # type: ignore[attr-defined]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.to_thread.run_sync(begun.wait, 5)
        nursery.cancel_scope.cancel()
        go_on.set()
    assert answers == ["done"]
    counted = apsw.Connection(str(harness.backend._path))  # type: ignore[attr-defined]
    assert counted.execute("SELECT n FROM counters WHERE name = 'probe'").fetchall() == [(1,)]
    counted.execute("DELETE FROM counters WHERE name = 'probe'")
    counted.close()


async def test_cancelled_at_any_moment_it_is_written_whole_or_not_at_all(
    harness: SqliteHarness,
) -> None:
    answered = set()
    tasks = [harness.make_task() for _ in range(60)]

    async def create(i: int) -> None:
        await harness.store.create([NewTask(task=tasks[i])])
        answered.add(tasks[i].id)

    for i in range(len(tasks)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(create, i)
            for _ in range(i % 4):
                await trio.sleep(0.0002)
            nursery.cancel_scope.cancel()
    stored = {task.id for task in await harness.store.get([task.id for task in tasks]) if task}
    assert stored == answered


# --- closed ---------------------------------------------------------------------------------


async def test_closing_finishes_what_was_handed_over(path: Path) -> None:
    harness = SqliteHarness(path)
    backend = harness.backend
    async with trio.open_nursery() as nursery, backend.open():
        with locked(path):
            for _ in range(100):
                nursery.start_soon(harness.create)
            await trio.sleep(0.02)
    async with backend.open():
        await harness.counts(pending=100)
    assert sqlite_threads() == []
    check(path)


async def test_asked_while_it_closes_it_says_that_it_is_closed(path: Path) -> None:
    """Else a task would wait for a thread that has gone."""
    backend = SqliteBackend(path)
    harness = SqliteHarness(path)
    async with backend.open():
        writer = backend._file.writer
        assert writer is not None
    with trio.fail_after(5), pytest.raises(BackendUnavailable):
        await writer.run(lambda transaction: None)
    with trio.fail_after(5), pytest.raises(BackendUnavailable):
        await harness.create()


async def test_closing_in_a_cancelled_scope_still_ends_the_threads(path: Path) -> None:
    backend = SqliteBackend(path)
    with trio.CancelScope() as scope:
        async with backend.open():
            await backend.ping()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert sqlite_threads() == []
    assert not path.with_name("tasks.db-wal").exists()


async def test_what_waits_for_a_thread_that_dies_is_told(
    harness: SqliteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never should."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    writer = harness.backend._file.writer  # type: ignore[attr-defined]
    monkeypatch.setattr(writer, "_carry_out", lambda *_: 1 / 0)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(_unavailable, harness)
        with pytest.raises(BackendUnavailable):
            await harness.create()
    await harness.counts()


async def _unavailable(harness: SqliteHarness) -> None:
    with pytest.raises(BackendUnavailable):
        await harness.create()


# --- the write-ahead log --------------------------------------------------------------------


async def test_reading_all_the_time_does_not_keep_the_log_from_being_reset(
    harness: SqliteHarness, path: Path
) -> None:
    task = await harness.create()
    stop = False

    async def read() -> None:
        while not stop:
            await harness.get(task.id)
            await harness.store.counts()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
        for _ in range(120):
            await harness.store.create(
                [NewTask(task=harness.make_task(payload="x" * 9000)) for _ in range(10)]
            )
        stop = True
    # 11 MB were written. 1,000 pages of 4 KiB make a checkpoint; more for one that came late.
    assert size_of(path.with_name("tasks.db-wal")) < 2 * 4_200_000


async def test_no_reading_transaction_is_left_open(harness: SqliteHarness) -> None:
    task, _ = await harness.start()
    await harness.fail()

    def state(transaction: Transaction) -> int:
        return transaction.connection.txn_state("main")

    reader = harness.backend._file.reader  # type: ignore[attr-defined]
    for _ in range(2):
        await harness.store.get([task.id, "unknown"])
        await harness.store.cancel_requested([task.id])
        await harness.queue.dead_letters.take(limit=1)
        await harness.stranded(before=harness.now())
        assert await reader.run(state) == apsw.SQLITE_TXN_NONE


# --- more --------------------------------------------------------------------


async def test_requests_that_wait_share_a_transaction(harness: SqliteHarness, path: Path) -> None:
    """One fsync for all of them."""
    commits = 0

    def count() -> bool:
        nonlocal commits
        commits += 1
        return False

    await harness.backend._file.writer.run(lambda t: t.connection.set_commit_hook(count))
    async with trio.open_nursery() as nursery:
        with writer_held(harness, path):
            for _ in range(30):
                nursery.start_soon(harness.create)
            await trio.sleep(0.05)
    await harness.counts(pending=30)
    assert commits < 5


async def test_ping_writes_nothing_while_nothing_is_wrong(
    harness: SqliteHarness, path: Path
) -> None:
    other = apsw.Connection(str(path))
    version = other.pragma("data_version")
    for _ in range(3):
        await harness.backend.ping()
    assert other.pragma("data_version") == version
    await harness.create()
    assert other.pragma("data_version") != version

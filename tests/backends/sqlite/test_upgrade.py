"""Files that earlier versions made."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import apsw
import pytest
import trio
from msgspec.structs import replace

from task_queue_engine.attempt_record import LogLine
from task_queue_engine.backends.base import Done, ListQuery, StrandedKind
from task_queue_engine.backends.sqlite import SqliteBackend, schema
from task_queue_engine.errors import BackendRefused
from task_queue_engine.lifecycle import Complete, ScheduleRetry, Started
from task_queue_engine.task import Task, TaskError, TaskStatus
from task_queue_engine.testing.conformance.harness import claim_request
from tests.backends.sqlite.harness import SqliteHarness
from tests.backends.sqlite.sqlite_file import check
from tests.backends.sqlite.test_file import file_modes, names
from tests.backends.sqlite.test_processes import child

FILES = Path(__file__).with_name("files")
"""What the code of each version wrote, as a dump: every status, a dead letter, leases, marks."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture(params=range(1, schema.SCHEMA_VERSION))
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def old(path: Path, version: int) -> Path:
    """A file that this version made."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.execute((FILES / f"version_{version}.sql").read_text())
    connection.close()
    path.chmod(0o640)
    return path


def read(path: Path, statement: str) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path))
    found = connection.execute(statement).fetchall()
    connection.close()
    return found


def version_of(path: Path) -> object:
    return read(path, "PRAGMA user_version")[0][0]


async def tasks_by_payload(harness: SqliteHarness) -> dict[str, Task]:
    page = await harness.store.list_tasks(ListQuery(limit=100))
    return {str(task.payload).split()[0]: task for task in page.tasks}


async def test_an_old_file_is_upgraded_with_all_that_is_in_it(old: Path) -> None:
    columns = ", ".join(str(name) for _, name, *_ in read(old, "PRAGMA table_info(tasks)"))
    everything = f"SELECT {columns} FROM tasks ORDER BY id"
    before = read(old, everything)
    harness = SqliteHarness(old)
    async with harness.backend.open():
        assert version_of(old) == schema.SCHEMA_VERSION
        assert read(old, everything) == before
        await harness.counts(pending=5, processing=2, completed=1, failed=1, cancelled=1)
        await harness.depth(waiting=2, in_flight=2, dead=1)

        tasks = await tasks_by_payload(harness)
        assert len(tasks["large"].payload) == 2006
        assert tasks["done"].result == [1, 2.5, "three"]
        (letter,) = await harness.queue.dead_letters.take(limit=10)
        assert letter.task_id == tasks["failed"].id
        assert await harness.store.cancel_requested([tasks["asked"].id]) == [True]
        due = await harness.store.due("default", before=harness.later(3600), limit=10)
        assert [one.task.id for one in due] == [tasks["due"].id]
        stranded = await harness.stranded(before=harness.later(1))
        assert [(one.task.id, one.kind) for one in stranded] == [
            (tasks["unsent"].id, StrandedKind.UNSENT)
        ]

        waiting = await harness.receive()
        assert {one.task_id for one in waiting} == {tasks["large"].id, tasks["pending"].id}
        running = tasks["running"]
        await harness.record(Complete(task_id=running.id, attempt=running.attempt, result=None))
        await harness.lapse()
        assert {one.task_id for one in await harness.receive()} >= {running.id, tasks["asked"].id}
        (other,) = await _receive_other(harness)
        assert other.task_id == tasks["elsewhere"].id
    check(old)


async def test_dead_letters_that_a_retry_has_left_are_deleted(old: Path) -> None:
    """Of the one task that is FAILED the newest stays."""
    connection = apsw.Connection(str(old))
    add = (
        "INSERT INTO dead_letters (queue, task_id, task_type, reason, attempts, at) "
        "SELECT {queue}, id, type, '{reason}', 1, 0 FROM tasks WHERE {which}"
    )
    for queue, reason, which in (
        ("queue", "again", "status = 3"),
        ("'other'", "retried", "status <> 3"),
    ):
        connection.execute(add.format(queue=queue, reason=reason, which=which))
    connection.execute(
        "INSERT INTO dead_letters (queue, task_id, task_type, reason, attempts, at) "
        "VALUES ('default', 'unknown', '', 'no task', 0, 0)"
    )
    connection.execute(
        "INSERT OR REPLACE INTO counters SELECT 'dead:' || queue, count(*) FROM dead_letters "
        "GROUP BY queue"
    )
    connection.close()
    harness = SqliteHarness(old)
    async with harness.backend.open():
        left = await harness.queue.dead_letters.take(limit=10)
        assert [each.reason for each in left] == ["again", "no task"]
        await harness.depth(dead=2, waiting=2, in_flight=2)
        assert (await harness.backend.queue("other").depth()).dead == 0
    check(old)


async def _receive_other(harness: SqliteHarness) -> list[object]:
    await harness.advance(60)
    return await harness.backend.queue("other").receive(10, wait=0, visibility=30)  # type: ignore[return-value]  # deliveries


async def test_waiting_messages_of_an_old_file_survive_a_clock_set_back(old: Path) -> None:
    harness = SqliteHarness(old)
    async with harness.backend.open():
        pass
    again = SqliteHarness(old)
    again.clock.advance(-timedelta(hours=1).total_seconds())
    # The fixture's times lie in the future of the machine's clock: as if it had stood there.
    connection = apsw.Connection(str(old))
    connection.execute("UPDATE messages SET hidden_at = visible_at WHERE NOT leased")
    connection.close()
    async with again.backend.open():
        assert len(await again.receive()) == 2


async def test_a_copy_is_kept_as_it_was(
    old: Path, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    dump = "SELECT sql FROM sqlite_schema UNION ALL SELECT quote(id) FROM tasks"
    before = read(old, dump)
    async with SqliteBackend(old).open():
        pass
    copy = old.with_name(f"tasks.db.v{version}")
    assert names(old.parent) == ["tasks.db", copy.name]
    assert (version_of(copy), read(copy, dump)) == (version, before)
    check(copy)
    assert set(file_modes(old.parent).values()) == {0o640}
    upgraded = f"{old} was upgraded from schema {version} to {schema.SCHEMA_VERSION}"
    assert upgraded in caplog.text
    assert str(copy) in caplog.text


async def test_once_upgraded_nothing_is_copied_again(old: Path, version: int) -> None:
    for _ in range(2):
        async with SqliteBackend(old).open():
            pass
        old.with_name(f"tasks.db.v{version}").unlink(missing_ok=_ > 0)
    assert names(old.parent) == ["tasks.db"]


async def test_without_room_for_the_copy_it_is_left_as_it_was(old: Path, version: int) -> None:
    copy = old.with_name(f"tasks.db.v{version}")
    copy.mkdir()
    (copy / "something").touch()
    with pytest.raises(BackendRefused, match=r"has to be upgraded .* no copy of it could be made"):
        async with SqliteBackend(old).open():
            pass
    assert version_of(old) == version
    assert names(old.parent) == ["tasks.db", copy.name]
    check(old)


async def test_an_upgrade_that_fails_changes_nothing(
    old: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(connection: apsw.Connection) -> None:
        connection.execute("ALTER TABLE tasks ADD COLUMN colour TEXT")
        raise apsw.FullError("disk full")

    monkeypatch.setattr(schema, "_UPGRADES", (*schema._UPGRADES, broken))
    with pytest.raises(Exception, match="disk full"):
        async with SqliteBackend(old).open():
            pass
    assert version_of(old) == version
    assert "colour" not in str(read(old, "SELECT sql FROM sqlite_schema"))


async def test_the_second_finds_it_done(old: Path, version: int) -> None:
    """It had seen the old version, then waited for the first one's lock."""
    first = apsw.Connection(str(old))
    first.execute("BEGIN IMMEDIATE")
    harness = SqliteHarness(old)

    async def second() -> None:
        async with harness.backend.open():
            await harness.counts(pending=5, processing=2, completed=1, failed=1, cancelled=1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        await trio.sleep(0.1)  # for it to come to the lock; it may well come later
        schema.upgrade(first, version)
        first.execute("COMMIT")
    first.close()
    assert not old.with_name(f"tasks.db.v{version}").exists(), "the first one's to make"
    check(old)


def test_two_processes_may_race(old: Path, version: int) -> None:
    with child("open", old) as one, child("open", old) as two, child("open", old) as three:
        for process in (one, two, three):
            assert process.wait(60) == 0
    assert version_of(old) == schema.SCHEMA_VERSION
    assert version_of(old.with_name(f"tasks.db.v{version}")) == version
    assert read(old, "SELECT count(*) FROM tasks") == [(10 + 3,)]
    check(old)


async def test_a_process_of_an_old_version_that_has_it_open_goes_on(old: Path) -> None:
    """Its statements, as version 1 spells them."""
    before = apsw.Connection(str(old))
    before.execute("SELECT count(*) FROM messages").fetchall()
    harness = SqliteHarness(old)
    async with harness.backend.open():
        await harness.receive()
        before.execute(
            "INSERT INTO messages (queue, task_id, visible_at, receive_count, leased) "
            "SELECT 'default', id, 0, 0, 0 FROM tasks WHERE payload = CAST('\"unsent\"' AS BLOB)"
        )
        before.execute(
            "INSERT INTO counters VALUES ('messages:default', 1) "
            "ON CONFLICT (name) DO UPDATE SET n = n + excluded.n"
        )
        delivery = await harness.receive_one()
        before.execute("UPDATE messages SET visible_at = visible_at + 1 WHERE leased")
        assert await harness.delete(delivery) == Done()
        unsent = await harness.get(delivery.task_id)
        assert unsent.status is TaskStatus.PENDING
    before.close()
    check(old)


async def test_an_attempt_of_an_old_process_is_never_taken_for_one_claimed_ahead(
    path: Path,
) -> None:
    """It leaves what was said of the attempt before its own, which it knows nothing of."""
    harness = SqliteHarness(path)
    async with harness.backend.open():
        task = await harness.submit()
        request = replace(claim_request(await harness.receive_one()), ahead=True)
        assert isinstance((await harness.store.claim([request]))[0], Started)
        await harness.lapse()
        await harness.receive_one()
        old = apsw.Connection(str(path))
        old.execute("UPDATE tasks SET attempt = attempt + 1, receive_count = receive_count + 1")
        old.close()
        await harness.lapse()
        assert isinstance(await harness.claim(await harness.receive_one()), Started)
        assert (await harness.get(task.id)).retry_count == 1


async def test_the_attempts_of_an_old_file_are_told_as_far_as_its_rows_say(old: Path) -> None:
    harness = SqliteHarness(old)
    async with harness.backend.open():
        tasks = await tasks_by_payload(harness)
        found = {name: await harness.store.history(task.id) for name, task in tasks.items()}
        outcomes = {
            name: [one.outcome.value for one in history.attempts]
            for name, history in found.items()
            if history is not None and history.attempts
        }
        assert outcomes == {
            "running": ["running"],
            "asked": ["running"],
            "done": ["succeeded"],
            "failed": ["failed"],
        }
        done = found["done"]
        assert done is not None
        assert (done.attempts[0].worker, done.attempts[0].version) == (tasks["done"].worker, None)


async def test_an_old_process_beside_a_new_one_does_the_history_no_harm(old: Path) -> None:
    """It claims without its version, ends attempts without a word, and deletes tasks."""
    harness = SqliteHarness(old)
    async with harness.backend.open():
        tasks = await tasks_by_payload(harness)
        id_ = tasks["running"].id
        retry = ScheduleRetry(
            task_id=id_,
            attempt=1,
            error=TaskError(type="E", message="no"),
            run_at=harness.now(),
            scheduled=False,
        )
        await harness.store.record([retry])
        before = apsw.Connection(str(old))
        before.execute("BEGIN IMMEDIATE")
        before.execute(
            "UPDATE tasks SET status = 1, attempt = 2, worker = 'old:1', started_at = updated_at "
            "WHERE id = ?",
            (id_,),
        )
        before.execute("COMMIT")
        found = await harness.store.history(id_)
        assert found is not None
        assert [(one.number, one.outcome.value) for one in found.attempts] == [
            (1, "retried"),
            (2, "running"),
        ]
        assert (found.attempts[1].worker, found.attempts[1].version) == ("old:1", None)
        # A zombie of the attempt that it took over without a word is refused, with all it has said.
        before.execute("DELETE FROM attempts")
        said = replace(
            found.attempts[0],
            logs=(LogLine(time=harness.now(), level="I", logger="l", message=""),),
        )
        other, _ = await harness.start()
        await harness.store.record(
            [
                Complete(task_id=id_, attempt=1, result=None, record=said),
                Complete(task_id=other.id, attempt=1, result=None),
            ]
        )
        assert read(old, "SELECT count(*) FROM attempts") == [(0,)]
        await harness.store.record([replace(retry, attempt=2)])
        before.execute("DELETE FROM attempts WHERE number = 2")
        before.execute("UPDATE tasks SET status = 0 WHERE id = ?", (id_,))
        found = await harness.store.history(id_)
        assert found is not None
        assert (found.attempts, found.omitted) == ((), 2)
        before.execute(
            "INSERT INTO attempts (task_id, slot, number, outcome, started_at, logs_omitted) "
            "VALUES (?, 1, 1, 'crashed', 0, 0)",
            (id_,),
        )
        before.execute("DELETE FROM tasks WHERE id = ?", (id_,))
        before.close()
        assert read(old, "SELECT count(*) FROM attempts") == [(0,)]


async def test_a_new_file_has_the_layout_of_an_upgraded_one(
    old: Path, version: int, tmp_path: Path
) -> None:
    layout = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
    new = tmp_path / "new.db"
    for path in (old, new):
        async with SqliteBackend(path).open():
            pass
    assert read(old, layout) == read(new, layout)
    assert version_of(new) == schema.SCHEMA_VERSION
    assert names(new.parent) == ["new.db", "tasks.db", f"tasks.db.v{version}"]

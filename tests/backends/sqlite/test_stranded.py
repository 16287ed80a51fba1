"""The walk for stranded rows, over processes that live shorter than it takes."""

from __future__ import annotations

from pathlib import Path

from task_queue_engine.backends.base import NewTask, StrandedPage
from task_queue_engine.backends.sqlite.transaction import Transaction
from tests.backends.sqlite.harness import SqliteHarness


async def create(harness: SqliteHarness, number: int, **fields: str) -> set[str]:
    """Saved, and never sent."""
    tasks = [harness.make_task(**fields) for _ in range(number)]
    await harness.store.create([NewTask(task=task) for task in tasks])
    return {task.id for task in tasks}


async def look(harness: SqliteHarness, cursor: str | None = None) -> StrandedPage:
    return await harness.backend.stranded(
        "default", before=harness.later(1), limit=2, cursor=cursor
    )


async def notes(harness: SqliteHarness) -> int:
    def count(transaction: Transaction) -> int:
        (number,) = transaction.execute(
            "SELECT count(*) FROM counters WHERE name LIKE 'stranded:%'"
        ).fetchone()
        assert isinstance(number, int)
        return number

    return await harness.backend._file.read(count)


async def test_processes_that_live_shorter_than_the_walk_get_to_its_end(tmp_path: Path) -> None:
    """Each looks at one piece and is gone."""
    path = tmp_path / "tasks.db"
    async with (first := SqliteHarness(path)).backend.open():
        expected = await create(first, 10, type="a") | await create(first, 11, type="b")
    found: list[str] = []
    for _ in range(11):
        async with (short_lived := SqliteHarness(path)).backend.open():
            page = await look(short_lived)
        found += [each.task.id for each in page.found]
    assert len(found) == len(expected), "none was looked at twice"
    assert set(found) == expected
    # The end was come to: the next one begins at the start.
    assert page.next_cursor is None
    async with (last := SqliteHarness(path)).backend.open():
        assert await notes(last) == 0
        assert [each.task.id for each in (await look(last)).found] == found[:2]


async def test_the_place_may_be_gone_by_then(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    async with (first := SqliteHarness(path)).backend.open():
        expected = await create(first, 6)
        gone = {each.task.id for each in (await look(first)).found}
        await first.store.cancel(list(gone))
        assert await first.store.expire(finished_before=first.later(10), limit=10) == 2
    async with (second := SqliteHarness(path)).backend.open():
        found: set[str] = set()
        cursor = None
        while True:
            page = await look(second, cursor)
            found |= {each.task.id for each in page.found}
            cursor = page.next_cursor
            if cursor is None:
                break
    assert found == expected - gone


async def test_a_walk_of_one_piece_writes_nothing(tmp_path: Path) -> None:
    async with (harness := SqliteHarness(tmp_path / "tasks.db")).backend.open():
        await create(harness, 1)
        before = await notes(harness)
        assert (await look(harness)).next_cursor is None
        assert await notes(harness) == before == 0

"""What nothing will ever bring on by itself."""

from __future__ import annotations

import pytest

from task_queue_engine.backends.base import Done, Stranded, StrandedKind
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.lifecycle import Interrupt, Retry
from tests.conformance.bench import BOOM, Bench, ids

UNSENT, ORPHANED = StrandedKind.UNSENT, StrandedKind.ORPHANED


async def test_a_task_whose_message_was_never_sent(bench: Bench) -> None:
    task = await bench.create()
    await bench.advance(1)
    assert await bench.stranded() == [Stranded(task, UNSENT)]


async def test_a_running_task_whose_message_is_gone(bench: Bench) -> None:
    task, delivery = await bench.start()
    assert await bench.delete(delivery) == Done()
    await bench.advance(1)
    assert await bench.stranded() == [Stranded(task, ORPHANED)]


async def test_a_copy_does_not_bring_a_running_task_back(bench: Bench) -> None:
    """Another message of the task never takes it over, so it counts for nothing here."""
    task, delivery = await bench.start()
    await bench.send(task)
    assert await bench.delete(delivery) == Done()
    await bench.advance(1)
    assert await bench.stranded() == [Stranded(task, ORPHANED)]


async def test_any_message_brings_a_pending_task_on(bench: Bench) -> None:
    task, delivery = await bench.start()
    await bench.record(Interrupt(task_id=task.id, attempt=1))
    await bench.send(task)
    assert await bench.delete(delivery) == Done()
    await bench.advance(1)
    if bench.can.exact_stranded:
        assert await bench.stranded() == []


async def test_a_pending_task_that_lost_its_message(bench: Bench) -> None:
    task, delivery = await bench.start()
    await bench.record(
        Retry(task_id=task.id, attempt=1, error=BOOM, run_at=bench.now, scheduled=False)
    )
    assert await bench.delete(delivery) == Done()
    await bench.advance(1)
    assert await bench.stranded() == [Stranded(await bench.get(task), UNSENT)]


async def test_what_is_not_stranded(bench: Bench) -> None:
    await bench.finish()
    await bench.fail()
    await bench.cancel(await bench.create())
    waiting = await bench.create()
    await bench.send(waiting)
    delayed = await bench.create()
    await bench.send(delayed, delay=bench.queue.max_delay)
    await bench.create(due_at=bench.in_seconds(10_000))
    await bench.create(due_at=bench.now)
    await bench.advance(1)
    if bench.can.exact_stranded:
        assert await bench.stranded() == []

    # Running, and lapsed: the message comes back and brings the task on.
    (delivery,) = await bench.receive()
    await bench.claim(delivery)
    await bench.advance(bench.lease * 2)
    if bench.can.exact_stranded:
        assert await bench.stranded() == []


async def test_a_task_that_moved_lately_may_be_between_two_steps(bench: Bench) -> None:
    await bench.create()
    page = await bench.backend.stranded("default", before=bench.now, limit=10)
    assert page.found == ()
    page = await bench.backend.stranded("default", before=bench.in_seconds(1e-6), limit=10)
    assert len(page.found) == 1


async def test_each_queue_has_its_own(bench: Bench) -> None:
    here = await bench.create()
    there = await bench.create(queue="other")
    await bench.advance(1)
    assert [item.task.id for item in await bench.stranded()] == [here.id]
    page = await bench.backend.stranded("other", before=bench.now, limit=10)
    assert [item.task.id for item in page.found] == [there.id]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_a_walk_in_pieces_finds_all(bench: Bench, limit: int) -> None:
    wanted = set()
    for i in range(4):
        wanted.add((await bench.create()).id)
        await bench.send(await bench.create())
        await bench.create(queue="other")
        if i % 2:
            await bench.advance(1)
    for _ in range(4):
        # From the oldest message on; whichever task it is of.
        (delivery,) = await bench.receive()
        await bench.claim(delivery)
        assert await bench.delete(delivery) == Done()
        wanted.add(delivery.task_id)
    await bench.advance(1)

    found = await bench.stranded(limit=limit)

    assert sorted(item.task.id for item in found) == sorted(wanted)
    assert [item.kind for item in found].count(ORPHANED) == 4


async def test_a_call_reads_no_more_than_its_limit(bench: Bench) -> None:
    for _ in range(6):
        await bench.create()
    await bench.advance(1)
    page = await bench.backend.stranded("default", before=bench.now, limit=2)
    assert len(page.found) <= 2
    assert page.next_cursor is not None


async def test_a_walk_is_not_disturbed_by_what_is_brought_back(bench: Bench) -> None:
    tasks = [await bench.create() for _ in range(4)]
    await bench.advance(1)
    before = bench.now
    found: list[str] = []
    cursor = None
    while True:
        page = await bench.backend.stranded("default", before=before, limit=1, cursor=cursor)
        for item in page.found:
            found.append(item.task.id)
            await bench.send(item.task)
            (delivery,) = await bench.receive()
            await bench.claim(delivery)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sorted(found) == sorted(ids(tasks))


@pytest.mark.parametrize("cursor", ["x", "ü", "W10", "\x00", "WyJ0YXNrcyIsWzAsIiJdXQ"])
async def test_a_cursor_that_is_none(bench: Bench, cursor: str) -> None:
    with pytest.raises(InvalidQuery) as raised:
        await bench.backend.stranded("default", before=bench.now, limit=10, cursor=cursor)
    assert raised.value.field == "cursor"

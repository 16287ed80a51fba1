"""The machine's clock is set while tasks wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from task_queue_engine.backends.base import Delivery, Done, StrandedKind
from tests.backends.sqlite.harness import SqliteHarness
from tests.backends.sqlite.sqlite_file import check

HOUR = 3600.0


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[SqliteHarness]:
    harness = SqliteHarness(tmp_path / "tasks.db")
    async with harness.backend.open():
        yield harness
    check(tmp_path / "tasks.db")


async def set_back(harness: SqliteHarness, seconds: float = HOUR) -> None:
    await harness.advance(-seconds)


async def test_what_has_no_delay_needs_no_clock(
    harness: SqliteHarness, caplog: pytest.LogCaptureFixture
) -> None:
    assert await harness.receive() == []
    before = await harness.submit()
    await set_back(harness)
    after = await harness.submit()

    received = [delivery.task_id for delivery in await harness.receive()]

    assert sorted(received) == sorted([before.id, after.id])
    assert "clock went back by 3600 s" in caplog.text
    assert "1 messages of queue default were hidden" in caplog.text


async def test_set_back_between_two_runs(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    first = SqliteHarness(path)
    async with first.backend.open():
        task = await first.submit()
    again = SqliteHarness(path)
    await set_back(again)
    async with again.backend.open():
        assert (await again.receive_one()).task_id == task.id


async def test_a_receive_that_waits_notices(harness: SqliteHarness) -> None:
    """It does not go on waiting by the earlier clock."""
    await harness.submit()
    held = await harness.receive_one()
    taken: list[Delivery] = []

    async def receive() -> None:
        taken.extend(await harness.queue.receive(1, wait=60, visibility=30))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await set_back(harness)
            while not taken:
                await trio.sleep(0.01)  # for the receiver's next look
                await harness.advance(1)
    assert taken[0].message_id == held.message_id


async def test_a_lease_lapses_after_its_time_by_the_new_clock(harness: SqliteHarness) -> None:
    """Its worker may have died: an hour more would leave its task alone for as long."""
    await harness.submit()
    held = await harness.receive_one()
    await set_back(harness)
    assert await harness.receive() == []

    await harness.advance(harness.visibility - 1)
    assert await harness.receive() == []
    await harness.advance(1)
    again = await harness.receive_one()
    assert (again.message_id, again.receive_count) == (held.message_id, 2)


async def test_a_lease_that_is_renewed_stays(harness: SqliteHarness) -> None:
    await harness.submit()
    held = await harness.receive_one()
    await set_back(harness)
    assert await harness.receive() == []
    await harness.advance(harness.visibility - 1)
    assert await harness.extend(held, harness.visibility) == Done()
    await harness.advance(harness.visibility - 1)
    assert await harness.receive() == []
    assert await harness.delete(held) == Done()


async def test_a_delay_is_as_long_as_it_was_meant(harness: SqliteHarness) -> None:
    task = await harness.create()
    await harness.send(task, delay=60)
    await set_back(harness)
    assert await harness.receive() == []
    await harness.advance(59)
    assert await harness.receive() == []
    await harness.advance(1)
    assert (await harness.receive_one()).task_id == task.id


async def test_queues_are_apart(harness: SqliteHarness) -> None:
    other = harness.backend.queue("other")
    assert await other.receive(1, wait=0, visibility=30) == []
    await harness.submit()
    await set_back(harness)
    assert await other.receive(1, wait=0, visibility=30) == []
    assert len(await harness.receive()) == 1


async def test_a_small_step_changes_nothing(
    harness: SqliteHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """As time servers make them: what is hidden by it is seen as soon as it is over."""
    await harness.receive()
    await harness.submit()
    await set_back(harness, 2)
    assert await harness.receive() == []
    await harness.advance(2)
    assert len(await harness.receive()) == 1
    assert caplog.text == ""


async def test_set_ahead_all_leases_look_lapsed(harness: SqliteHarness) -> None:
    """As the documentation says; fencing sorts out whose attempt counts."""
    await harness.submit()
    await harness.receive_one()
    await harness.advance(HOUR)
    assert (await harness.receive_one()).receive_count == 2


async def test_what_was_never_sent_is_found_all_the_same(harness: SqliteHarness) -> None:
    task = await harness.create()
    await set_back(harness)
    before = harness.now() - timedelta(seconds=60)
    found = await harness.stranded(before=before)
    assert [(one.task.id, one.kind) for one in found] == [(task.id, StrandedKind.UNSENT)]
    fresh = await harness.create()
    assert fresh.id not in {one.task.id for one in await harness.stranded(before=before)}

"""Takes that pass messages which have no place to run."""

from __future__ import annotations

from pathlib import Path

import trio

from task_queue_engine.backends.base import NewTask, Steps, Taken, TakePlan
from task_queue_engine.clock import ManualClock
from tests.backends.sqlite.harness import SqliteHarness
from tests.backends.sqlite.test_cost import Meter

FULL = TakePlan(worker="w", free=4, types={"fast": "trio", "slow": "thread"}, places={"thread": 0})


async def submit(harness: SqliteHarness, number: int, name: str) -> list[str]:
    tasks = [harness.make_task(type=name) for _ in range(number)]
    for start in range(0, number, 500):
        batch = [NewTask(task=task) for task in tasks[start : start + 500]]
        await harness.backend.submit(batch)
    return [task.id for task in tasks]


async def take(steps: Steps, plan: TakePlan = FULL) -> list[str]:
    taken: list[Taken] = await steps.take(plan, wait=0, visibility=10**6)
    return [one.delivery.task_id for one in taken]


async def test_they_are_looked_through_once(tmp_path: Path) -> None:
    """What a take costs after that does not grow with their number."""
    costs = []
    for number in (20, 12_000):
        harness = SqliteHarness(tmp_path / f"{number}.db")
        async with harness.backend.open():
            steps = harness.backend.steps("default")
            await submit(harness, number, "slow")
            await harness.advance(60)
            assert await take(steps) == []
            meter = Meter(harness)
            await meter.attach()
            for _ in range(20):
                await harness.advance(2)  # long enough for what may have come late
                sent = await submit(harness, 1, "fast")
                meter.steps = 0
                assert await take(steps) == sent
            costs.append(meter.steps)
    assert costs[1] < 1.5 * costs[0] + 100, costs


async def test_they_are_found_without_a_lock(tmp_path: Path) -> None:
    """Nothing else could be written meanwhile."""
    harness = SqliteHarness(tmp_path / "tasks.db")
    async with harness.backend.open():
        steps = harness.backend.steps("default")
        assert await take(steps) == []
        await submit(harness, 3000, "slow")
        meter = Meter(harness)
        await meter.attach()
        meter.statements.clear()  # the end of what attached it
        assert await take(steps) == []
        assert meter.statements
        assert not [sql for sql in meter.statements if sql.startswith(("BEGIN", "COMMIT"))]


async def test_what_is_committed_late_is_found(tmp_path: Path) -> None:
    """Its sender had to wait for the lock, and others with later times came before it."""
    harness = SqliteHarness(tmp_path / "tasks.db")
    clock = harness.clock
    assert isinstance(clock, ManualClock)
    async with harness.backend.open():
        steps = harness.backend.steps("default")
        await submit(harness, 1200, "slow")
        assert await take(steps) == []
        clock.advance(-4)  # less than what is taken for a clock set back
        late = await submit(harness, 1, "fast")
        clock.advance(4)
        await harness.advance(1.5)
        assert await take(steps) == late


async def test_after_the_clock_was_set_back(tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path / "tasks.db")
    async with harness.backend.open():
        steps = harness.backend.steps("default")
        slow = await submit(harness, 1200, "slow")
        await harness.advance(60)
        assert await take(steps) == []
        harness.clock.advance(-3600)
        fast = await submit(harness, 1, "fast")
        assert await take(steps) == fast
        one = TakePlan(worker="w", free=1, types=FULL.types, places={"thread": 1})
        assert await take(steps, one) == slow[:1]


async def test_a_place_that_comes_and_goes_costs_no_second_look(tmp_path: Path) -> None:
    harness = SqliteHarness(tmp_path / "tasks.db")
    async with harness.backend.open():
        steps = harness.backend.steps("default")
        slow = await submit(harness, 5000, "slow")
        await harness.advance(60)
        assert await take(steps) == []
        one = TakePlan(worker="w", free=1, types=FULL.types, places={"thread": 1})
        meter = Meter(harness)
        await meter.attach()
        for number in range(3):
            await harness.advance(2)
            assert await take(steps, one) == [slow[number]]
            assert await take(steps) == []
        assert meter.steps < 10_000


async def test_an_idle_queue_is_looked_at_without_a_lock(tmp_path: Path) -> None:
    """Whatever rings: of all processes that hear it one finds something."""
    harness = SqliteHarness(tmp_path / "tasks.db")
    async with harness.backend.open():
        steps = harness.backend.steps("default")
        assert await take(steps) == []
        meter = Meter(harness)
        await meter.attach()
        meter.statements.clear()
        queue = harness.backend.queue("default")
        async with trio.open_nursery() as nursery:
            plan = TakePlan(worker="w", free=1)
            nursery.start_soon(lambda: steps.take(plan, wait=60, visibility=30))
            for _ in range(5):
                await trio.sleep(0.02)
                queue.wake()
            await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
        assert meter.statements
        assert not [sql for sql in meter.statements if sql.startswith(("BEGIN", "COMMIT"))]

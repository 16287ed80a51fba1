"""What has no place to run is not in the way of what has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from task_queue_engine import Task, TaskRegistry, TaskStatus
from task_queue_engine.actors.claim_buffer import HELD_FOR
from task_queue_engine.actors.messages import ProcessTried, Release
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.registry import RunsIn
from tests.actors.polling import Rig, known, polling
from tests.actors.support import put, status

ONE_THREAD = {RunsIn.THREAD: 1}
# What SQS brings in one request: so many are held for one place, and a receive more.
HELD = 10


@pytest.fixture(params=[False, True], ids=["two services", "one transaction"])
async def backend(
    request: pytest.FixtureRequest, autojump_clock: MockClock
) -> AsyncIterator[MemoryBackend]:
    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=request.param)
    async with backend.open():
        yield backend


def in_process(payload: Any) -> None: ...


def with_processes() -> TaskRegistry:
    registry = known("quick")
    registry.task("apart", process=True)(in_process)
    return registry


def mixed() -> TaskRegistry:
    registry = known("quick")

    @registry.task("heavy")
    def heavy(payload: Any) -> None: ...

    return registry


async def many(backend: MemoryBackend, name: str, number: int) -> list[Task]:
    return [await put(backend, type=name) for _ in range(number)]


async def started(rig: Rig, number: int) -> set[str]:
    return {(await rig.deliveries.receive()).task.id for _ in range(number)}


async def give_back(rig: Rig, backend: MemoryBackend) -> None:
    """What the acker does, for ever."""
    async for settlements in rig.settlements:
        released = [one for one in settlements if isinstance(one, Release)]
        assert len(released) == len(settlements)
        await backend.queue("default").release(
            [(each.lease.delivery, each.delay) for each in released]
        )


async def test_idle_workers_take_what_can_run(backend: MemoryBackend) -> None:
    heavy, quick = await many(backend, "heavy", 5), await many(backend, "quick", 4)
    async with polling(backend, demand=5, registry=mixed(), places=ONE_THREAD) as rig:
        with trio.fail_after(HELD_FOR):
            assert await started(rig, 5) == {heavy[0].id, *(task.id for task in quick)}
        assert {status(backend, task.id) for task in heavy[1:]} == {TaskStatus.PENDING}


async def test_behind_any_number_that_cannot_run(backend: MemoryBackend) -> None:
    heavy, (quick,) = await many(backend, "heavy", 200), await many(backend, "quick", 1)
    async with (
        polling(backend, demand=5, registry=mixed(), places=ONE_THREAD) as rig,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(give_back, rig, backend)
        # A queue that cannot choose brings some ten of them a second.
        with trio.fail_after(200 / HELD):
            assert await started(rig, 2) == {heavy[0].id, quick.id}
        nursery.cancel_scope.cancel()


async def test_what_waits_for_a_place_is_bounded_and_goes_back_in_time(
    autojump_clock: MockClock,
) -> None:
    """Where what is received cannot be chosen: others may have a place for it."""
    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=False)
    async with backend.open():
        await many(backend, "heavy", 100)
        async with polling(backend, demand=5, registry=mixed(), places=ONE_THREAD) as rig:
            await rig.deliveries.receive()
            began = trio.current_time()
            await trio.testing.wait_all_tasks_blocked()
            waiting = rig.claimer.statistics().waiting
            assert HELD <= waiting < HELD + 5
            released = await rig.settlements.receive()
            assert trio.current_time() - began == pytest.approx(HELD_FOR)
            assert len(released) == waiting
            assert all(isinstance(one, Release) and 0 < one.delay <= 1 for one in released)
            assert (await backend.store.counts()).processing == 1


async def test_what_is_held_starts_as_soon_as_there_is_a_place(backend: MemoryBackend) -> None:
    first, second = await many(backend, "heavy", 2)
    async with polling(backend, demand=2, registry=mixed(), places=ONE_THREAD) as rig:
        assert await started(rig, 1) == {first.id}
        await trio.testing.wait_all_tasks_blocked()
        rig.free(after="heavy")
        with trio.fail_after(HELD_FOR / 2):
            assert await started(rig, 1) == {second.id}


async def test_a_take_that_passes_them_ends_when_there_is_a_place(
    autojump_clock: MockClock,
) -> None:
    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=True)
    async with backend.open():
        heavy = await many(backend, "heavy", 3)
        async with polling(backend, demand=5, registry=mixed(), places=ONE_THREAD) as rig:
            for task in heavy:
                with trio.fail_after(1):
                    assert await started(rig, 1) == {task.id}
                await trio.sleep(5)
                # They are where they were, and free for others.
                assert (await backend.queue("default").depth()).in_flight == heavy.index(task) + 1
                rig.free(after="heavy")
            assert rig.claimer.statistics().returned == 0
            assert rig.health.troubles == ()


async def test_an_outage_while_it_passes_them_is_ridden_out(autojump_clock: MockClock) -> None:
    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=True)
    async with backend.open():
        await many(backend, "heavy", 3)
        async with polling(backend, demand=5, registry=mixed(), places=ONE_THREAD) as rig:
            await rig.deliveries.receive()
            await trio.testing.wait_all_tasks_blocked()
            with backend.faults.outage("take"):
                await trio.sleep(60)
            (quick,) = await many(backend, "quick", 1)
            assert await started(rig, 1) == {quick.id}


# --- worker processes -----------------------------------------------------------------------


async def test_what_runs_in_a_process_is_claimed_when_the_process_is_there(
    backend: MemoryBackend,
) -> None:
    """Until then it has no handler, and a worker that dies costs it nothing."""
    (apart,) = [await put(backend, type="apart", max_attempts=1)]
    (quick,) = await many(backend, "quick", 1)
    ready = 0
    async with polling(
        backend,
        demand=3,
        registry=with_processes(),
        places={RunsIn.PROCESS: 2},
        ready_processes=lambda promised: ready - promised,
    ) as rig:
        assert await started(rig, 1) == {quick.id}
        await rig.wishes.receive()
        # For as long as it takes: it goes to no other process either.
        await trio.sleep(10 * HELD_FOR)
        assert status(backend, apart.id) is TaskStatus.PENDING
        ready = 1
        rig.demand.send_nowait(ProcessTried())
        with trio.fail_after(1):
            assert await started(rig, 1) == {apart.id}
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            rig.wishes.receive_nowait()
        # The next one waits for a process of its own.
        (second,) = await many(backend, "apart", 1)
        await rig.wishes.receive()
        assert status(backend, second.id) is TaskStatus.PENDING


async def test_with_a_process_that_waits_it_is_claimed_at_once(backend: MemoryBackend) -> None:
    (apart,) = await many(backend, "apart", 1)
    async with polling(
        backend,
        demand=3,
        registry=with_processes(),
        places={RunsIn.PROCESS: 2},
        ready_processes=lambda promised: 1 - promised,
    ) as rig:
        assert await started(rig, 1) == {apart.id}
        with pytest.raises(trio.WouldBlock):
            rig.wishes.receive_nowait()


async def test_where_no_process_can_be_started_it_goes_to_other_workers(
    backend: MemoryBackend,
) -> None:
    await many(backend, "apart", 1)
    async with polling(
        backend,
        demand=3,
        registry=with_processes(),
        places={RunsIn.PROCESS: 2},
        ready_processes=lambda promised: -promised,
    ) as rig:
        await rig.wishes.receive()
        rig.demand.send_nowait(ProcessTried(not_for=5))
        with trio.fail_after(2 * HELD_FOR):
            settlement = await rig.settlement()
        assert isinstance(settlement, Release)
        assert settlement.delay > 0
        await many(backend, "apart", 1)
        with trio.move_on_after(4 - HELD_FOR):
            await rig.wishes.receive()
            pytest.fail("it was tried again too soon")
        await many(backend, "apart", 1)
        await trio.sleep(3)
        await many(backend, "apart", 1)
        with trio.fail_after(5):
            await rig.wishes.receive()

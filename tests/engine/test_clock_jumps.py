"""After a sleep, or a clock set ahead, every lease looks as if it had lapsed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from task_queue_engine import Engine, Settings, TaskRegistry, TaskStatus
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock


@pytest.mark.parametrize("together", [False, True], ids=["two services", "one transaction"])
async def test_an_engine_does_not_take_its_own_attempt_over(
    autojump_clock: MockClock, *, together: bool
) -> None:
    starts: list[int] = []
    running, finish = trio.Event(), trio.Event()
    tasks = TaskRegistry()

    @tasks.task("slow", max_attempts=1)
    async def slow(number: int) -> int:
        starts.append(number)
        running.set()
        await finish.wait()
        return number

    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=together)
    queue = backend.queue("default")
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(Engine(tasks, Settings(), backend=backend).run)
        handle = await engine.submit(slow, 1)
        await running.wait()
        for slept in (1, 2):
            queue.lapse_leases()
            await trio.sleep(10)
            assert engine.statistics()["poller"]["received"] == 1 + slept
        await trio.sleep(100)  # the lease goes on being renewed, under the latest receipt
        assert starts == [1]
        assert await handle.status() is TaskStatus.PROCESSING
        finish.set()
        assert await handle.result(timeout=5) == 1
        task = await handle.task()
        await engine.stop()

    assert starts == [1]
    assert (task.attempt, task.retry_count) == (1, 0)
    async with backend.open():
        depth = await queue.depth()
    assert (depth.waiting, depth.in_flight, depth.dead) == (0, 0, 0)


@pytest.mark.parametrize("together", [False, True], ids=["two services", "one transaction"])
async def test_what_waits_in_the_buffer_is_not_claimed_twice(
    autojump_clock: MockClock, *, together: bool
) -> None:
    """The second claim would count the first as a crash."""
    finish = trio.Event()
    tasks = TaskRegistry()

    @tasks.task("slow", max_attempts=1)
    async def slow(number: int) -> int:
        await finish.wait()
        return number

    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=together)
    async with trio.open_nursery() as nursery:
        settings = Settings(worker_count=2, prefetch=6)
        engine = await nursery.start(Engine(tasks, settings, backend=backend).run)
        handles = [await engine.submit(slow, number) for number in range(3)]
        await trio.sleep(1)
        backend.queue("default").lapse_leases()
        await trio.sleep(10)
        finish.set()  # two workers come free: for the one that waits, and its double
        for number, handle in enumerate(handles):
            assert await handle.result(timeout=60) == number
            assert (await handle.task()).attempt == 1
        await engine.stop()

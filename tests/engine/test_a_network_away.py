"""Queue and store are two services a network away: what latency may cost, with default settings."""

from __future__ import annotations

import random
import statistics

import pytest
import trio

from task_queue_engine import Engine, TaskRegistry
from task_queue_engine.backends.memory import MemoryBackend
from tests.engine.distant import Distant
from tests.engine.engines import running, until

WORKERS = 5
"""The default."""


async def _fill(tasks: TaskRegistry, backend: MemoryBackend, count: int) -> None:
    async with running(tasks, backend, consume=False) as engine, trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(engine.submit, "work", number)


async def _submit_all(
    engine: Engine, count: int, *, callers: int, pause: float
) -> tuple[list[float], float]:
    """Seconds that each submission took, and that all of them took."""
    rng, numbers, waits = random.Random(1), iter(range(count)), []
    began = trio.current_time()

    async def call() -> None:
        for number in numbers:
            at = trio.current_time()
            await engine.submit("work", number)
            waits.append(trio.current_time() - at)
            await trio.sleep(rng.uniform(0, pause))  # no two callers are in step

    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(call)
    return waits, trio.current_time() - began


def _handler(tasks: TaskRegistry, seconds: float) -> list[float]:
    """When each run of it ended."""
    ended: list[float] = []

    @tasks.task("work")
    async def work(number: int) -> None:
        await trio.sleep(seconds)
        ended.append(trio.current_time())

    return ended


@pytest.mark.parametrize("latency", [0.008, 0.02])
@pytest.mark.parametrize("seconds", [0.005, 0.05])
async def test_workers_are_busy_while_more_is_fetched(
    backend: MemoryBackend, tasks: TaskRegistry, latency: float, seconds: float
) -> None:
    """Within a tenth of what they could do with everything at hand."""
    count = 500
    ended = _handler(tasks, seconds)
    await _fill(tasks, backend, count)
    distant = Distant(backend, latency=latency, jitter=0.5)
    async with running(tasks, distant, worker_count=WORKERS):
        await until(lambda: len(ended) == count)
    # The first claims are strict: nothing is known of the type yet.
    begin = count // 5
    assert ended[-1] - ended[begin] < (count - begin) * seconds / WORKERS * 1.1


async def test_short_tasks_take_a_round_trip_for_a_hundred(
    backend: MemoryBackend, tasks: TaskRegistry
) -> None:
    count, latency = 1000, 0.01
    ended = _handler(tasks, 0.0002)
    await _fill(tasks, backend, count)
    distant = Distant(backend, latency=latency)
    async with running(tasks, distant, worker_count=WORKERS):
        began = trio.current_time()
        await until(lambda: len(ended) == count)
        await trio.sleep(1)
    # Without latency a fifth of it: 0.04 s.
    assert ended[-1] - began < 25 * latency
    # 0.1 to receive, 0.1 to delete, 0.04 each to claim and to record, and the start.
    assert sum(distant.requests.values()) < 0.35 * count


@pytest.mark.parametrize("callers", [16, 64])
async def test_a_submission_takes_its_two_requests_and_a_tenth(
    backend: MemoryBackend, tasks: TaskRegistry, callers: int
) -> None:
    count, latency = 32 * callers, 0.008
    ended = _handler(tasks, 0.0002)
    distant = Distant(backend, latency=latency)
    async with running(tasks, distant, worker_count=WORKERS) as engine:
        waits, took = await _submit_all(engine, count, callers=callers, pause=0.006)
        await until(lambda: len(ended) == count)
    waits = waits[len(waits) // 10 :]  # what a round trip takes has to be seen first
    assert statistics.median(waits) <= 2 * latency * 1.1
    assert max(waits) <= 2 * latency * 1.15
    # As many as set out in a round trip, however many callers there are.
    assert distant.requests["create"] <= took / (2 * latency) * 10 * 1.2


async def test_a_lone_submission_waits_for_nothing(
    backend: MemoryBackend, tasks: TaskRegistry
) -> None:
    ended = _handler(tasks, 0.0)
    distant = Distant(backend, latency=0.01)
    async with running(tasks, distant, worker_count=WORKERS) as engine:
        waits, _ = await _submit_all(engine, 50, callers=1, pause=0.0)
        await until(lambda: len(ended) == 50)
    assert max(waits) == pytest.approx(2 * distant.latency)


async def test_receives_find_what_they_look_for(
    backend: MemoryBackend, tasks: TaskRegistry
) -> None:
    """A look that finds nothing costs as much as one that brings ten."""
    count = 1000
    ended = _handler(tasks, 0.0002)
    distant = Distant(backend, latency=0.008)
    async with running(tasks, distant, worker_count=WORKERS) as engine:
        await _submit_all(engine, count, callers=16, pause=0.0)
        await until(lambda: len(ended) == count)
    # 16 come at a time: two receives, and one that waits for the next.
    assert distant.requests["receive"] <= 3 * count / 16 * 1.2

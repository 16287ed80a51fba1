"""A delayed task never starts early, and any delay works."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import trio

from task_queue_engine import InvalidTask, TaskRegistry, TaskStatus
from task_queue_engine.backends.base import Message
from task_queue_engine.backends.memory import MemoryBackend
from tests.engine.engines import MAX_DELAY, Runs, ended, row, running

pytestmark = pytest.mark.usefixtures("short_delays")


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture(autouse=True)
def note(tasks: TaskRegistry, runs: Runs) -> Any:
    @tasks.task("note")
    async def note(payload: Any, context: Any) -> None:
        runs(context)

    return note


@pytest.mark.parametrize(
    "delay",
    [0.5, 20, MAX_DELAY - 1, MAX_DELAY, MAX_DELAY + 0.5, MAX_DELAY + 31, 300],
)
async def test_a_delay_of_any_length(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, note: Any, delay: float
) -> None:
    async with running(tasks, backend) as engine:
        submitted = trio.current_time()
        handle = await engine.submit(note, delay=delay)
        await handle.result(timeout=delay + 60)
    assert runs.at[0] - submitted >= delay, "never early"
    assert runs.at[0] - submitted == pytest.approx(delay, abs=0.1)
    assert len(runs) == 1


async def test_a_delay_longer_than_any_process_lives(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, note: Any
) -> None:
    async with running(tasks, backend) as engine:
        due = backend.clock.now() + timedelta(days=400)
        handle = await engine.submit(note, run_at=due)
        assert (await handle.task()).run_at == due
    await trio.sleep((due - backend.clock.now()).total_seconds() - 60)
    async with running(tasks, backend) as engine:
        await trio.sleep(59)
        assert len(runs) == 0
        assert await handle_status(engine, handle.id) is TaskStatus.PENDING
        await ended(engine, handle.id, timeout=2)


async def handle_status(engine: Any, task_id: str) -> TaskStatus:
    return (await engine.get(task_id)).status


async def test_what_came_due_while_no_engine_ran_starts_at_once(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, note: Any
) -> None:
    async with running(tasks, backend) as engine:
        handles = [await engine.submit(note, delay=delay) for delay in (10, 5000)]
    await trio.sleep(10_000)
    async with running(tasks, backend) as engine:
        for handle in handles:
            await ended(engine, handle.id, timeout=1)


async def test_at_a_moment_given_in_any_zone(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, note: Any
) -> None:
    async with running(tasks, backend) as engine:
        start = trio.current_time()
        zone = timezone(timedelta(hours=5, minutes=30))
        due = (backend.clock.now() + timedelta(minutes=5)).astimezone(zone)
        handle = await engine.submit(note, run_at=due)
        task = await handle.task()
        assert task.run_at == due
        assert task.run_at.utcoffset() == timedelta(0)
        await handle.result()
    assert runs.at[0] - start == pytest.approx(300, abs=0.1)


@pytest.mark.parametrize("ago", [timedelta(0), timedelta(seconds=1), timedelta(days=20_000)])
async def test_a_moment_in_the_past_means_now(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, note: Any, ago: timedelta
) -> None:
    async with running(tasks, backend) as engine:
        start = trio.current_time()
        await (await engine.submit(note, run_at=backend.clock.now() - ago)).result()
    assert runs.at[0] == pytest.approx(start, abs=0.1)


async def test_a_moment_without_a_zone_is_refused(
    tasks: TaskRegistry, backend: MemoryBackend, note: Any
) -> None:
    async with running(tasks, backend) as engine:
        with pytest.raises(InvalidTask, match="time zone"):
            await engine.submit(note, run_at=datetime(2031, 1, 1))  # noqa: DTZ001 - the point
        with pytest.raises(InvalidTask, match="not both"):
            await engine.submit(note, run_at=datetime(2031, 1, 1, tzinfo=UTC), delay=1)


async def test_a_message_that_comes_early_starts_nothing(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, note: Any
) -> None:
    """A queue whose clock is fast, or a message sent twice."""
    async with running(tasks, backend) as engine:
        start = trio.current_time()
        handle = await engine.submit(note, delay=300)
        for _ in range(3):
            await backend.queue("default").send([Message(task=row(backend, handle.id).task)])
        await handle.result()
        await trio.sleep(300)
        assert (await engine.metrics()).depth.waiting == 0
    assert runs.at[0] - start >= 300
    assert len(runs) == 1


async def test_two_engines_that_see_the_same_due_task_run_it_once(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, note: Any
) -> None:
    async with running(tasks, backend) as one, running(tasks, backend) as other:
        handles = [await one.submit(note, delay=100 + n) for n in range(20)]
        for handle in handles:
            await ended(other, handle.id)
        await trio.sleep(600)
        assert (await one.metrics()).depth.waiting == 0
    assert len(runs) == 20

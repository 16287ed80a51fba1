"""What was claimed before a worker was free for it: a kill, a cancel, long ones among the short."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio

from task_queue_engine import TaskRegistry, TaskStatus
from task_queue_engine.backends.memory import MemoryBackend
from tests.engine.engines import Runs, ended, process, reaches, row, running, until


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture(autouse=True)
def short(tasks: TaskRegistry, runs: Runs) -> Any:
    @tasks.task("short", max_attempts=3)
    async def short(seconds: float, context: Any) -> int:
        runs(context)
        await trio.sleep(seconds)
        return context.attempt

    return short


async def test_a_kill_costs_no_task_a_retry_that_had_not_started(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, consume=False) as watching:
        handles = [await watching.submit("short", 0.005) for _ in range(300)]
        async with process(tasks, backend, worker_count=2) as one:
            await until(lambda: len(runs) >= 100, look_every=0.001)
            started = Counter(task_id for task_id, _ in runs.starts)
            held = [
                handle.id
                for handle in handles
                if row(backend, handle.id).task.status is TaskStatus.PROCESSING
            ]
            one.kill()
            waiting = [task_id for task_id in held if task_id not in started]
            assert len(waiting) > 5, "they were claimed, and waited for a worker"
            assert all(row(backend, task_id).claimed_ahead for task_id in waiting)
        async with running(tasks, backend, worker_count=2):
            found = [await ended(watching, handle.id) for handle in handles]
    assert {task.status for task in found} == {TaskStatus.COMPLETED}
    retried = {task.id for task in found if task.retry_count}
    assert retried <= set(held) & set(started)


async def test_what_is_cancelled_while_it_waits_ahead_never_starts(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    """It is PROCESSING, and has no handler yet."""
    async with running(tasks, backend, worker_count=1) as engine:
        for _ in range(30):
            await (await engine.submit("short", 0.001)).result()
        first, waiting = [await engine.submit("short", 0.04) for _ in range(2)]
        await reaches(engine, waiting.id, TaskStatus.PROCESSING)
        assert (first.id, 1) in runs.starts
        assert (waiting.id, 1) not in runs.starts
        await waiting.cancel()
        assert (await ended(engine, waiting.id)).status is TaskStatus.CANCELLED
        assert (await ended(engine, first.id)).status is TaskStatus.COMPLETED
        await trio.sleep(60)
    assert waiting.id not in [task_id for task_id, _ in runs.starts]


async def test_what_takes_long_leaves_the_rest_to_other_processes(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    """However short all others of its type were."""
    async with process(tasks, backend, worker_count=2) as one:
        for _ in range(30):
            await (await one.engine.submit("short", 0.001)).result()
        handles = [await one.engine.submit("short", 1000) for _ in range(20)]
        await trio.sleep(5)
        async with running(tasks, backend, worker_count=18):
            await trio.sleep(5)
            assert len(runs) == 30 + 20
            assert {row(backend, handle.id).task.retry_count for handle in handles} == {0}

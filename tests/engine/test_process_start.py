"""A worker process takes a moment to come up: what is to run in it has not started until then."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from task_queue_engine import TaskRegistry, TaskStatus
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.execution.processes import ProcessPool
from task_queue_engine.execution.worker_process import WorkerProcess
from tests.engine.engines import process, row, running
from tests.execution import handlers


@pytest.fixture(params=[False, True], ids=["two services", "one transaction"])
def backend(request: pytest.FixtureRequest) -> MemoryBackend:
    return MemoryBackend(is_one_transaction=request.param)


@pytest.fixture
def tasks() -> TaskRegistry:
    registry = TaskRegistry()
    registry.task("pid", process=True)(handlers.pid)
    return registry


async def test_a_kill_while_a_process_comes_up_costs_the_task_nothing(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    coming_up = trio.Event()

    async def never(pool: ProcessPool) -> WorkerProcess:
        coming_up.set()
        await trio.sleep_forever()
        raise AssertionError

    with trio.fail_after(60):
        async with running(tasks, backend, consume=False) as front:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ProcessPool, "_start", never)
                async with process(tasks, backend, shutdown_grace=0, shutdown_flush=0.1) as one:
                    handle = await front.submit("pid", None, max_attempts=1)
                    await coming_up.wait()
                    assert row(backend, handle.id).task.status is TaskStatus.PENDING
                    one.kill()
            backend.queue("default").lapse_leases()
            async with running(tasks, backend):
                assert await handle.result(timeout=60) > 0
            assert row(backend, handle.id).task.attempt == 1


async def test_several_come_up_at_a_time_and_are_kept(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    with trio.fail_after(60):
        async with running(tasks, backend, worker_count=4, processes=2) as engine:
            handles = [await engine.submit("pid", number) for number in range(10)]
            results: list[Any] = [await handle.result(timeout=60) for handle in handles]
            # One of them may do all of it while the other comes up.
            assert len(set(results)) <= engine.statistics()["warmer"]["started"] <= 2

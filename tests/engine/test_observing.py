"""Looking at an engine: tasks, lists, numbers, readiness, events."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from task_queue_engine import Engine, Retry, Snooze, TaskNotFound, TaskRegistry, TaskStatus
from task_queue_engine.backends.base import Counts, ListQuery, QueueDepth
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.engine.counters import COUNTERS
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.events import AttemptRecorded, AttemptStarted
from task_queue_engine.task import new_task_id
from tests.engine.engines import (
    EVERY_SECOND,
    ended,
    reaches,
    running,
    settings,
)


@pytest.fixture(autouse=True)
def nap(tasks: TaskRegistry) -> Any:
    @tasks.task("nap")
    async def nap(seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    @tasks.task("fail", max_attempts=2, backoff=EVERY_SECOND)
    async def fail(payload: Any) -> None:
        raise ValueError("no")

    return nap


# --- tasks ----------------------------------------------------------------------------------


async def test_text_that_is_not_unicode_names_no_task(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """As it comes from a command line that is not UTF-8; a real store cannot even be asked."""
    async with running(tasks, backend) as engine:
        for ask in (engine.get, engine.cancel, engine.retry):
            with pytest.raises(TaskNotFound):
                await ask("\udcff")
        with pytest.raises(InvalidQuery, match="type: "):
            await engine.list_tasks(ListQuery(type="\udcff"))


async def test_a_task_that_is_not_there(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        with pytest.raises(TaskNotFound):
            await engine.get(new_task_id())
        with pytest.raises(TaskNotFound):
            await engine.wait(new_task_id(), timeout=60)


async def test_a_wait_ends_in_the_moment_the_task_does(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        start = trio.current_time()
        handle = await engine.submit("nap", 234.5)
        await handle.result()
        assert trio.current_time() - start == pytest.approx(234.5, abs=0.01)


async def test_a_wait_sees_the_end_in_another_engine_within_a_second_or_so(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, consume=False) as here, running(tasks, backend):
        start = trio.current_time()
        handle = await here.submit("nap", 100)
        await handle.result()
        assert trio.current_time() - start < 102


async def test_a_wait_under_way_when_the_engine_stops_gets_the_result(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    results: list[str] = []
    async with running(tasks, backend) as engine, trio.open_nursery() as nursery:

        async def wait() -> None:
            handle = await engine.submit("nap", 15)
            results.append(await handle.result())

        nursery.start_soon(wait)
        await trio.sleep(5)
        await engine.stop()
    assert results == ["slept"]


async def test_tasks_are_listed_newest_first_by_status_and_type(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        ids = []
        for _ in range(5):
            ids.append((await engine.submit("nap", 1)).id)
            await trio.sleep(2)
        await ended(engine, (await engine.submit("fail")).id)
        page = await engine.list_tasks(ListQuery(status=TaskStatus.COMPLETED, limit=3))
        rest = await engine.list_tasks(
            ListQuery(status=TaskStatus.COMPLETED, limit=3, cursor=page.next_cursor)
        )
        assert [task.id for task in page.tasks + rest.tasks] == ids[::-1]
        assert rest.next_cursor is None
        (failed,) = (await engine.list_tasks(ListQuery(type="fail"))).tasks
        assert failed.status is TaskStatus.FAILED
        with pytest.raises(InvalidQuery):
            await engine.list_tasks(ListQuery(cursor="no cursor"))


# --- numbers --------------------------------------------------------------------------------


async def test_the_numbers_are_right(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    @tasks.task("moody", backoff=EVERY_SECOND)
    async def moody(payload: Any, context: Any) -> None:
        match context.attempt:
            case 1:
                raise ValueError
            case 2:
                raise Snooze(5)

    async with running(tasks, backend) as engine:
        for _ in range(3):
            await ended(engine, (await engine.submit("nap", 1)).id)
        await ended(engine, (await engine.submit("fail")).id)
        await ended(engine, (await engine.submit(moody)).id)
        cancelled = await engine.submit("nap", 1000)
        await reaches(engine, cancelled.id, TaskStatus.PROCESSING)
        await cancelled.cancel()
        await ended(engine, cancelled.id)
        await engine.submit("nap", 1000)
        await engine.submit("nap", 1000, delay=600)
        await engine.submit("nap", 1000, delay=6000)
        await trio.sleep(10)

        metrics = await engine.metrics()
        assert metrics.counts == Counts(pending=2, processing=1, completed=4, failed=1, cancelled=1)
        assert metrics.depth == QueueDepth(waiting=1, in_flight=1, dead=1)
        assert (metrics.workers, metrics.active_workers) == (2, 1)
        assert metrics.uptime >= 10
        expected = {
            "tasks_submitted": 9,
            "attempts_started": 3 + 2 + 3 + 1 + 1,
            "attempts_completed": 4,
            "attempts_failed_for_good": 1,
            "attempts_retried": 2,
            "attempts_snoozed": 1,
            "attempts_cancelled": 1,
            "attempts_interrupted": 0,
            "attempts_fenced": 0,
            "messages_dead_lettered": 1,
            "leases_lost": 0,
        }
        assert {name: metrics.counters[name] for name in expected} == expected


async def test_numbers_outlive_an_outage(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend, metrics_interval=5) as engine:
        await ended(engine, (await engine.submit("nap", 1)).id)
        await trio.sleep(10)
        with backend.faults.outage("counts"):
            assert (await engine.metrics()).counts.completed == 1


async def test_numbers_do_not_wait_for_a_backend_that_hangs(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, consume=False, metrics_interval=5) as engine:
        await engine.submit("nap", 1)
        await trio.sleep(10)
        with backend.faults.block("depth"), trio.fail_after(3):
            assert (await engine.metrics()).counts.pending == 1


async def test_every_actor_tells_its_own_numbers(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        await ended(engine, (await engine.submit("nap", 1)).id)
        statistics = engine.statistics()
        assert set(statistics) == {
            "acker",
            "claimer",
            "warmer",
            "lease_keeper",
            "metrics",
            "poller",
            "presence",
            "reconciler",
            "scheduler",
            "status_writer",
            "submitter",
            "worker-1",
            "worker-2",
        }
        assert statistics["worker-1"]["started"] + statistics["worker-2"]["started"] == 1


# --- readiness ------------------------------------------------------------------------------


async def test_a_running_engine_is_ready(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        assert (await engine.ready()).ready
        await engine.stop()
        ready = await engine.ready()
        assert (ready.ready, ready.reasons) == (False, ("the engine is not running",))


async def test_a_draining_engine_is_not(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        await reaches(engine, (await engine.submit("nap", 1000)).id, TaskStatus.PROCESSING)
        engine.request_stop()
        await trio.sleep(1)
        assert (await engine.ready()).reasons == ("the engine is draining",)
        await trio.sleep(24.05)
        assert (await engine.ready()).reasons != ()


@pytest.mark.parametrize("trouble", ["ping", "hanging", "receive", "record"])
async def test_trouble_is_a_reason_for_as_long_as_it_lasts(
    tasks: TaskRegistry, backend: MemoryBackend, trouble: str
) -> None:
    async with running(tasks, backend) as engine:
        fault = backend.faults.block if trouble == "hanging" else backend.faults.outage
        with fault("ping" if trouble == "hanging" else trouble):
            handle = await engine.submit("nap", 1)
            await trio.sleep(21)
            ready = await engine.ready()
            assert not ready.ready
            assert len(ready.reasons) == 1
        await handle.result()
        await trio.sleep(30)
        assert await engine.ready() == await engine.ready()
        assert (await engine.ready()).reasons == ()


async def test_trouble_of_submissions_does_not_outlast_it(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """Where readiness decides about traffic, no later submission would ever clear it."""
    async with running(tasks, backend) as engine:
        with backend.faults.outage("send"):
            await engine.submit("nap", 1)
            await trio.sleep(10)
            assert (await engine.ready()).reasons == ("scheduler: send: made to fail by a test",)
        await trio.sleep(30)
        assert (await engine.ready()).ready


async def test_an_engine_run_again_has_forgotten_its_former_troubles(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    engine = Engine(tasks, settings(), backend=backend, clock=backend.clock)

    async def fail_once() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            await trio.sleep(1)
            backend.faults.defect("create", RuntimeError("a defect"))
            await engine.submit("nap", 1)

    with pytest.raises(ExceptionGroup):
        await fail_once()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await trio.sleep(1)
        assert (await engine.ready()).reasons == ()
        await ended(engine, (await engine.submit("nap", 1)).id)
        await engine.stop()


async def test_every_counter_has_a_description(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        assert set((await engine.metrics()).counters) == set(COUNTERS)


# --- events ---------------------------------------------------------------------------------


async def test_hooks_see_every_attempt_start_and_end(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("moody", backoff=EVERY_SECOND)
    async def moody(payload: Any, context: Any) -> None:
        await context.progress(1)
        match context.attempt:
            case 1:
                raise ValueError
            case 2:
                raise Snooze(1)
            case 3:
                raise Retry(1)

    seen: list[tuple[str, int, str | None]] = []

    def hook(event: Any) -> None:
        match event:
            case AttemptStarted(task):
                seen.append(("start", task.attempt, None))
            case AttemptRecorded(task, status, outcome):
                seen.append((outcome, task.attempt, status))

    async with running(tasks, backend, hooks=[hook]) as engine:
        await ended(engine, (await engine.submit(moody)).id)
        assert seen == [
            ("start", 1, None),
            ("retried", 1, "PENDING"),
            ("start", 2, None),
            ("snoozed", 2, "PENDING"),
            ("start", 3, None),
            ("retried", 3, "PENDING"),
            ("start", 4, None),
            ("succeeded", 4, "COMPLETED"),
        ]
        seen.clear()
        await ended(engine, (await engine.submit("fail", max_attempts=1)).id)
        handle = await engine.submit("nap", 1000)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        await handle.cancel()
        await ended(engine, handle.id)
        handle = await engine.submit("nap", 1000)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        await engine.stop()
    assert [outcome for outcome, _, _ in seen] == [
        "start",
        "failed",
        "start",
        "cancelled",
        "start",
        "interrupted",
    ]

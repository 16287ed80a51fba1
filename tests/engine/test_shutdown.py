"""The end: what runs may finish, what has not started goes back at once, and it is over in time."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from task_queue_engine import Engine, Submission, TaskRegistry, TaskStatus
from task_queue_engine.backends.base import QueueDepth
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.errors import BackendUnavailable, EngineNotRunning
from tests.engine.engines import (
    FLUSH,
    GRACE,
    LEASE,
    Runs,
    depth,
    ended,
    process,
    reaches,
    row,
    running,
    settings,
    step_of,
    until,
)


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture(autouse=True)
def nap(tasks: TaskRegistry, runs: Runs) -> Any:
    @tasks.task("nap", timeout=100_000)
    async def nap(seconds: float, context: Any) -> str:
        runs(context)
        await trio.sleep(seconds)
        return "slept"

    return nap


async def submit(engine: Engine, *naps: float) -> list[str]:
    verdicts = await engine.submit_many(
        [Submission(task="nap", payload=seconds) for seconds in naps]
    )
    return [verdict.task.id for verdict in verdicts]


async def stopped_after(engine: Engine) -> float:
    """Seconds that `stop` took. Where it does not end a test fails, and ends what it hangs on."""
    before = trio.current_time()
    with trio.fail_after(1000):
        await engine.stop()
    return trio.current_time() - before


# --- giving back ----------------------------------------------------------------------------


@pytest.mark.two_services
@pytest.mark.parametrize("prefetch", [0, 1, 7, 50])
@pytest.mark.parametrize("grace", [0, GRACE])
async def test_all_that_has_not_started_goes_back_at_once_and_costs_no_attempt(
    tasks: TaskRegistry, backend: MemoryBackend, prefetch: int, grace: float
) -> None:
    async with running(
        tasks, backend, worker_count=3, prefetch=prefetch, shutdown_grace=grace
    ) as engine:
        ids = await submit(engine, *[10_000] * 20)
        await until(lambda: engine.statistics()["claimer"]["waiting"] == min(17, prefetch))
        await until(lambda: engine.statistics()["claimer"]["claimed"] == 3)
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.stop)
            await trio.sleep(0.05)
            assert await depth(backend) == QueueDepth(
                waiting=17 if grace else 20, in_flight=3 if grace else 0, dead=0
            )
        assert trio.current_time() - before == pytest.approx(max(grace, 0.05), abs=0.2)
    assert await depth(backend) == QueueDepth(waiting=20, in_flight=0, dead=0)
    for task_id in ids:
        task = row(backend, task_id).task
        assert (task.status, task.retry_count) == (TaskStatus.PENDING, 0)
        assert (task.run_at, task.error) == (None, None)
    # Of what never started nothing was ever written.
    assert sum(row(backend, task_id).task.attempt for task_id in ids) == 3


async def test_what_was_given_back_runs_elsewhere_at_once(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, consume=False) as elsewhere:
        async with running(tasks, backend, prefetch=5, max_attempts=1) as engine:
            ids = await submit(engine, *[30] * 10)
            await until(lambda: len(runs) == 2)
            await engine.stop()
        before = trio.current_time()
        async with running(tasks, backend, worker_count=10):
            for task_id in ids:
                task = await ended(elsewhere, task_id, timeout=32)
                assert (task.status, task.retry_count) == (TaskStatus.COMPLETED, 0)
            assert trio.current_time() - before < 31.5


async def test_the_long_poll_under_way_takes_nothing_after_the_stop(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with (
        running(tasks, backend, consume=False) as elsewhere,
        running(tasks, backend) as engine,
    ):
        await trio.sleep(5)
        engine.request_stop()
        await submit(elsewhere, 1)
        await engine.stop()
        await trio.sleep(60)
        assert await depth(backend) == QueueDepth(waiting=1, in_flight=0, dead=0)


@pytest.mark.two_services
async def test_a_stop_while_a_batch_is_being_claimed_gives_it_back(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, worker_count=5) as engine:
        with backend.faults.block("claim") as gate:
            ids = await submit(engine, *[100] * 5)
            await gate.arrived.wait()
            engine.request_stop()
            await trio.sleep(1)
        assert await stopped_after(engine) < 1
    assert len(runs) == 0
    assert await depth(backend) == QueueDepth(waiting=5, in_flight=0, dead=0)
    assert {row(backend, task_id).task.retry_count for task_id in ids} == {0}


# --- what runs ------------------------------------------------------------------------------


async def test_running_handlers_finish_within_the_grace_and_are_settled(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, worker_count=3) as engine:
        ids = await submit(engine, 5, 10, GRACE - 1)
        await trio.sleep(0.5)
        assert await stopped_after(engine) == pytest.approx(GRACE - 1.5, abs=0.1)
    assert [row(backend, task_id).task.status for task_id in ids] == [TaskStatus.COMPLETED] * 3
    assert await depth(backend) == QueueDepth(waiting=0, in_flight=0, dead=0)


async def test_leases_are_kept_through_a_grace_longer_than_they_are(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend), running(tasks, backend, shutdown_grace=1000) as engine:
        await submit(engine, *[LEASE * 5] * 4)
        await until(lambda: len(runs) == 4)
        assert await stopped_after(engine) == pytest.approx(LEASE * 5, abs=1)
        assert (await depth(backend)).in_flight == 0
    assert runs.attempts == [1] * 4


async def test_when_the_grace_is_over_handlers_are_interrupted_after_their_cleanup(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    cleaned_up_at = None

    @tasks.task("careful", max_attempts=1)
    async def careful(payload: Any) -> None:
        nonlocal cleaned_up_at
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            cleaned_up_at = trio.current_time()

    async with running(tasks, backend) as engine:
        handle = await engine.submit(careful)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        asked_at = trio.current_time()
        assert await stopped_after(engine) == pytest.approx(GRACE + 3, abs=0.2)
    assert cleaned_up_at == pytest.approx(asked_at + GRACE + 3, abs=0.1)
    task = row(backend, handle.id).task
    assert (task.status, task.retry_count, task.attempt) == (TaskStatus.PENDING, 0, 1)
    assert await depth(backend) == QueueDepth(waiting=1, in_flight=0, dead=0)


async def test_a_handler_that_swallows_the_interruption_and_returns_has_completed(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("stubborn")
    async def stubborn(payload: Any) -> str:
        with suppress(trio.Cancelled):
            await trio.sleep_forever()
        return "done"

    async with running(tasks, backend) as engine:
        handle = await engine.submit(stubborn)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        await engine.stop()
    assert row(backend, handle.id).task.result == "done"


async def test_what_a_handler_raises_when_interrupted_costs_no_attempt(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("fragile", max_attempts=1)
    async def fragile(payload: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ConnectionError("closed under my feet")

    async with running(tasks, backend) as engine:
        handle = await engine.submit(fragile)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        await engine.stop()
    task = row(backend, handle.id).task
    assert (task.status, task.retry_count) == (TaskStatus.PENDING, 0)


async def test_a_second_stop_means_now(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        (task_id,) = await submit(engine, 10_000)
        await reaches(engine, task_id, TaskStatus.PROCESSING)
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.stop)
            await trio.sleep(3)
            nursery.start_soon(engine.stop)
        assert trio.current_time() - before == pytest.approx(3, abs=0.2)
    assert row(backend, task_id).task.status is TaskStatus.PENDING


@pytest.mark.two_services
async def test_what_a_worker_takes_after_the_interruption_does_not_start(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    """Its claim hung, and is answered when the others have been interrupted."""
    async with running(tasks, backend, worker_count=2, prefetch=2, shutdown_grace=1) as engine:
        ids = await submit(engine, 10_000)
        await until(lambda: engine.statistics()["claimer"]["claimed"] == 1)
        with backend.faults.block("claim") as gate:
            ids += await submit(engine, 10_000, 10_000)
            await gate.arrived.wait()
            engine.request_stop()
            await trio.sleep(2)
            assert row(backend, ids[0]).task.status is TaskStatus.PENDING
        await engine.stop()
    assert [task_id for task_id, _ in runs.starts] == ids[:1]
    assert [row(backend, task_id).task.retry_count for task_id in ids] == [0] * 3
    assert await depth(backend) == QueueDepth(waiting=3, in_flight=0, dead=0)


async def test_a_handler_may_stop_its_own_engine(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    engines: list[Engine] = []

    @tasks.task("last")
    async def last(payload: Any) -> str:
        engines[0].request_stop()
        await trio.sleep(1)
        return "and out"

    async with running(tasks, backend) as engine:
        engines.append(engine)
        handle = await engine.submit(last)
        assert await handle.result() == "and out"
        assert await stopped_after(engine) < 1


# --- bounded --------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["record", "delete", "release"])
@pytest.mark.parametrize("trouble", ["outage", "block"])
@pytest.mark.two_services
async def test_a_backend_in_trouble_does_not_hold_the_exit_up_past_the_deadline(
    tasks: TaskRegistry, backend: MemoryBackend, operation: str, trouble: str
) -> None:
    await stop_in_trouble(tasks, backend, operation, trouble)


@pytest.mark.parametrize("trouble", ["outage", "block"])
async def test_outcomes_that_cannot_be_recorded_do_not_hold_the_exit_up_past_the_deadline(
    tasks: TaskRegistry, backend: MemoryBackend, trouble: str
) -> None:
    await stop_in_trouble(tasks, backend, step_of(backend, "record"), trouble)


async def stop_in_trouble(
    tasks: TaskRegistry, backend: MemoryBackend, operation: str, trouble: str
) -> None:
    async with process(tasks, backend, worker_count=4) as one:
        ids = await submit(one.engine, 1, 1, 60, 60)
        await until(lambda: one.engine.statistics()["claimer"]["claimed"] == 4)
        with getattr(one.link.faults, trouble)(operation):
            assert await stopped_after(one.engine) == pytest.approx(GRACE + FLUSH, abs=0.2)
    # And nothing is lost.
    async with running(tasks, backend, worker_count=4) as engine:
        for task_id in ids:
            assert (await ended(engine, task_id)).status is TaskStatus.COMPLETED
        assert (await depth(backend)).in_flight == 0


@pytest.mark.parametrize(
    "operation",
    ["receive", "claim", "due", "stranded", "counts", "extend", "cancel_requested", "create"],
)
async def test_a_call_that_hangs_does_not_hold_the_exit_up_past_the_deadline(
    tasks: TaskRegistry, backend: MemoryBackend, operation: str
) -> None:
    async with running(tasks, backend, worker_count=2) as engine, trio.open_nursery() as nursery:
        (task_id,) = await submit(engine, 1000)
        await reaches(engine, task_id, TaskStatus.PROCESSING)
        with backend.faults.block(step_of(backend, operation)) as gate:

            async def one_more() -> None:
                with suppress(BackendUnavailable, EngineNotRunning):
                    await engine.submit("nap", 1)

            nursery.start_soon(one_more)
            await gate.arrived.wait()
            assert await stopped_after(engine) <= GRACE + FLUSH + 0.2
    # Without renewals its lease was lost before; another worker takes it over then.
    left = TaskStatus.PROCESSING if operation == "extend" else TaskStatus.PENDING
    assert row(backend, task_id).task.status is left


async def test_an_idle_engine_stops_at_once_whatever_hangs_beside_the_line(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    for operation in ("receive", "due", "stranded", "counts"):
        with backend.faults.block(step_of(backend, operation)) as gate:
            async with running(tasks, backend) as engine:
                await gate.arrived.wait()
                assert await stopped_after(engine) < 1


# --- submissions ----------------------------------------------------------------------------


@pytest.mark.two_services
async def test_submissions_under_way_are_carried_out_and_later_ones_refused(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    accepted: list[str] = []
    async with running(tasks, backend) as engine, trio.open_nursery() as nursery:
        with backend.faults.block("create") as gate:

            async def one() -> None:
                accepted.extend(await submit(engine, 1))

            for _ in range(10):
                nursery.start_soon(one)
            await gate.arrived.wait()
            engine.request_stop()
            await trio.sleep(1)
            with pytest.raises(EngineNotRunning):
                await submit(engine, 1)
        await engine.stop()
    assert len(accepted) == 10
    assert (await depth(backend)).waiting == 10


async def test_a_front_end_may_go_on_submitting_after_work_is_no_longer_taken(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend) as engine:
        (first,) = await submit(engine, 10)
        await reaches(engine, first, TaskStatus.PROCESSING)
        engine.stop_taking_work()
        await submit(engine, 1, 1)
        assert (await ended(engine, first)).status is TaskStatus.COMPLETED
        await trio.sleep(600)
        assert len(runs) == 1
        assert (await engine.metrics()).depth.waiting == 2
        assert await stopped_after(engine) < 1


# --- the host -------------------------------------------------------------------------------


@asynccontextmanager
async def hosting(
    tasks: TaskRegistry, backend: MemoryBackend, **values: Any
) -> AsyncIterator[tuple[Engine, trio.Nursery]]:
    engine = Engine(tasks, settings(**values), backend=backend, clock=backend.clock)
    async with trio.open_nursery() as nursery:
        yield await nursery.start(engine.run), nursery


@pytest.mark.two_services
async def test_cancelling_the_hosts_nursery_drains_all_the_same(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with hosting(tasks, backend, worker_count=2, prefetch=3) as (engine, nursery):
        ids = await submit(engine, 10, 10_000, 1, 1, 1)
        await until(lambda: engine.statistics()["claimer"]["waiting"] == 3)
        cancelled_at = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - cancelled_at == pytest.approx(GRACE, abs=0.2)
    statuses = [row(backend, task_id).task.status for task_id in ids]
    assert statuses == [TaskStatus.COMPLETED] + [TaskStatus.PENDING] * 4
    assert await depth(backend) == QueueDepth(waiting=4, in_flight=0, dead=0)


async def test_a_stop_after_the_host_was_cancelled_means_now(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with trio.open_nursery() as outside:
        async with hosting(tasks, backend) as (engine, nursery):
            (task_id,) = await submit(engine, 10_000)
            await reaches(engine, task_id, TaskStatus.PROCESSING)
            before = trio.current_time()
            nursery.cancel_scope.cancel()

            async def hurry() -> None:
                await trio.sleep(2)
                engine.request_stop()

            outside.start_soon(hurry)
        assert trio.current_time() - before == pytest.approx(2, abs=0.2)


async def test_an_error_in_the_host_drains_and_comes_out_unchanged(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    class HostError(Exception):
        pass

    task_id = ""

    async def host() -> None:
        nonlocal task_id
        async with hosting(tasks, backend) as (engine, _):
            (task_id,) = await submit(engine, 5)
            await reaches(engine, task_id, TaskStatus.PROCESSING)
            raise HostError

    with pytest.RaisesGroup(HostError):
        await host()
    assert row(backend, task_id).task.status is TaskStatus.COMPLETED


async def test_the_hosts_other_tasks_do_not_notice_the_engines_end(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    ticks = 0

    async def ticker() -> None:
        nonlocal ticks
        while True:
            await trio.sleep(1)
            ticks += 1

    async with hosting(tasks, backend) as (engine, nursery):
        nursery.start_soon(ticker)
        await submit(engine, 1)
        await trio.sleep(10)
        await engine.stop()
        at_stop = ticks
        await trio.sleep(100)
        assert ticks >= at_stop + 99
        nursery.cancel_scope.cancel()


async def test_two_engines_in_one_nursery_end_on_their_own(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as one, running(tasks, backend) as other:
        await one.stop()
        (task_id,) = await submit(other, 1)
        assert (await ended(other, task_id)).status is TaskStatus.COMPLETED


# --- again, and other orders ----------------------------------------------------------------


async def test_an_engine_may_be_run_again_after_it_ended(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    engine = Engine(tasks, settings(), backend=backend, clock=backend.clock)
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            (task_id,) = await submit(engine, 1)
            assert (await ended(engine, task_id)).status is TaskStatus.COMPLETED
            assert (await engine.metrics()).counters["tasks_submitted"] == 1
            await engine.stop()
    assert (await depth(backend)).in_flight == 0


async def test_an_engine_cannot_be_run_twice_at_once(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        with pytest.raises(RuntimeError, match="already running"):
            await engine.run()
        (task_id,) = await submit(engine, 1)
        await ended(engine, task_id)


async def test_stopping_an_engine_that_does_not_run_is_over_at_once(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    engine = Engine(tasks, settings(), backend=backend, clock=backend.clock)
    engine.request_stop()
    with trio.fail_after(1):
        await engine.stop()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        (task_id,) = await submit(engine, 1)
        await ended(engine, task_id)
        await engine.stop()
        with trio.fail_after(1):
            await engine.stop()


async def test_a_stop_during_the_start(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    for turns in range(2, 12):
        engine = Engine(tasks, settings(), backend=backend, clock=backend.clock)
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.run)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                await engine.stop()


async def test_a_host_cancelled_during_the_start(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    for turns in range(12):
        engine = Engine(tasks, settings(), backend=backend, clock=backend.clock)
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nursery.start, engine.run)
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        with pytest.raises(EngineNotRunning):
            await submit(engine, 1)


# --- handlers that do not let themselves be stopped -----------------------------------------


async def test_a_handler_that_shields_itself_holds_up_nothing_but_its_own_end(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """Trio has no way to end it from outside. `tqe` ends the process then; an embedding program
    has to decide for itself."""

    @tasks.task("shielded")
    async def shielded(payload: Any) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1000)

    async with running(tasks, backend, worker_count=3) as engine:
        handle = await engine.submit(shielded)
        ids = await submit(engine, 20, 10_000)
        await until(lambda: engine.statistics()["claimer"]["claimed"] == 3)
        engine.request_stop()
        await trio.sleep(GRACE + FLUSH + 1)
        assert row(backend, ids[0]).task.status is TaskStatus.COMPLETED
        assert row(backend, ids[1]).task.status is TaskStatus.PENDING
        assert row(backend, handle.id).task.status is TaskStatus.PROCESSING
        with pytest.raises(EngineNotRunning):
            await engine.submit("nap", 1)
    async with running(tasks, backend) as engine:
        await reaches(engine, handle.id, TaskStatus.PROCESSING)


async def test_a_thread_that_ignores_everything_does_not_hold_the_exit_up() -> None:
    """In real time, since a thread runs."""
    tasks = TaskRegistry()
    release = threading.Event()
    started = threading.Event()

    @tasks.task("blocks")
    def blocks(payload: Any) -> None:
        started.set()
        release.wait(30)

    backend = MemoryBackend()
    try:
        with trio.fail_after(10):
            async with running(tasks, backend, shutdown_grace=0.05, shutdown_flush=0.5) as engine:
                handle = await engine.submit(blocks)
                await trio.to_thread.run_sync(started.wait, 5)
        task = row(backend, handle.id).task
        assert (task.status, task.retry_count) == (TaskStatus.PENDING, 0)
    finally:
        release.set()

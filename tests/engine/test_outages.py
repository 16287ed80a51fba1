"""Queue or store down, answers lost, messages twice: work waits, and is done once it can be."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from task_queue_engine import Engine, TaskRegistry, TaskStatus
from task_queue_engine.backends.base import Message, QueueDepth
from task_queue_engine.backends.memory import MemoryBackend, MemoryQueue
from task_queue_engine.errors import BackendUnavailable
from tests.engine.engines import (
    EVERY_SECOND,
    LEASE,
    MAX_DELAY,
    Runs,
    depth,
    ended,
    process,
    reaches,
    row,
    running,
    until,
)

STORE = (
    "create", "get", "claim", "record", "cancel", "reopen", "due", "schedule", "change_due",
    "reclaim",
)  # fmt: skip
QUEUE = ("send", "receive", "extend", "release", "delete", "dead_letter", "depth")
STEPS = ("submit", "take", "finish")
LONG = 600.0
"""Seconds: many leases."""


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture(autouse=True)
def nap(tasks: TaskRegistry, runs: Runs) -> Any:
    @tasks.task("nap", backoff=EVERY_SECOND)
    async def nap(seconds: float, context: Any) -> str:
        runs(context)
        await trio.sleep(seconds)
        return "slept"

    return nap


async def submitted(engine: Engine, seconds: float, **options: Any) -> str:
    return (await engine.submit("nap", seconds, **options)).id


async def is_settled(engine: Engine) -> None:
    """Nothing left, neither in the queue nor in the engine's tables."""
    await trio.sleep(1)
    metrics = await engine.metrics()
    assert (metrics.depth.waiting, metrics.depth.in_flight) == (0, 0)
    assert engine.statistics()["lease_keeper"]["held"] == 0
    assert (await engine.ready()).ready


# --- the store ------------------------------------------------------------------------------


async def test_while_the_store_is_down_finished_work_is_kept_and_nothing_acked(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, worker_count=4) as engine, running(tasks, backend) as other:
        ids = [await submitted(engine, 5) for _ in range(4)]
        await until(lambda: len(runs) == 4)
        with backend.faults.outage("record", "finish"):
            await trio.sleep(LONG)
            for task_id in ids:
                assert row(backend, task_id).task.status is TaskStatus.PROCESSING
            assert (await depth(backend)).in_flight == 4
        for task_id in ids:
            task = await ended(engine, task_id, timeout=10)
            assert (task.status, task.retry_count) == (TaskStatus.COMPLETED, 0)
        await is_settled(engine)
        await is_settled(other)
    assert len(runs) == 4


async def test_no_new_work_is_started_on_top_of_results_that_cannot_be_stored(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, worker_count=2) as engine:
        with backend.faults.outage("record", "finish"):
            for _ in range(50):
                await submitted(engine, 1)
            await trio.sleep(LONG)
            # Two results wait with their workers, one batch with the writer.
            assert len(runs) <= 4
        await until(lambda: len(runs) == 50)


async def test_while_claims_fail_messages_are_kept_and_run_afterwards(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend) as engine:
        with backend.faults.outage("claim", "take"):
            ids = [await submitted(engine, 1) for _ in range(5)]
            await trio.sleep(LONG)
        for task_id in ids:
            task = await ended(engine, task_id, timeout=20)
            assert (task.retry_count, task.attempt) == (0, 1)
        await is_settled(engine)


# --- the queue ------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["delete", "release", "dead_letter"])
@pytest.mark.two_services
async def test_while_messages_cannot_be_settled_they_are_kept(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, operation: str
) -> None:
    failures = 1 if operation == "release" else 99

    @tasks.task("fails", max_attempts=3 if operation == "release" else 1, backoff=EVERY_SECOND)
    async def fails(payload: Any, context: Any) -> None:
        runs(context)
        if operation != "delete" and context.retry_count < failures:
            raise ValueError

    async with running(tasks, backend) as engine, running(tasks, backend):
        with backend.faults.outage(operation):
            handle = await engine.submit(fails)
            await trio.sleep(LONG)
            assert len(runs) == 1
            assert (await depth(backend)).in_flight == 1
        await ended(engine, handle.id, timeout=20)
        await trio.sleep(10)
        await is_settled(engine)
        assert (await engine.metrics()).depth.dead == (operation == "dead_letter")
    assert len(runs) == (2 if operation == "release" else 1)


async def test_while_nothing_can_be_received_nothing_is_lost(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend) as engine:
        with backend.faults.outage("receive", "take"):
            ids = [await submitted(engine, 1) for _ in range(5)]
            await trio.sleep(LONG)
        for task_id in ids:
            assert (await ended(engine, task_id, timeout=10)).retry_count == 0


async def test_a_short_outage_of_everything_goes_unnoticed_by_what_runs(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend) as engine:
        ids = [await submitted(engine, 60) for _ in range(2)]
        await until(lambda: len(runs) == 2)
        await trio.sleep(20)
        with backend.faults.outage(*STORE, *QUEUE, *STEPS):
            await trio.sleep(10)
        for task_id in ids:
            task = await ended(engine, task_id)
            assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 1)
        await is_settled(engine)


async def test_after_a_long_outage_of_everything_all_is_done(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, worker_count=3, prefetch=2) as engine:
        ids = [await submitted(engine, 20) for _ in range(12)]
        await until(lambda: len(runs) == 3)
        with backend.faults.outage(*STORE, *QUEUE, *STEPS):
            await trio.sleep(LONG)
        for task_id in ids:
            assert (await ended(engine, task_id)).status is TaskStatus.COMPLETED
        await is_settled(engine)


# --- leases ---------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["outage", "block"])
async def test_a_lost_lease_stops_the_attempt_before_another_worker_starts(
    tasks: TaskRegistry, backend: MemoryBackend, trouble: str
) -> None:
    """Renewals fail, or one hangs; others see the queue all the while."""
    stopped_at: list[float] = []
    started_at: list[float] = []

    @tasks.task("long")
    async def long(payload: Any, context: Any) -> int:
        started_at.append(trio.current_time())
        try:
            await trio.sleep(60)
        finally:
            stopped_at.append(trio.current_time())
        return context.attempt

    async with process(tasks, backend, worker_count=1) as one:
        handle = await one.engine.submit(long)
        await reaches(one.engine, handle.id, TaskStatus.PROCESSING)
        one.engine.stop_taking_work()
        async with running(tasks, backend) as other:
            with getattr(one.link.faults, trouble)("extend"):
                assert await handle.result() == 2
            assert stopped_at[0] <= started_at[1]
            assert started_at[1] - started_at[0] <= LEASE + 1
            task = await other.get(handle.id)
            assert task.retry_count == 1
            assert one.engine.statistics()["lease_keeper"]["lost"] == 1
            await is_settled(other)


async def test_a_handler_longer_than_many_leases_runs_once(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend) as one, running(tasks, backend):
        task_id = await submitted(one, LEASE * 20, timeout=LEASE * 30)
        assert (await ended(one, task_id)).status is TaskStatus.COMPLETED
    assert len(runs) == 1


# --- deliveries -----------------------------------------------------------------------------


@pytest.mark.two_services
@pytest.mark.parametrize("seconds", [1, LEASE * 4])
async def test_a_duplicate_of_a_live_attempt_is_neither_run_nor_acked(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, seconds: float
) -> None:
    async with running(tasks, backend, worker_count=1) as one, running(tasks, backend):
        backend.faults.duplicate_deliveries(1)
        task_id = await submitted(one, seconds)
        await trio.sleep(0.5)
        assert (await depth(backend)).in_flight == 1
        task = await ended(one, task_id)
        assert (task.attempt, task.retry_count) == (1, 0)
        await is_settled(one)
    assert len(runs) == 1


@pytest.mark.two_services
async def test_a_task_of_a_duplicate_survives_the_death_of_its_first_worker(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, consume=False) as watching:
        async with process(
            tasks, backend, worker_count=2, shutdown_grace=0, shutdown_flush=0.1
        ) as one:
            backend.faults.duplicate_deliveries(1)
            task_id = await submitted(one.engine, 10)
            await until(lambda: one.engine.statistics()["claimer"]["duplicates"] == 1)
            one.kill()
        async with running(tasks, backend):
            task = await ended(watching, task_id, timeout=LEASE + 15)
    assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 2)


@pytest.mark.two_services
async def test_many_duplicates_cost_no_place_of_a_worker(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, worker_count=3) as engine:
        backend.faults.duplicate_deliveries(100)
        for _ in range(100):
            await submitted(engine, 1)
        await until(lambda: len(runs) == 100)
        await trio.sleep(LEASE)
        await is_settled(engine)
        for _ in range(3):
            await submitted(engine, 10)
        await trio.sleep(1)
        assert (await engine.metrics()).active_workers == 3
    assert len(runs) == 103


async def test_a_message_that_comes_again_after_the_end_is_deleted_and_not_run(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend) as engine:
        task_id = await submitted(engine, 1)
        task = await ended(engine, task_id)
        for _ in range(3):
            await backend.queue("default").send([Message(task=task)])
        await trio.sleep(5)
        await is_settled(engine)
        assert await engine.get(task_id) == task
    assert len(runs) == 1


async def test_a_second_message_of_a_running_task_neither_runs_nor_disturbs_it(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend) as one, running(tasks, backend):
        task_id = await submitted(one, LEASE * 3)
        task = await reaches(one, task_id, TaskStatus.PROCESSING)
        await backend.queue("default").send([Message(task=task)])
        assert (await ended(one, task_id)).retry_count == 0
        await trio.sleep(LEASE * 2)
        await is_settled(one)
    assert len(runs) == 1


async def test_a_message_of_no_known_task_is_dead_lettered(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend) as engine:
        task = await ended(engine, await submitted(engine, 1))
        backend.state.rows.clear()
        await backend.queue("default").send([Message(task=task)])
        await trio.sleep(5)
        (dead_letter,) = (await engine.list_dead()).dead_letters
        assert (dead_letter.task_id, dead_letter.reason) == (task.id, "no such task in the store")
    assert await depth(backend) == QueueDepth(waiting=0, in_flight=0, dead=1)


# --- one call at a time ---------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["unavailable", "lose_answer"])
@pytest.mark.parametrize("operation", [*STORE, *QUEUE, "counts", "cancel_requested", "stranded"])
@pytest.mark.usefixtures("short_delays")
async def test_a_call_that_fails_or_whose_answer_is_lost_costs_no_task_and_no_attempt(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, operation: str, trouble: str
) -> None:
    async with running(tasks, backend, max_attempts=1, metrics_interval=5) as engine:
        ids = [await submitted(engine, LEASE, delay=delay) for delay in (0, 5, MAX_DELAY + 90)]
        for _ in range(20):
            calls = backend.faults.calls[operation]
            getattr(backend.faults, trouble)(operation)
            await trio.sleep(20)
            if backend.faults.calls[operation] == calls:
                break  # none is due: one that is armed is enough
        rows = backend.state.rows
        await until(
            lambda: all(rows[task_id].task.status.is_terminal for task_id in ids), look_every=5
        )
        await trio.sleep(LEASE * 5)
    for task_id in ids:
        task = row(backend, task_id).task
        assert (task.status, task.retry_count) == (TaskStatus.COMPLETED, 0)
    assert len(runs) == 3
    assert (await depth(backend)).waiting == 0


@pytest.mark.parametrize("operation", ["send", "release", "delete", "dead_letter", "extend"])
async def test_items_that_fail_one_by_one_cost_no_task(
    tasks: TaskRegistry, backend: MemoryBackend, operation: str
) -> None:
    @tasks.task("bumpy", max_attempts=3, backoff=EVERY_SECOND)
    async def bumpy(n: int, context: Any) -> None:
        await trio.sleep(LEASE if n % 5 == 0 else 1)
        if n % 3 == 0 or context.attempt == 1:
            raise ValueError

    async with running(tasks, backend, worker_count=4) as engine:
        handles = []
        calls = -1
        for n in range(15):
            if backend.faults.calls[operation] > calls:  # the last one was used up
                calls = backend.faults.calls[operation]
                backend.faults.try_again(operation, items=1)
            handles.append(await engine.submit(bumpy, n))
            await trio.sleep(5)
        for n, handle in enumerate(handles):
            task = await ended(engine, handle.id)
            assert task.status is (TaskStatus.COMPLETED if n % 3 else TaskStatus.FAILED)
            assert task.attempt == (2 if n % 3 else 3)
        await is_settled(engine)
        assert (await engine.metrics()).depth.dead == 5


# --- one of two queues ----------------------------------------------------------------------


@pytest.mark.two_services
async def test_a_dead_letter_queue_that_is_gone_holds_up_nothing_but_dead_letters(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("bad", max_attempts=1)
    async def bad(payload: Any) -> None:
        raise ValueError("no")

    async with running(tasks, backend, worker_count=5) as engine:
        with backend.faults.outage("dead_letter"):
            failing = [(await engine.submit("bad", 1)).id for _ in range(250)]
            healthy = [await submitted(engine, 0.1) for _ in range(250)]
            for task_id in healthy:
                task = await ended(engine, task_id, timeout=120)
                assert task.status is TaskStatus.COMPLETED
            for task_id in failing:
                assert (await ended(engine, task_id)).status is TaskStatus.FAILED
            await trio.sleep(LONG)
            ready = await engine.ready()
            assert not ready.ready
            assert any("dead letters" in reason for reason in ready.reasons)
            assert (await engine.metrics()).depth.dead == 0
        await trio.sleep(LONG)
        assert (await engine.metrics()).depth.dead == len(failing), "none is missing, none twice"
        await is_settled(engine)


@pytest.mark.usefixtures("short_delays")
async def test_due_tasks_of_a_queue_that_is_gone_hold_up_no_others(
    tasks: TaskRegistry, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine has not started again since the queue was deleted; this one serves another."""
    async with running(tasks, backend, consume=False, queue="gone") as submitting:
        for _ in range(150):
            await submitted(submitting, 0, delay=100)
    send = MemoryQueue.send

    async def send_unless_gone(queue: MemoryQueue, messages: Any) -> Any:
        if queue.name == "gone":
            raise BackendUnavailable("there is no such queue")
        return await send(queue, messages)

    monkeypatch.setattr(MemoryQueue, "send", send_unless_gone)
    async with running(tasks, backend) as engine:
        own = await submitted(engine, 0, delay=300)
        began = trio.current_time()
        assert (await ended(engine, own)).status is TaskStatus.COMPLETED
        assert trio.current_time() - began == pytest.approx(300, abs=2)
        await is_settled(engine)

"""Processes that die, hang or are cut off: another takes over, and the first one's word is void."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import product
from typing import Any

import pytest
import trio

from task_queue_engine import Discard, Snooze, TaskRegistry, TaskStatus
from task_queue_engine.backends.base import QueueDepth
from task_queue_engine.backends.memory import MemoryBackend
from tests.engine.engines import (
    EVERY_SECOND,
    LEASE,
    Process,
    Runs,
    claim_and_die,
    depth,
    ended,
    process,
    row,
    running,
    until,
)
from tests.sizes import size

SOON = LEASE + 1
"""Seconds after which a task whose worker died must be taken up again."""
RECONCILED = 3 * LEASE + 1.2 * 30 + 1
"""Seconds after which what is stuck must have been found."""
DIES_AT_ONCE = {"shutdown_grace": 0, "shutdown_flush": 0.1}


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture(autouse=True)
def nap(tasks: TaskRegistry, runs: Runs) -> Any:
    @tasks.task("nap", backoff=EVERY_SECOND)
    async def nap(seconds: float, context: Any) -> int:
        runs(context)
        await trio.sleep(seconds)
        return context.attempt

    return nap


# --- taking over ----------------------------------------------------------------------------


async def test_what_a_dead_process_was_running_is_taken_over(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, consume=False) as watching:
        async with process(tasks, backend, prefetch=2, **DIES_AT_ONCE) as one:
            ids = [(await watching.submit("nap", 100)).id for _ in range(6)]
            await until(lambda: len(runs) == 2)
            one.kill()
        died_at = trio.current_time()
        async with running(tasks, backend, worker_count=6):
            for task_id in ids:
                task = await ended(watching, task_id, timeout=SOON + 101)
                assert task.status is TaskStatus.COMPLETED
                assert task.retry_count == task.attempt - 1 <= 1
            assert trio.current_time() <= died_at + SOON + 101
    assert await depth(backend) == QueueDepth(waiting=0, in_flight=0, dead=0)


async def test_the_crash_shows_as_the_error_of_the_attempt(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, consume=False) as watching:
        handle = await watching.submit("nap", 100)
        await claim_and_die(backend)
        async with running(tasks, backend):
            await trio.sleep(SOON)
            task = await handle.task()
            assert (task.status, task.attempt, task.retry_count) == (TaskStatus.PROCESSING, 2, 1)
            assert task.error is not None
            assert task.error.type.endswith("AttemptCrashed")
            assert "one that dies" in task.error.message


@pytest.mark.parametrize("late", ["result", "failure", "discard", "snooze", "progress"])
async def test_a_zombie_that_finishes_after_it_was_taken_over_changes_nothing(
    tasks: TaskRegistry, backend: MemoryBackend, late: str
) -> None:
    """Stopped for longer than its lease, and going on as if nothing had been."""

    @tasks.task("work", timeout=1000)
    async def work(payload: Any, context: Any) -> str:
        if context.attempt > 1:
            await trio.sleep(100)
            return "of the second"
        with trio.CancelScope(shield=True):  # it does not hear that its lease is lost
            await trio.sleep(60)
            if late == "progress":
                await context.progress("of the first")
        match late:
            case "failure":
                raise ValueError
            case "discard":
                raise ValueError
            case "snooze":
                raise Snooze(1)
        return "of the first"

    async with process(tasks, backend, worker_count=1) as zombie:
        handle = await zombie.engine.submit(work, max_attempts=2)
        await until(lambda: zombie.engine.statistics()["worker-1"]["started"] == 1)
        zombie.engine.stop_taking_work()
        async with running(tasks, backend) as other:
            with zombie.link.faults.block("extend"):
                await trio.sleep(70)
                assert zombie.engine.statistics()["worker-1"]["busy"] is False
                task = await other.get(handle.id)
                assert (task.status, task.attempt) == (TaskStatus.PROCESSING, 2)
                assert task.progress is None
                task = await ended(other, handle.id)
            assert (task.status, task.result) == (TaskStatus.COMPLETED, "of the second")
            assert task.retry_count == 1
            assert zombie.engine.statistics()["status_writer"]["fenced"] >= 1
            await trio.sleep(LEASE * 2)
            assert await other.get(handle.id) == task
            assert (await other.metrics()).depth == QueueDepth(waiting=0, in_flight=0, dead=0)


async def test_a_zombie_whose_task_had_ended_meanwhile_changes_nothing(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("work", timeout=1000)
    async def work(payload: Any, context: Any) -> int:
        with trio.CancelScope(shield=context.attempt == 1):
            await trio.sleep(200 if context.attempt == 1 else 10)
        return context.attempt

    async with process(tasks, backend, worker_count=1) as zombie:
        handle = await zombie.engine.submit(work)
        await until(lambda: zombie.engine.statistics()["worker-1"]["started"] == 1)
        zombie.engine.stop_taking_work()
        async with running(tasks, backend) as other:
            with zombie.link.faults.block("extend"):
                task = await ended(other, handle.id)
                assert task.result == 2
                await trio.sleep(300)
                assert not zombie.engine.statistics()["worker-1"]["busy"]
            assert await other.get(handle.id) == task


async def test_a_process_cut_off_and_reconnected_drops_what_it_no_longer_owns(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    operations = ("extend", "record", "delete", "claim", "receive", "release")
    operations += ("take", "finish", "cancel_requested")
    async with process(tasks, backend, worker_count=1) as one:
        handle = await one.engine.submit("nap", 10)
        await until(lambda: len(runs) == 1)
        async with running(tasks, backend, worker_count=1):
            with one.link.faults.outage(*operations):
                # It finishes during the outage, and has no way to tell.
                assert await handle.result() == 2
            await trio.sleep(LEASE)
            assert await handle.result() == 2
            assert one.engine.statistics()["status_writer"]["fenced"] == 1
            assert one.engine.statistics()["lease_keeper"]["held"] == 0
            # It is fit for work again.
            assert await (await one.engine.submit("nap", 1)).result() == 1
    assert (await depth(backend)).in_flight == 0


# --- poison ---------------------------------------------------------------------------------


async def test_a_task_that_kills_its_process_is_quarantined_and_others_go_on(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    processes: dict[str, Process] = {}

    @tasks.task("poison", max_attempts=3)
    async def poison(payload: Any, context: Any) -> None:
        runs(context)
        task = row(backend, context.task_id).task
        processes[task.worker].kill()
        await trio.sleep_forever()

    async with running(tasks, backend, consume=False) as watching, AsyncExitStack() as stack:
        bad = await watching.submit(poison)
        good = [await watching.submit("nap", 1) for _ in range(20)]
        for _ in range(5):
            one = await stack.enter_async_context(
                process(tasks, backend, worker_count=1, **DIES_AT_ONCE)
            )
            processes[one.engine._worker_name] = one
        task = await ended(watching, bad.id, timeout=3 * SOON + 5)
        assert (task.status, task.retry_count) == (TaskStatus.FAILED, 3)
        assert task.error is not None
        assert task.error.type.endswith("AttemptCrashed")
        for handle in good:
            assert (await ended(watching, handle.id, timeout=3 * SOON)).status == "COMPLETED"
        await trio.sleep(1)
        (dead_letter,) = (await watching.list_dead()).dead_letters
        assert dead_letter.task_id == bad.id
        assert dead_letter.task_type == "poison"
        assert dead_letter.reason == "its worker died 3 times of 3 allowed"
        assert dead_letter.attempts == 3
        await trio.sleep(LEASE * 3)
    assert runs.starts.count((bad.id, 1)) == 1
    assert [attempt for task_id, attempt in runs.starts if task_id == bad.id] == [1, 2, 3]


@pytest.mark.parametrize(
    ("poisons_attempts", "neighbours_attempts"),
    # The poison has more of them, as many, and fewer.
    size([(5, 2), (3, 3), (2, 5)], in_full=list(product((2, 3, 5), repeat=2))),
)
async def test_the_neighbours_of_such_a_task_are_not_quarantined_along_with_it(
    tasks: TaskRegistry,
    backend: MemoryBackend,
    runs: Runs,
    neighbours_attempts: int,
    poisons_attempts: int,
) -> None:
    """They die with it, and are taken over together with it by the next worker."""
    processes: dict[str, Process] = {}

    @tasks.task("poison", max_attempts=poisons_attempts)
    async def poison(payload: Any, context: Any) -> None:
        await trio.sleep(1)
        processes[row(backend, context.task_id).task.worker].kill()
        await trio.sleep_forever()

    async def restarting() -> None:
        """One process at a time, as under a service manager."""
        while True:
            async with process(tasks, backend, worker_count=5, **DIES_AT_ONCE) as one:
                processes[one.engine._worker_name] = one
                await one.ended.wait()

    async with running(tasks, backend, consume=False) as watching, trio.open_nursery() as nursery:
        bad = await watching.submit(poison)
        good = [await watching.submit("nap", 3, max_attempts=neighbours_attempts) for _ in range(4)]
        nursery.start_soon(restarting)
        for handle in good:
            task = await ended(watching, handle.id)
            assert task.status is TaskStatus.COMPLETED
            assert task.retry_count < neighbours_attempts
        task = await ended(watching, bad.id)
        assert (task.status, task.retry_count) == (TaskStatus.FAILED, poisons_attempts)
        nursery.cancel_scope.cancel()


@pytest.mark.two_services
async def test_an_exhausted_message_that_is_delivered_twice_has_its_dead_letter(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """The second delivery finds the task FAILED, and must not delete the message before it is
    dead-lettered."""
    async with running(tasks, backend, consume=False) as watching:
        handles = [await watching.submit("nap", 1, max_attempts=1) for _ in range(3)]
        for _ in handles:
            await claim_and_die(backend)
        backend.faults.duplicate_deliveries(3)
        async with running(tasks, backend, worker_count=6, prefetch=6) as engine:
            for handle in handles:
                assert (await ended(engine, handle.id)).status is TaskStatus.FAILED
            await trio.sleep(600)
            dead = (await engine.list_dead()).dead_letters
            assert sorted(each.task_id for each in dead) == sorted(each.id for each in handles)


async def test_a_quarantined_task_can_be_redriven(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, consume=False) as watching:
        handle = await watching.submit("nap", 1, max_attempts=1)
        await claim_and_die(backend)
        async with running(tasks, backend) as engine:
            assert (await ended(engine, handle.id)).status is TaskStatus.FAILED
            await trio.sleep(1)
            await engine.redrive()
            assert await handle.result() == 2


# --- between two steps ----------------------------------------------------------------------


@pytest.mark.two_services
async def test_a_crash_between_saving_and_sending(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend) as engine:
        async with process(tasks, backend, consume=False, **DIES_AT_ONCE) as one:
            with one.link.faults.block("send") as gate:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.engine.submit, "nap", 1)
                    await gate.arrived.wait()
                    one.kill()
                    nursery.cancel_scope.cancel()
        (task_id,) = backend.state.rows
        task = await ended(engine, task_id, timeout=RECONCILED + 5)
        assert (task.status, task.attempt) == (TaskStatus.COMPLETED, 1)
    assert len(runs) == 1


@pytest.mark.two_services
async def test_a_crash_between_recording_and_deleting(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, consume=False) as watching:
        async with process(tasks, backend, **DIES_AT_ONCE) as one:
            with one.link.faults.block("delete") as gate:
                handle = await watching.submit("nap", 1)
                await gate.arrived.wait()
                one.kill()
        task = await handle.task()
        assert task.status is TaskStatus.COMPLETED
        async with running(tasks, backend):
            await trio.sleep(SOON)
            assert await handle.task() == task
    assert await depth(backend) == QueueDepth(waiting=0, in_flight=0, dead=0)
    assert len(runs) == 1


@pytest.mark.two_services
async def test_a_crash_between_recording_a_failure_and_dead_lettering(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("hopeless")
    async def hopeless(payload: Any) -> None:
        raise Discard("of no use")

    async with running(tasks, backend, consume=False) as watching:
        async with process(tasks, backend, **DIES_AT_ONCE) as one:
            with one.link.faults.block("dead_letter") as gate:
                handle = await watching.submit("hopeless", 1)
                await gate.arrived.wait()
                one.kill()
        task = await handle.task()
        assert task.status is TaskStatus.FAILED
        assert await depth(backend) == QueueDepth(waiting=0, in_flight=1, dead=0)
        async with running(tasks, backend):
            await trio.sleep(SOON)
            assert await handle.task() == task
        async with backend.open():
            (dead_letter,) = (
                await backend.queue("default").dead_letters.page(limit=10)
            ).dead_letters
    assert (dead_letter.task_id, dead_letter.error) == (handle.id, task.error)
    assert dead_letter.reason.startswith("FAILED, and the worker that wrote this died")
    assert await depth(backend) == QueueDepth(waiting=0, in_flight=0, dead=1)


@pytest.mark.two_services
async def test_a_crash_between_receiving_and_claiming_costs_no_attempt(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, consume=False) as watching:
        async with process(tasks, backend, **DIES_AT_ONCE) as one:
            with one.link.faults.block("claim") as gate:
                handle = await watching.submit("nap", 1, max_attempts=1)
                await gate.arrived.wait()
                one.kill()
        async with running(tasks, backend):
            task = await ended(watching, handle.id, timeout=SOON + 2)
            assert (task.status, task.retry_count) == (TaskStatus.COMPLETED, 0)


@pytest.mark.two_services
@pytest.mark.parametrize("delay", [10, 2000])
async def test_a_crash_between_recording_a_retry_and_giving_the_message_back(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, delay: float
) -> None:
    @tasks.task("later")
    async def later(payload: Any, context: Any) -> None:
        runs(context)
        if context.attempt == 1:
            raise Snooze(delay)

    operation = "release" if delay < 900 else "delete"
    async with running(tasks, backend, consume=False) as watching:
        async with process(tasks, backend, **DIES_AT_ONCE) as one:
            with one.link.faults.block(operation) as gate:
                handle = await watching.submit(later)
                await gate.arrived.wait()
                one.kill()
        async with running(tasks, backend):
            assert (await ended(watching, handle.id, timeout=3600)).status == "COMPLETED"
            await trio.sleep(1000)
    assert runs.at[1] - runs.at[0] >= delay
    assert len(runs) == 2
    assert await depth(backend) == QueueDepth(waiting=0, in_flight=0, dead=0)


@pytest.mark.two_services
async def test_a_crash_while_giving_back_at_a_shutdown_costs_no_attempt(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, consume=False) as watching:
        async with process(tasks, backend, **DIES_AT_ONCE) as one:
            handle = await watching.submit("nap", 100, max_attempts=1)
            await until(lambda: len(runs) == 1)
            with one.link.faults.block("release") as gate:
                one.engine.request_stop()
                await gate.arrived.wait()
                one.kill()
        async with running(tasks, backend):
            task = await ended(watching, handle.id)
            assert (task.status, task.retry_count) == (TaskStatus.COMPLETED, 0)


# --- messages that vanish -------------------------------------------------------------------


async def test_a_task_whose_message_vanished_is_sent_again(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """Retention over, queue purged by hand."""
    async with running(tasks, backend, consume=False) as watching:
        handle = await watching.submit("nap", 1)
        backend.queue("default").lose_messages()
        async with running(tasks, backend):
            task = await ended(watching, handle.id, timeout=RECONCILED + 5)
            assert (task.status, task.retry_count) == (TaskStatus.COMPLETED, 0)


async def test_a_running_task_whose_message_vanished_and_whose_worker_died_comes_back(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, consume=False) as watching:
        handle = await watching.submit("nap", 1)
        await claim_and_die(backend)
        backend.queue("default").lose_messages()
        async with running(tasks, backend):
            task = await ended(watching, handle.id, timeout=RECONCILED + 5)
            assert (task.status, task.retry_count) == (TaskStatus.COMPLETED, 1)


async def test_a_running_task_whose_message_vanished_is_run_again_by_the_rules(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    """Its worker learns at the next renewal that the lease is gone, and stops."""
    async with running(tasks, backend, worker_count=1) as engine:
        handle = await engine.submit("nap", 250)
        await until(lambda: len(runs) == 1)
        backend.queue("default").lose_messages()
        assert await handle.result() == 2
        await trio.sleep(LEASE)
        assert (await engine.metrics()).depth == QueueDepth(waiting=0, in_flight=0, dead=0)
    assert runs.attempts == [1, 2]

"""The reconciler: nothing is stuck silently."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import trio

from task_queue_engine import TaskStatus
from task_queue_engine.actors import reconciler
from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.reconciler import Reconciler
from task_queue_engine.backends.base import NewTask
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.lifecycle import Complete
from tests.actors.support import (
    background,
    claim,
    claimed,
    make_task,
    put,
    receive,
    retry,
    status,
)

INTERVAL = 30.0
MIN_AGE = 90.0
FOUND = MIN_AGE + INTERVAL * 1.2 + 1
"""Seconds after which it must have found what is stuck."""


@asynccontextmanager
async def reconciling(
    backend: MemoryBackend,
    *,
    interval: float = INTERVAL,
    retention: float = 0,
    health: ActorHealth | None = None,
) -> AsyncIterator[Reconciler]:
    reconciler = Reconciler(
        backend=backend,
        queue="default",
        clock=backend.clock,
        interval=interval,
        min_age=MIN_AGE,
        retention=retention,
        retry=retry("reconciler", health),
        rng=random.Random(1),
    )
    async with background(reconciler.run):
        yield reconciler


async def waiting(backend: MemoryBackend) -> int:
    return (await backend.queue("default").depth()).waiting


async def test_a_task_that_was_stored_and_never_sent_is_sent(backend: MemoryBackend) -> None:
    async with reconciling(backend) as reconciler:
        await put(backend, send=False)
        await trio.sleep(MIN_AGE - 1)
        assert await waiting(backend) == 0, "it may be between two steps"
        await trio.sleep(FOUND - MIN_AGE)
        assert await waiting(backend) == 1
        await trio.sleep(FOUND * 5)
        assert await waiting(backend) == 1, "once"
        assert reconciler.statistics().resent == 1


async def test_what_is_sent_keeps_the_rest_of_its_delay(backend: MemoryBackend) -> None:
    async with reconciling(backend):
        await put(backend, send=False, run_at=backend.clock.now() + timedelta(seconds=500))
        start = trio.current_time()
        queue = backend.queue("default")
        while not await queue.receive(1, wait=20, visibility=10_000):
            pass
        assert trio.current_time() - start == pytest.approx(500, abs=0.01)


async def test_an_attempt_whose_message_is_gone_is_counted_and_comes_back(
    backend: MemoryBackend,
) -> None:
    async with reconciling(backend) as reconciler:
        attempt = await claimed(backend)
        backend.queue("default").lose_messages()
        await trio.sleep(FOUND)
        again = await claim(backend, await receive(backend))
        assert again.task.id == attempt.task.id
        assert (again.task.attempt, again.task.retry_count) == (2, 1)
        assert again.task.error is not None
        assert again.task.error.type.endswith("AttemptCrashed")
        assert reconciler.statistics().reclaimed == 1


async def test_such_an_attempt_past_the_last_one_fails(backend: MemoryBackend) -> None:
    async with reconciling(backend):
        attempt = await claimed(backend, max_attempts=1)
        backend.queue("default").lose_messages()
        await trio.sleep(FOUND)
        assert status(backend, attempt.task.id) is TaskStatus.FAILED
        assert await waiting(backend) == 0


async def test_such_an_attempt_that_was_to_be_cancelled_is(backend: MemoryBackend) -> None:
    async with reconciling(backend):
        attempt = await claimed(backend)
        await backend.store.cancel([attempt.task.id])
        backend.queue("default").lose_messages()
        await trio.sleep(FOUND)
        assert status(backend, attempt.task.id) is TaskStatus.CANCELLED
        assert await waiting(backend) == 0


async def test_an_attempt_that_ends_just_then_keeps_its_result(backend: MemoryBackend) -> None:
    async with reconciling(backend):
        attempt = await claimed(backend)
        backend.queue("default").lose_messages()
        with backend.faults.block("reclaim") as gate:
            await gate.arrived.wait()
            done = Complete(task_id=attempt.task.id, attempt=1, result="just in time")
            await backend.store.record([done])
        await trio.sleep(FOUND)
        assert status(backend, attempt.task.id) is TaskStatus.COMPLETED
        assert await waiting(backend) == 0


async def test_what_is_not_stuck_is_left_alone(backend: MemoryBackend) -> None:
    async with reconciling(backend) as reconciler:
        await claimed(backend)
        await put(backend)
        due = backend.clock.now() + timedelta(days=3)
        scheduled = make_task(backend, run_at=due)
        await backend.store.create([NewTask(task=scheduled, due_at=due)])
        finished = await claimed(backend)
        await backend.store.record([Complete(task_id=finished.task.id, attempt=1, result=1)])
        await trio.sleep(FOUND * 10)
        statistics = reconciler.statistics()
        assert (statistics.resent, statistics.reclaimed, statistics.expired) == (0, 0, 0)


async def test_a_long_backlog_is_walked_through_in_pieces(backend: MemoryBackend) -> None:
    for _ in range(2500):
        await put(backend)
    stuck = await put(backend, send=False)
    await trio.sleep(MIN_AGE + 1)
    async with reconciling(backend):
        await trio.sleep(INTERVAL)
        assert backend.faults.calls["stranded"] >= 3
        sent = [m.task_id for m in backend.state.queue("default").messages.values()]
        assert sent.count(stuck.id) == 1


@pytest.mark.parametrize(("interval", "looks"), [(1.0, 11), (10.0, 8), (30.0, 4)])
async def test_pieces_of_a_walk_are_never_close_together(
    backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch, interval: float, looks: int
) -> None:
    """A backend that is asked for the next within a second may have nothing to say yet."""
    monkeypatch.setattr(reconciler, "_PAGE_SIZE", 5)
    for _ in range(100):
        await put(backend)
    await trio.sleep(MIN_AGE + 1)
    async with reconciling(backend, interval=interval):
        await trio.sleep(9.9)
        # The first at once; then a tenth of the interval, no less than 1.25 s, or the interval.
        assert backend.faults.calls["stranded"] <= looks


@pytest.mark.parametrize("operation", ["stranded", "send", "reclaim", "expire"])
async def test_trouble_is_waited_out(backend: MemoryBackend, operation: str) -> None:
    health = ActorHealth()
    await put(backend, send=False)
    await claimed(backend)
    backend.queue("default").lose_messages()
    await trio.sleep(FOUND)
    async with reconciling(backend, health=health, retention=1000) as reconciler:
        with backend.faults.outage(operation):
            await trio.sleep(60)
            assert health.troubles == (f"reconciler: {operation}: made to fail by a test",)
        await trio.sleep(FOUND * 2)
        assert health.troubles == ()
        assert await waiting(backend) == 2
        assert reconciler.statistics().reclaimed == 1


async def test_only_what_was_sent_is_counted(backend: MemoryBackend) -> None:
    await put(backend, send=False)
    await trio.sleep(FOUND)
    async with reconciling(backend) as reconciler:
        backend.faults.try_again("send", items=1)
        await trio.sleep(1)
        assert reconciler.statistics().resent == 0
        await trio.sleep(FOUND)
        assert reconciler.statistics().resent == 1


async def test_old_tasks_are_deleted_where_a_retention_is_set(backend: MemoryBackend) -> None:
    attempt = await claimed(backend)
    await backend.store.record([Complete(task_id=attempt.task.id, attempt=1, result=1)])
    await backend.queue("default").delete([attempt.lease.delivery])
    pending = await put(backend)
    async with reconciling(backend, retention=3600) as reconciler:
        await trio.sleep(3500)
        assert backend.store.row(attempt.task.id) is not None
        await trio.sleep(200)
        assert backend.store.row(attempt.task.id) is None
        assert backend.store.row(pending.id) is not None
        assert reconciler.statistics().expired == 1


async def test_without_a_retention_nothing_is_deleted(backend: MemoryBackend) -> None:
    async with reconciling(backend):
        await trio.sleep(80_000)
        assert backend.faults.calls["expire"] == 0


async def test_a_task_whose_message_the_queue_gave_up_fails(backend: MemoryBackend) -> None:
    async with reconciling(backend) as reconciler:
        attempt = await claimed(backend)
        backend.queue("default").dead_letter_by_broker()
        await trio.sleep(MIN_AGE - 1)
        assert status(backend, attempt.task.id) is TaskStatus.PROCESSING
        await trio.sleep(FOUND - MIN_AGE)

        (task,) = await backend.store.get([attempt.task.id])
        assert task is not None
        assert task.status is TaskStatus.FAILED
        assert task.error is not None
        assert task.error.message == "moved by the broker"
        assert reconciler.statistics().broker_dead_lettered == 1
        (dead_letter,) = (await backend.queue("default").dead_letters.page(limit=10)).dead_letters
        assert dead_letter.task_id == task.id, "and the dead dead_letter is still there"


async def test_a_redriven_task_is_left_alone_while_its_old_letter_goes(
    backend: MemoryBackend,
) -> None:
    queue = backend.queue("default")
    async with reconciling(backend):
        attempt = await claimed(backend)
        queue.dead_letter_by_broker()
        await trio.sleep(FOUND)
        await backend.store.reopen([attempt.task.id])
        await trio.sleep(MIN_AGE - 1)
        assert status(backend, attempt.task.id) is TaskStatus.PENDING


async def test_a_dead_letter_queue_that_is_gone_keeps_nothing_else_from_being_done(
    backend: MemoryBackend,
) -> None:
    health = ActorHealth()
    async with reconciling(backend, retention=3600, health=health) as reconciler:
        attempt = await claimed(backend)
        write = Complete(task_id=attempt.task.id, attempt=1, result=1)
        await backend.store.record([write])
        with backend.faults.outage("dead_letters.moved_by_broker"):
            await put(backend, send=False)
            await trio.sleep(FOUND)
            assert await waiting(backend) == 1
            await trio.sleep(3600)
            assert reconciler.statistics().expired == 1
            (trouble,) = health.troubles
            assert trouble.startswith("reconciler: dead_letters.moved_by_broker: ")
        await trio.sleep(FOUND)
        assert health.troubles == ()


async def test_what_the_queue_refuses_for_good_fails_with_the_reason(
    backend: MemoryBackend,
) -> None:
    async with reconciling(backend):
        task = await put(backend, send=False)
        backend.faults.reject("send")
        await trio.sleep(FOUND)
        assert status(backend, task.id) is TaskStatus.FAILED
        (found,) = await backend.store.get([task.id])
        assert found is not None
        assert found.error is not None
        assert found.error.message == "refused by a test"

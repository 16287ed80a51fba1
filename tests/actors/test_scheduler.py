"""The scheduler: what is due is sent, once its time has come or a little before, never lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta

import pytest
import trio

from task_queue_engine import TaskStatus
from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.scheduler import Scheduler
from task_queue_engine.backends.base import NewTask
from task_queue_engine.backends.memory import MemoryBackend
from tests.actors.support import background, make_task, queue_gone, retry

LEAD = 30.0


@asynccontextmanager
async def scheduling(
    backend: MemoryBackend, health: ActorHealth | None = None, *, queue: str = "default"
) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(
        store=backend.store,
        queue=backend.queue(queue),
        clock=backend.clock,
        interval=5,
        lead=LEAD,
        retry=retry("scheduler", health),
    )
    async with background(scheduler.run):
        yield scheduler


async def due_in(backend: MemoryBackend, seconds: float, queue: str = "default") -> str:
    due = backend.clock.now() + timedelta(seconds=seconds)
    task = make_task(backend, run_at=due, queue=queue)
    await backend.store.create([NewTask(task=task, due_at=due)])
    return task.id


async def arrival(backend: MemoryBackend, queue: str = "default") -> float:
    """When the next message can be received, on trio's clock."""
    while not await backend.queue(queue).receive(1, wait=20, visibility=10_000):
        pass
    return trio.current_time()


async def test_a_task_arrives_when_it_is_due(backend: MemoryBackend) -> None:
    async with scheduling(backend) as scheduler:
        start = trio.current_time()
        for seconds in (7200, 1000, 1001.5):
            await due_in(backend, seconds)
        for seconds in (1000, 1001.5, 7200):
            assert await arrival(backend) - start == pytest.approx(seconds, abs=0.01)
        await trio.sleep(3600)
        assert scheduler.statistics().sent == 3, "each is sent once"


async def test_what_is_overdue_is_sent_at_once(backend: MemoryBackend) -> None:
    await due_in(backend, 10)
    await trio.sleep(10_000)
    async with scheduling(backend):
        before = trio.current_time()
        assert await arrival(backend) == before


async def test_what_is_due_on_another_queue_is_left_to_the_engines_that_serve_it(
    backend: MemoryBackend,
) -> None:
    """Even where that queue is gone: own tasks are sent on time, and no trouble shows here."""
    health = ActorHealth()
    start = trio.current_time()
    mail = [await due_in(backend, 10, queue="mail") for _ in range(250)]
    with queue_gone("mail"):
        async with scheduling(backend, health):
            await due_in(backend, 20)
            assert await arrival(backend) - start == pytest.approx(20, abs=0.01)
            await trio.sleep(3600)
            assert health.troubles == ()
    async with scheduling(backend, queue="mail"):
        await trio.sleep(10)
    assert (await backend.queue("mail").depth()).waiting == len(mail)


async def test_of_several_engines_one_sends_each_task(backend: MemoryBackend) -> None:
    number = 250
    for second in range(number):
        await due_in(backend, 1000 + second % 10)
    async with (
        scheduling(backend) as one,
        scheduling(backend) as two,
        scheduling(backend) as three,
    ):
        await trio.sleep(7200)
        sent = [each.statistics().sent for each in (one, two, three)]
    assert sum(sent) == number
    assert (await backend.queue("default").depth()).waiting == number


async def test_what_the_queue_refuses_for_good_fails_with_the_reason(
    backend: MemoryBackend,
) -> None:
    health = ActorHealth()
    refused = await due_in(backend, 1)
    backend.faults.reject("send")
    async with scheduling(backend, health):
        await trio.sleep(10)
        await due_in(backend, 1)
        await arrival(backend)
        assert health.troubles == ()
    (task,) = await backend.store.get([refused])
    assert task is not None
    assert task.status is TaskStatus.FAILED
    assert task.error is not None
    assert task.error.message == "refused by a test"
    assert task.error.type.endswith(".MessageRefused")


async def test_more_than_fits_into_one_look(backend: MemoryBackend) -> None:
    number = backend.store.max_batch * 2 + 5
    for _ in range(number):
        await due_in(backend, 1)
    async with scheduling(backend):
        await trio.sleep(1)
        assert (await backend.queue("default").depth()).waiting == number


async def test_a_task_cancelled_meanwhile_is_not_sent(backend: MemoryBackend) -> None:
    async with scheduling(backend) as scheduler:
        task_id = await due_in(backend, 1000)
        await backend.store.cancel([task_id])
        await trio.sleep(3600)
        assert scheduler.statistics().sent == 0


@pytest.mark.parametrize("operation", ["due", "send", "change_due"])
async def test_trouble_is_waited_out(backend: MemoryBackend, operation: str) -> None:
    health = ActorHealth()
    async with scheduling(backend, health):
        with backend.faults.outage(operation):
            await due_in(backend, 1)
            await trio.sleep(60)
            assert health.troubles == (f"scheduler: {operation}: made to fail by a test",)
        await trio.sleep(60)
        assert health.troubles == ()
        assert (await backend.queue("default").depth()).waiting >= 1
        assert await backend.store.due("default", before=backend.clock.now(), limit=10) == []


async def test_a_message_that_fails_alone_is_sent_later(backend: MemoryBackend) -> None:
    async with scheduling(backend) as scheduler:
        for _ in range(3):
            await due_in(backend, 1)
        backend.faults.try_again("send", items=2)
        await trio.sleep(60)
        assert (await backend.queue("default").depth()).waiting == 3
        assert scheduler.statistics().sent == 3


async def test_a_crash_between_sending_and_noting_it_sends_twice_and_loses_nothing(
    backend: MemoryBackend,
) -> None:
    await due_in(backend, 1)
    with ExitStack() as blocked:
        sending = blocked.enter_context(backend.faults.block("send"))
        async with scheduling(backend):
            await sending.arrived.wait()
            noting = blocked.enter_context(backend.faults.block("change_due"))
            sending.open()
            await noting.arrived.wait()
    async with scheduling(backend):
        await trio.sleep(10)
        assert (await backend.queue("default").depth()).waiting == 1
        await trio.sleep(LEAD + 30)
        assert (await backend.queue("default").depth()).waiting == 2


async def test_a_crash_before_sending_makes_it_late_and_loses_nothing(
    backend: MemoryBackend,
) -> None:
    await due_in(backend, 1)
    with backend.faults.block("send") as gate:
        async with scheduling(backend):
            await gate.arrived.wait()
    async with scheduling(backend):
        await trio.sleep(LEAD + 40)
        assert (await backend.queue("default").depth()).waiting == 1

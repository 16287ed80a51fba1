"""Receiving: how it waits, what wakes it, and what a cancelled wait takes."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from task_queue_engine.backends.base import Delivery, Message
from task_queue_engine.testing.conformance.harness import Harness
from task_queue_engine.testing.conformance.needs import needs


async def test_receive_returns_empty_when_its_wait_is_over(harness: Harness) -> None:
    assert await harness.queue.receive(10, wait=0.05, visibility=30) == []


async def test_receive_wakes_on_send(harness: Harness) -> None:
    received: list[Delivery] = []
    arrived = trio.Event()

    async def wait() -> None:
        received.extend(await harness.queue.receive(10, wait=20, visibility=30))
        arrived.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.02)
        with trio.fail_after(5):
            task = await harness.submit()
            await arrived.wait()
    assert [delivery.task_id for delivery in received] == [task.id]


async def test_receive_wakes_on_release(harness: Harness) -> None:
    await harness.submit()
    held = await harness.receive_one()
    received: list[Delivery] = []
    arrived = trio.Event()

    async def wait() -> None:
        received.extend(await harness.queue.receive(10, wait=20, visibility=30))
        arrived.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.02)
        with trio.fail_after(5):
            await harness.queue.release([(held, 0.0)])
            await arrived.wait()
    assert received[0].receive_count == 2


async def test_all_receivers_that_wait_are_served(harness: Harness) -> None:
    received: list[Delivery] = []

    async def wait() -> None:
        received.extend(await harness.queue.receive(1, wait=20, visibility=30))

    tasks = [harness.make_task() for _ in range(3)]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in tasks:
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.02)
            await harness.queue.send([Message(task=task) for task in tasks])
    assert {delivery.task_id for delivery in received} == {task.id for task in tasks}


async def test_a_call_that_is_cancelled_before_it_begins_does_nothing(harness: Harness) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await harness.queue.send([Message(task=harness.make_task())])
    assert scope.cancelled_caught
    assert (await harness.queue.depth()).waiting == 0


@needs("cancelled_receive_takes_nothing")
async def test_a_receive_that_was_cancelled_while_waiting_took_nothing(harness: Harness) -> None:
    with trio.move_on_after(0.05) as scope:
        await harness.queue.receive(10, wait=20, visibility=30)
    assert scope.cancelled_caught
    task = await harness.submit()
    assert [delivery.task_id for delivery in await harness.receive()] == [task.id]


@needs("cancelled_receive_takes_nothing")
async def test_a_receive_that_is_cancelled_as_messages_arrive_loses_none(harness: Harness) -> None:
    """Whatever the moment of the cancel: each message is returned, or still there to be taken."""
    sent, returned = set(), set()

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            for delivery in await harness.queue.receive(10, wait=20, visibility=30):
                returned.add(delivery.task_id)

    for pause in range(20):
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, scope)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(harness.send, task := await harness.create())
            sent.add(task.id)
            for _ in range(pause):
                await trio.sleep(0.0001)
            scope.cancel()
    left = set()
    while deliveries := await harness.receive():
        left |= {delivery.task_id for delivery in deliveries}
    assert returned | left == sent
    assert not returned & left


async def test_two_receivers_never_get_the_same_message(harness: Harness) -> None:
    total = 120
    got: list[str] = []

    async def receiver() -> None:
        while len(got) < total:
            for delivery in await harness.queue.receive(7, wait=0.05, visibility=300):
                got.append(delivery.message_id)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(receiver)
        for _ in range(total // 10):
            tasks = [harness.make_task() for _ in range(10)]
            await harness.queue.send([Message(task=task) for task in tasks])
    assert len(got) == len(set(got)) == total


async def test_max_messages_below_one_is_refused(harness: Harness) -> None:
    with pytest.raises(ValueError, match="max_messages"):
        await harness.queue.receive(0, wait=0, visibility=30)

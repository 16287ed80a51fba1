"""Receiving that waits, several receivers, cancellation. These wait on the real clock."""

from __future__ import annotations

from collections import Counter

import trio

from task_queue_engine.backends.base import Delivery, Done, Message
from tests.conformance.bench import Bench, ids

LONG = 20.0
"""Seconds; a test that comes to wait this long has failed."""


async def test_a_receive_that_waits_wakes_when_something_is_sent(bench: Bench) -> None:
    found: list[Delivery] = []

    async def receive() -> None:
        found.extend(await bench.queue.receive(10, wait=LONG, visibility=bench.lease))

    task = bench.task()
    with trio.fail_after(LONG / 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.sleep(0.02)
            await bench.send(task)
    assert ids(found) == [task.id]


async def test_a_receive_that_waits_wakes_when_something_is_released(bench: Bench) -> None:
    found: list[Delivery] = []

    async def receive() -> None:
        found.extend(await bench.queue.receive(10, wait=LONG, visibility=bench.lease))

    await bench.send(bench.task())
    (delivery,) = await bench.receive()
    with trio.fail_after(LONG / 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.sleep(0.02)
            assert await bench.release(delivery) == Done()
    assert [again.message_id for again in found] == [delivery.message_id]


async def test_a_receive_that_waits_comes_back_with_nothing(bench: Bench) -> None:
    with trio.fail_after(LONG / 2):
        assert await bench.queue.receive(10, wait=0.05, visibility=bench.lease) == []


async def test_all_receivers_that_wait_are_served(bench: Bench) -> None:
    found: list[Delivery] = []

    async def receive() -> None:
        found.extend(await bench.queue.receive(1, wait=LONG, visibility=bench.lease))

    tasks = [bench.task() for _ in range(3)]
    with trio.fail_after(LONG / 2):
        async with trio.open_nursery() as nursery:
            for _ in tasks:
                nursery.start_soon(receive)
            await trio.sleep(0.02)
            await bench.send(*tasks)
    assert sorted(ids(found)) == sorted(ids(tasks))


async def test_two_receivers_never_get_the_same_message(bench: Bench) -> None:
    got: Counter[str] = Counter()
    tasks = [bench.task() for _ in range(120)]

    async def receive() -> None:
        while True:
            for delivery in await bench.queue.receive(3, wait=LONG, visibility=bench.lease):
                got[delivery.message_id] += 1
            if len(got) == len(tasks):
                nursery.cancel_scope.cancel()

    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(receive)
            for i in range(0, len(tasks), 10):
                await bench.send(*tasks[i : i + 10])
    assert set(got.values()) == {1}
    await bench.depth(in_flight=len(tasks))


async def test_a_cancelled_receive_loses_nothing(bench: Bench) -> None:
    """Whatever the moment, a message is either in somebody's hands or still in the queue."""
    tasks = [bench.task() for _ in range(40)]
    got: list[Delivery] = []

    async def receive(scope: trio.CancelScope) -> None:
        with scope:
            got.extend(await bench.queue.receive(1, wait=LONG, visibility=bench.lease))

    for i, task in enumerate(tasks):
        scope = trio.CancelScope()
        with trio.fail_after(LONG):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, scope)
                # At another step of the receive each time.
                for _ in range(i % 5):
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(bench.queue.send, [Message(task=task)])
                for _ in range(i % 7):
                    await trio.sleep(0.0002)
                scope.cancel()
    rest = await bench.receive(len(tasks) - len(got))
    assert sorted(ids(got + rest)) == sorted(ids(tasks))
    assert await bench.nothing_visible()


async def test_cancelled_before_it_begins_a_call_does_nothing(bench: Bench) -> None:
    task = bench.task()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bench.queue.send([Message(task=task)])
    assert scope.cancelled_caught
    assert await bench.nothing_visible()
    await bench.counts()

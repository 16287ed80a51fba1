"""Open, close, open again."""

from __future__ import annotations

import pytest
import trio

from task_queue_engine.backends.base import Delivery, ListQuery, Message
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import Started
from tests.conformance.bench import Bench, ids
from tests.conformance.harness import Harness


async def test_what_was_written_is_there_when_opened_again(harness: Harness) -> None:
    first = harness.make()
    async with first.open():
        bench = Bench(harness, first)
        done = await bench.finish()
        failed = await bench.fail()
        running, delivery = await bench.start()
        waiting = await bench.create()
        await bench.send(waiting)
        tasks = [waiting, running, done, failed]
        before = await bench.store.get(ids(tasks))

    for backend in (first, harness.make()):
        async with backend.open():
            bench = Bench(harness, backend)
            assert await bench.store.get(ids(tasks)) == before
            await bench.counts(pending=1, processing=1, completed=1, failed=1)
            await bench.depth(waiting=1, in_flight=1, dead=1)
            assert await bench.extend(delivery, bench.lease)

    backend = harness.make()
    async with backend.open():
        bench = Bench(harness, backend)
        (received,) = await bench.receive()
        assert isinstance(await bench.claim(received), Started)


async def test_closed_it_says_so(harness: Harness) -> None:
    backend = harness.make()
    queue, store = backend.queue("default"), backend.store
    task = Bench(harness, backend).task()

    async def nothing_works() -> None:
        for call in (
            lambda: queue.send([Message(task=task)]),
            lambda: queue.receive(1, wait=0, visibility=30),
            lambda: queue.depth(),
            lambda: queue.list_dead(limit=1),
            lambda: store.get([task.id]),
            lambda: store.cancel([task.id]),
            lambda: store.counts(),
            lambda: store.list_tasks(ListQuery()),
            lambda: backend.stranded("default", before=task.created_at, limit=1),
            lambda: backend.ping(),
        ):
            with pytest.raises(BackendUnavailable):
                await call()

    await nothing_works()
    async with backend.open():
        await backend.ping()
    await nothing_works()


async def test_a_receive_that_waits_ends_when_the_backend_is_closed(harness: Harness) -> None:
    backend = harness.make()
    ended = trio.Event()

    async def receive() -> None:
        with pytest.raises(BackendUnavailable):
            await backend.queue("default").receive(1, wait=60, visibility=30)
        ended.set()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            async with backend.open():
                nursery.start_soon(receive)
                await trio.sleep(0.02)
            await ended.wait()


async def test_two_at_once(harness: Harness) -> None:
    """Two backends on the same data, as two processes would be."""
    backend = harness.make()
    other = harness.make()
    if other is backend:
        return
    async with backend.open(), other.open():
        here, there = Bench(harness, backend), Bench(harness, other)
        task = await here.create()
        found: list[Delivery] = []

        async def receive() -> None:
            found.extend(await there.queue.receive(1, wait=20, visibility=there.lease))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.sleep(0.02)
                await here.send(task)
        assert ids(found) == [task.id]
        assert isinstance(await there.claim(found[0]), Started)
        await here.counts(processing=1)
        await here.depth(in_flight=1)


async def test_it_says_what_it_is(bench: Bench) -> None:
    assert bench.backend.info.name == bench.harness.name
    assert bench.backend.info.detail
    await bench.backend.ping()
    assert bench.queue.max_batch >= 1
    assert bench.store.max_batch >= 1
    assert bench.queue.max_delay > 0

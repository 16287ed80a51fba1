"""Opening, closing, and the backend's own account of itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.lowlevel

from task_queue_engine.backends.base import Message
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.testing.conformance.harness import Harness


async def test_ping(harness: Harness) -> None:
    await harness.backend.ping()


async def test_info_names_the_backend(harness: Harness) -> None:
    assert harness.backend.info.name
    assert harness.backend.info.detail


async def test_limits_are_sane(harness: Harness) -> None:
    assert harness.queue.max_batch >= 10
    assert harness.store.max_batch >= 10
    assert harness.queue.max_delay >= 900


async def test_many_callers_at_once(harness: Harness) -> None:
    """Each gets the answer to its own question."""

    async def caller(number: int) -> None:
        task = await harness.submit(payload=number)
        assert (await harness.get(task.id)).payload == number

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(caller, number)
    assert (await harness.store.counts()).pending == 40
    assert (await harness.queue.depth()).waiting == 40


async def test_a_cancelled_call_is_carried_out_or_not_at_all(harness: Harness) -> None:
    for pause in range(15):
        task = harness.make_task()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(harness.create, task)
            for _ in range(pause):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        stored = [found for found in await harness.store.get([task.id]) if found is not None]
        counts = await harness.store.counts()
        if stored:
            await harness.store.cancel([task.id])
            await harness.advance(1)
            await harness.store.expire(finished_before=harness.now(), limit=1)
        assert counts.pending == len(stored)


async def test_a_closed_backend_says_so(harness: Harness) -> None:
    backend = harness.make_another()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: backend.store.counts(),
        lambda: backend.store.get(["x"]),
        lambda: backend.store.cancel(["x"]),
        lambda: backend.queue("default").send([Message(task=harness.make_task())]),
        lambda: backend.queue("default").receive(1, wait=1, visibility=1),
        lambda: backend.queue("default").depth(),
        lambda: backend.stranded("default", before=harness.now(), limit=1),
        lambda: backend.ping(),
    ]
    for _ in range(2):
        for call in calls:
            with pytest.raises(BackendUnavailable):
                await call()
        async with backend.open():
            await backend.ping()

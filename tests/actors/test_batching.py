"""Batches: flushed on size, on time and at the end of the stream."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from task_queue_engine.actors.batching import Batcher


async def test_without_linger_a_batch_is_what_waits(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](10)
    batches = Batcher(receive, size=5, linger=0)
    for n in range(3):
        send.send_nowait(n)
    before = trio.current_time()
    assert await batches.next() == [0, 1, 2]
    assert trio.current_time() == before


async def test_the_first_item_does_not_wait_for_a_second(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](0)
    batches = Batcher(receive, size=5, linger=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send.send, 1)
        before = trio.current_time()
        assert await batches.next() == [1]
        assert trio.current_time() == before


async def test_no_batch_is_larger_than_size_and_none_is_lost(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](100)
    batches = Batcher(receive, size=4, linger=0)
    for n in range(10):
        send.send_nowait(n)
    send.close()
    assert [await batches.next() for _ in range(4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
        [],
    ]
    assert batches.flushes["size"] == 2


async def test_items_of_senders_that_wait_for_room_are_taken_too(
    autojump_clock: MockClock,
) -> None:
    send, receive = trio.open_memory_channel[int](0)
    batches = Batcher(receive, size=10, linger=0)
    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(send.send, n)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(await batches.next()) == [0, 1, 2, 3, 4]


async def test_linger_waits_for_more_but_no_longer(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](0)
    batches = Batcher(receive, size=10, linger=1)

    async def sender() -> None:
        for n in range(5):
            await send.send(n)
            await trio.sleep(0.4)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender)
        before = trio.current_time()
        assert await batches.next() == [0, 1, 2]
        assert trio.current_time() - before == pytest.approx(1)
        assert await batches.next() == [3, 4]
    assert batches.flushes == {"time": 2}


async def test_linger_ends_early_when_the_batch_is_full(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](10)
    batches = Batcher(receive, size=3, linger=100)
    for n in range(4):
        send.send_nowait(n)
    with trio.fail_after(1):
        assert await batches.next() == [0, 1, 2]
    assert batches.flushes == {"size": 1}


async def test_linger_ends_early_at_the_end_of_the_stream(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[int](10)
    batches = Batcher(receive, size=3, linger=100)

    async def last() -> None:
        await trio.sleep(1)
        await send.send(2)
        send.close()

    send.send_nowait(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(last)
        with trio.fail_after(2):
            assert await batches.next() == [1, 2]
            assert await batches.next() == []
    assert batches.flushes == {"end": 1}

"""Messages: visibility, receipts, delays, order, depth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
import trio
from msgspec.structs import replace

from task_queue_engine.backends.base import (
    DeadLettering,
    Delivery,
    Done,
    LeaseLost,
    Message,
    QueueDepth,
    QueueVerdict,
    Rejected,
)
from task_queue_engine.testing.conformance.harness import Harness
from task_queue_engine.testing.conformance.needs import needs

Operation = Callable[..., Awaitable[list[QueueVerdict]]]


async def extend(harness: Harness, *deliveries: Delivery) -> list[QueueVerdict]:
    return await harness.queue.extend(deliveries, visibility=harness.visibility)


async def release(harness: Harness, *deliveries: Delivery) -> list[QueueVerdict]:
    return await harness.queue.release([(delivery, 0.0) for delivery in deliveries])


async def delete(harness: Harness, *deliveries: Delivery) -> list[QueueVerdict]:
    return await harness.queue.delete(deliveries)


async def dead_letter(harness: Harness, *deliveries: Delivery) -> list[QueueVerdict]:
    return await harness.queue.dead_letter(
        [
            DeadLettering(delivery=delivery, reason="a test", at=harness.now())
            for delivery in deliveries
        ]
    )


OPERATIONS: list[Operation] = [extend, release, delete, dead_letter]


async def test_what_a_delivery_tells_of_its_task_is_so(harness: Harness) -> None:
    """A worker gives back what it cannot run by it. A queue that cannot say leaves it empty."""
    task = await harness.submit(type="told", payload={"to": ["Ada", 1, None, 2.5]})
    delivery = await harness.receive_one()
    assert delivery.task_type in ("", task.type)
    if delivery.payload_json:
        assert msgspec.json.decode(delivery.payload_json) == task.payload
    assert delivery.receives == 1
    assert not delivery.is_worn


# --- leases ---------------------------------------------------------------------------------


async def test_a_received_message_is_invisible_until_its_lease_ends(harness: Harness) -> None:
    task = await harness.submit()
    first = await harness.receive_one()
    assert (first.task_id, first.receive_count) == (task.id, 1)

    await harness.advance(harness.visibility - 1)
    assert await harness.receive() == []

    await harness.advance(1)
    second = await harness.receive_one()
    assert second.message_id == first.message_id
    assert second.receive_count == 2
    assert second.receipt != first.receipt


async def test_a_deleted_message_is_gone(harness: Harness) -> None:
    await harness.submit()
    assert await delete(harness, await harness.receive_one()) == [Done()]
    await harness.lapse()
    assert await harness.receive() == []


async def test_extend_counts_from_now(harness: Harness) -> None:
    await harness.submit()
    delivery = await harness.receive_one()

    for _ in range(3):
        await harness.advance(harness.visibility - 1)
        assert await extend(harness, delivery) == [Done()]
    await harness.advance(harness.visibility - 1)
    assert await harness.receive() == []
    await harness.advance(1)
    assert (await harness.receive_one()).message_id == delivery.message_id


async def test_an_extended_lease_deletes_with_the_same_receipt(harness: Harness) -> None:
    await harness.submit()
    delivery = await harness.receive_one()
    await extend(harness, delivery)
    assert await delete(harness, delivery) == [Done()]
    await harness.lapse()
    assert await harness.receive() == []


async def test_release_gives_back_at_once(harness: Harness) -> None:
    await harness.submit()
    first = await harness.receive_one()
    assert await release(harness, first) == [Done()]
    second = await harness.receive_one()
    assert (second.message_id, second.receive_count) == (first.message_id, 2)


async def test_release_with_a_delay(harness: Harness) -> None:
    await harness.submit()
    delivery = await harness.receive_one()
    assert await harness.queue.release([(delivery, 20.0)]) == [Done()]

    await harness.advance(19)
    assert await harness.receive() == []
    await harness.advance(1)
    again = await harness.receive_one()
    assert again.task_id == delivery.task_id
    if harness.promises.same_message_after_delay:
        assert again.message_id == delivery.message_id


async def test_what_is_delayed_is_told_from_what_is_due(harness: Harness) -> None:
    delayed = await harness.create()
    await harness.queue.send([Message(task=delayed, delay=600.0)])
    await harness.submit()
    found = await harness.queue.depth()
    assert (found.waiting, found.due, found.delayed) == (2, 1, 1)
    await harness.advance(601)
    found = await harness.queue.depth()
    assert (found.waiting, found.due, found.delayed) == (2, 2, 0)
    await harness.receive()
    assert (await harness.queue.depth()).delayed == 0, "a lease is no delay"


@needs("in_order")
async def test_how_long_the_oldest_has_been_due(harness: Harness) -> None:
    """None where the queue cannot say. What is delayed or held is not what waits."""
    if (await harness.queue.depth()).oldest_age is None:
        return

    async def oldest() -> int:
        return round((await harness.queue.depth()).oldest_age or 0.0)

    assert await oldest() == 0
    await harness.queue.send([Message(task=await harness.create(), delay=60.0)])
    await harness.advance(59)
    assert await oldest() == 0
    await harness.advance(11)
    assert await oldest() == 10
    await harness.submit()
    held = await harness.receive_one()
    await harness.advance(5)
    assert await oldest() == 5, "of the one that is not held"
    await harness.receive_one()
    assert await oldest() == 0
    await harness.queue.release([(held, 0.0)])
    await harness.advance(3)
    assert await oldest() == 3, "since it was given back"
    await harness.queue.delete([await harness.receive_one()])
    await harness.advance(harness.visibility + 4)
    assert await oldest() >= 4, "since its lease has lapsed"


async def test_release_may_wait_longer_than_the_lease(harness: Harness) -> None:
    await harness.submit()
    delivery = await harness.receive_one()
    await harness.queue.release([(delivery, harness.queue.max_delay)])
    await harness.advance(harness.queue.max_delay - 1)
    assert await harness.receive() == []
    await harness.advance(1)
    assert len(await harness.receive()) == 1


@needs("notices_stale_receipts", operation=delete)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_receipt_is_stale_once_the_message_was_received_again(
    harness: Harness, operation: Operation
) -> None:
    await harness.submit()
    lost = await harness.receive_one()
    await harness.lapse()
    held = await harness.receive_one()

    assert await operation(harness, lost) == [LeaseLost()]

    await harness.advance(harness.visibility - 1)
    assert await harness.receive() == [], "the lease of the new holder is untouched"
    assert await delete(harness, held) == [Done()]
    depth = await harness.queue.depth()
    assert depth == QueueDepth(waiting=0, in_flight=0, dead=0)


@needs("notices_stale_receipts")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_receipt_is_stale_once_the_message_is_gone(
    harness: Harness, operation: Operation
) -> None:
    await harness.submit()
    delivery = await harness.receive_one()
    await delete(harness, delivery)
    assert await operation(harness, delivery) == [LeaseLost()]


@needs("notices_stale_receipts")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_a_receipt_is_stale_once_the_message_was_given_back(
    harness: Harness, operation: Operation
) -> None:
    """Above all for `extend`: a late heartbeat must not hide what was given back."""
    await harness.submit()
    delivery = await harness.receive_one()
    await release(harness, delivery)
    assert await operation(harness, delivery) == [LeaseLost()]
    assert len(await harness.receive()) == 1


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_the_receipt_is_what_counts(harness: Harness, operation: Operation) -> None:
    await harness.submit()
    delivery = await harness.receive_one()
    forged = replace(delivery, receipt="not-a-receipt")
    assert await operation(harness, forged) == [LeaseLost()]
    assert await operation(harness, delivery) == [Done()]


@needs("notices_stale_receipts")
@pytest.mark.parametrize(
    "operation", [release, delete, dead_letter], ids=lambda operation: operation.__name__
)
async def test_a_batch_answers_item_by_item(harness: Harness, operation: Operation) -> None:
    """The lost, and the same twice, fail alone."""
    for _ in range(3):
        await harness.submit()
    lost, good, twice = await harness.receive(3)
    await delete(harness, lost)

    verdicts = await operation(harness, good, lost, twice, twice)

    assert verdicts == [Done(), LeaseLost(), Done(), LeaseLost()]
    depth = await harness.queue.depth()
    assert depth.in_flight == 0
    assert depth.waiting + depth.dead == (0 if operation is delete else 2)


# --- sending --------------------------------------------------------------------------------


async def test_a_delayed_message_is_not_seen_early(harness: Harness) -> None:
    task = await harness.create()
    await harness.send(task, delay=60)

    await harness.advance(59)
    assert await harness.receive() == []
    await harness.advance(1)
    assert [delivery.task_id for delivery in await harness.receive()] == [task.id]


async def test_the_longest_delay_is_taken_and_a_longer_one_is_not(harness: Harness) -> None:
    task = harness.make_task()
    longest = harness.queue.max_delay
    verdicts = await harness.queue.send(
        [
            Message(task=task, delay=longest),
            Message(task=task, delay=longest + 1),
            Message(task=task, delay=-1),
        ]
    )
    assert verdicts[0] == Done()
    assert isinstance(verdicts[1], Rejected)
    assert isinstance(verdicts[2], Rejected)
    assert (await harness.queue.depth()).waiting == 1


async def test_a_bad_delay_of_a_release_leaves_the_lease(harness: Harness) -> None:
    await harness.submit()
    delivery = await harness.receive_one()
    (verdict,) = await harness.queue.release([(delivery, harness.queue.max_delay + 1)])
    assert isinstance(verdict, Rejected)
    assert await harness.receive() == []
    assert await delete(harness, delivery) == [Done()]


async def test_each_send_is_a_message_of_its_own(harness: Harness) -> None:
    task = await harness.submit()
    await harness.send(task)
    first, second = await harness.receive()
    assert first.task_id == second.task_id == task.id
    assert first.message_id != second.message_id


async def test_message_ids_are_never_used_again(harness: Harness) -> None:
    """A PROCESSING row remembers one: a new message must not look like its old one."""
    seen = set()
    for _ in range(3):
        await harness.submit()
        delivery = await harness.receive_one()
        seen.add(delivery.message_id)
        await delete(harness, delivery)
    assert len(seen) == 3


@needs("in_order")
async def test_first_visible_is_first_received(harness: Harness) -> None:
    late = await harness.create()
    await harness.send(late, delay=5)
    tasks = [await harness.submit() for _ in range(3)]
    await harness.advance(10)
    newest = await harness.submit()

    received = [(await harness.receive(2)) for _ in range(3)]

    order = [delivery.task_id for batch in received for delivery in batch]
    assert order == [tasks[0].id, tasks[1].id, tasks[2].id, late.id, newest.id]


async def test_no_more_than_asked_for(harness: Harness) -> None:
    for _ in range(5):
        await harness.submit()
    assert len(await harness.receive(2)) == 2
    assert len(await harness.receive(10)) == 3


async def test_queues_are_apart(harness: Harness) -> None:
    other = harness.backend.queue("other")
    assert other is harness.backend.queue("other")
    assert other.name == "other"
    task = await harness.create(queue="other")
    await other.send([Message(task=task)])

    assert await harness.receive() == []
    (delivery,) = await other.receive(10, wait=0, visibility=30)
    assert delivery.task_id == task.id
    assert (await harness.queue.depth()).in_flight == 0
    assert (await other.depth()).in_flight == 1


# --- depth ----------------------------------------------------------------------------------


async def test_depth_follows_a_message_through_its_life(harness: Harness) -> None:
    async def depth_is(*expected: int) -> None:
        found = await harness.queue.depth()
        while not harness.promises.exact_depth and _numbers(found) != expected:
            await trio.sleep(0.01)  # until the harness gives up
            found = await harness.queue.depth()
        assert _numbers(found) == expected

    await depth_is(0, 0, 0)
    await harness.send(await harness.create(), delay=10)
    await harness.submit()
    await depth_is(2, 0, 0)
    first = await harness.receive_one()
    await depth_is(1, 1, 0)
    await extend(harness, first)
    await depth_is(1, 1, 0)
    await harness.lapse()
    first, second = await harness.receive(2)
    await depth_is(0, 2, 0)  # a lapsed lease that is taken again counts once
    await release(harness, first)
    await depth_is(1, 1, 0)
    await dead_letter(harness, second)
    await depth_is(1, 0, 1)
    await delete(harness, await harness.receive_one())
    await depth_is(0, 0, 1)


def _numbers(depth: QueueDepth) -> tuple[int, int, int]:
    return depth.waiting, depth.in_flight, depth.dead

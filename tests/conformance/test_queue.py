"""Sending, receiving, leases."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest

from task_queue_engine.backends.base import Delivery, Done, LeaseLost, Message, Rejected
from tests.conformance.bench import Bench, ids

# --- send and receive -----------------------------------------------------------------------


async def test_a_message_is_received_once(bench: Bench) -> None:
    task = bench.task()
    await bench.send(task)
    await bench.depth(waiting=1)

    (delivery,) = await bench.receive()

    assert delivery.task_id == task.id
    assert delivery.receive_count == 1
    assert delivery.receipt
    assert delivery.message_id
    assert await bench.nothing_visible()
    await bench.depth(in_flight=1)


async def test_nothing_to_receive(bench: Bench) -> None:
    assert await bench.queue.receive(10, wait=0, visibility=bench.lease) == []
    await bench.depth()


async def test_never_more_than_asked_for(bench: Bench) -> None:
    tasks = [bench.task() for _ in range(5)]
    await bench.send(*tasks)
    found = await bench.queue.receive(3, wait=0, visibility=bench.lease)
    assert 1 <= len(found) <= 3
    rest = await bench.receive(5 - len(found))
    assert sorted(ids(found + rest)) == sorted(ids(tasks))


async def test_messages_come_in_the_order_sent(bench: Bench) -> None:
    if not bench.can.ordered_messages:
        return
    tasks = [bench.task() for _ in range(6)]
    await bench.send(*tasks[:3])
    await bench.send(*tasks[3:])
    assert ids(await bench.receive(6)) == ids(tasks)


async def test_a_released_message_goes_to_the_end(bench: Bench) -> None:
    if not bench.can.ordered_messages:
        return
    first, second = bench.task(), bench.task()
    await bench.send(first, second)
    (delivery,) = await bench.receive()
    await bench.advance(1)
    await bench.release(delivery)
    assert ids(await bench.receive(2)) == [second.id, first.id]


async def test_one_task_may_have_several_messages(bench: Bench) -> None:
    task = bench.task()
    await bench.send(task)
    await bench.send(task)
    one, other = await bench.receive(2)
    assert one.task_id == other.task_id == task.id
    assert one.message_id != other.message_id
    assert await bench.delete(one) == Done()
    assert await bench.extend(other, bench.lease) == Done()


async def test_a_delayed_message_comes_when_its_time_has_come(bench: Bench) -> None:
    task = bench.task()
    await bench.send(task, delay=bench.lease)
    await bench.depth(waiting=1)
    assert await bench.nothing_visible()
    await bench.advance(bench.lease - 1)
    assert await bench.nothing_visible()
    await bench.advance(1)
    assert ids(await bench.receive()) == [task.id]


async def test_a_delay_that_cannot_be_is_rejected_and_its_neighbours_are_sent(
    bench: Bench,
) -> None:
    good, also_good = bench.task(), bench.task()
    bad = [-1.0, bench.queue.max_delay + 1, math.nan, math.inf]

    verdicts = await bench.queue.send(
        [
            Message(task=good),
            *[Message(task=bench.task(), delay=delay) for delay in bad],
            Message(task=also_good, delay=0.0),
        ]
    )

    assert [type(verdict) for verdict in verdicts] == [Done, *[Rejected] * len(bad), Done]
    assert sorted(ids(await bench.receive(2))) == sorted([good.id, also_good.id])
    assert await bench.nothing_visible()
    await bench.depth(in_flight=2)


async def test_a_message_may_be_delayed_as_long_as_the_queue_says(bench: Bench) -> None:
    await bench.send(bench.task(), delay=bench.queue.max_delay)
    assert await bench.nothing_visible()


async def test_nothing_asked_nothing_answered(bench: Bench) -> None:
    queue = bench.queue
    assert await queue.send([]) == []
    assert await queue.extend([], visibility=1) == []
    assert await queue.release([]) == []
    assert await queue.delete([]) == []
    assert await queue.dead_letter([]) == []
    assert await queue.delete_dead([]) == []


async def test_a_batch_of_the_largest_size(bench: Bench) -> None:
    count = bench.queue.max_batch
    await bench.send(*[bench.task() for _ in range(count)])
    deliveries = await bench.receive(count)
    assert len({delivery.message_id for delivery in deliveries}) == count
    assert await bench.queue.extend(deliveries, visibility=bench.lease) == [Done()] * count
    half = count // 2
    released = await bench.queue.release([(delivery, 0.0) for delivery in deliveries[:half]])
    deleted = await bench.queue.delete(deliveries[half:])
    assert released + deleted == [Done()] * count
    await bench.depth(waiting=half)


# --- leases ---------------------------------------------------------------------------------


async def test_a_message_comes_again_when_its_lease_ends(bench: Bench) -> None:
    await bench.send(bench.task())
    (first,) = await bench.receive()
    await bench.advance(bench.lease - 1)
    assert await bench.nothing_visible()
    await bench.advance(1)

    (second,) = await bench.receive()

    assert second.task_id == first.task_id
    assert second.message_id == first.message_id
    assert second.receipt != first.receipt
    assert second.receive_count == 2
    await bench.depth(in_flight=1)


async def test_extending_renews_from_now(bench: Bench) -> None:
    await bench.send(bench.task())
    (delivery,) = await bench.receive()
    await bench.advance(bench.lease - 1)
    assert await bench.extend(delivery, bench.lease) == Done()
    await bench.advance(bench.lease - 1)
    assert await bench.nothing_visible()
    await bench.advance(1)
    (again,) = await bench.receive()
    assert again.receive_count == 2


async def test_extending_may_shorten(bench: Bench) -> None:
    await bench.send(bench.task())
    (delivery,) = await bench.receive()
    assert await bench.extend(delivery, 1) == Done()
    await bench.advance(1)
    assert len(await bench.receive()) == 1


async def test_a_lease_that_ran_out_and_that_nobody_took_may_be_renewed(bench: Bench) -> None:
    await bench.send(bench.task())
    (delivery,) = await bench.receive()
    await bench.advance(bench.lease + 1)
    assert await bench.extend(delivery, bench.lease) == Done()
    assert await bench.nothing_visible()


async def test_released_it_is_there_at_once(bench: Bench) -> None:
    await bench.send(bench.task())
    (first,) = await bench.receive()
    assert await bench.release(first) == Done()
    await bench.depth(waiting=1)
    (second,) = await bench.receive()
    assert (second.message_id, second.receive_count) == (first.message_id, 2)


async def test_released_with_a_delay_it_waits(bench: Bench) -> None:
    await bench.send(bench.task())
    (first,) = await bench.receive()
    assert await bench.release(first, bench.lease) == Done()
    await bench.depth(waiting=1)
    await bench.advance(bench.lease - 1)
    assert await bench.nothing_visible()
    await bench.advance(1)
    assert len(await bench.receive()) == 1


async def test_deleted_it_never_comes_again(bench: Bench) -> None:
    await bench.send(bench.task())
    (delivery,) = await bench.receive()
    assert await bench.delete(delivery) == Done()
    await bench.depth()
    await bench.advance(bench.lease + 1)
    assert await bench.nothing_visible()


Operation = Callable[[Bench, Delivery], Awaitable[object]]

OPERATIONS: dict[str, Operation] = {
    "extend": lambda bench, delivery: bench.extend(delivery, bench.lease),
    "release": lambda bench, delivery: bench.release(delivery),
    "delete": lambda bench, delivery: bench.delete(delivery),
    "dead_letter": lambda bench, delivery: bench.bury(delivery),
}
every_operation = pytest.mark.parametrize("operate", OPERATIONS.values(), ids=OPERATIONS.keys())


@every_operation
async def test_a_stale_receipt_does_nothing(
    bench: Bench, operate: Operation, request: pytest.FixtureRequest
) -> None:
    await bench.send(bench.task())
    (stale,) = await bench.receive()
    await bench.advance(bench.lease)
    (current,) = await bench.receive()

    verdict = await operate(bench, stale)

    if bench.can.notices_stale_delete or "delete" not in request.node.name:
        assert verdict == LeaseLost()
    await bench.depth(in_flight=1)
    assert await bench.dead() == []
    assert await bench.nothing_visible()
    assert await bench.extend(current, bench.lease) == Done()


@every_operation
@pytest.mark.parametrize("how", ["released", "deleted", "dead-lettered"])
async def test_a_delivery_that_was_settled_is_stale(
    bench: Bench, operate: Operation, how: str
) -> None:
    if not bench.can.notices_stale_delete:
        return
    await bench.send(bench.task())
    (delivery,) = await bench.receive()
    if how == "released":
        await bench.release(delivery, bench.lease)
    elif how == "deleted":
        await bench.delete(delivery)
    else:
        await bench.bury(delivery)
    depth = await bench.queue.depth()

    assert await operate(bench, delivery) == LeaseLost()
    assert await bench.queue.depth() == depth


@every_operation
@pytest.mark.parametrize("receipt", ["", "x", "1", "1.", ".1", "1.x", "-1.1", "1.1.1", "9" * 30])
async def test_a_receipt_that_was_never_given_out_holds_nothing(
    bench: Bench, operate: Operation, receipt: str
) -> None:
    await bench.send(bench.task())
    (good,) = await bench.receive()
    bad = Delivery(
        task_id=good.task_id, message_id=good.message_id, receipt=receipt, receive_count=1
    )

    assert await operate(bench, bad) != Done()
    await bench.depth(in_flight=1)
    assert await bench.extend(good, bench.lease) == Done()


async def test_a_bad_item_does_not_fail_its_neighbours(bench: Bench) -> None:
    await bench.send(*[bench.task() for _ in range(8)])
    deliveries = await bench.receive(8)
    nonsense = Delivery(task_id="t", message_id="no number", receipt="none", receive_count=1)

    extended = await bench.queue.extend([deliveries[0], nonsense, deliveries[1]], visibility=60)
    released = await bench.queue.release(
        [(deliveries[2], 0.0), (nonsense, 0.0), (deliveries[3], -1.0), (deliveries[3], 0.0)]
    )
    deleted = await bench.queue.delete([deliveries[4], nonsense, deliveries[5]])
    buried = await bench.queue.dead_letter(
        [bench.burial(delivery) for delivery in (deliveries[6], nonsense, deliveries[7])]
    )

    assert _done(extended) == [True, False, True]
    assert _done(released) == [True, False, False, True]
    assert isinstance(released[2], Rejected)
    assert _done(deleted) == [True, False, True]
    assert _done(buried) == [True, False, True]
    await bench.depth(waiting=2, in_flight=2, dead=2)


async def test_one_delivery_twice_in_a_batch_counts_once(bench: Bench) -> None:
    if not bench.can.notices_stale_delete:
        return
    await bench.send(bench.task(), bench.task(), bench.task())
    one, two, three = await bench.receive(3)
    assert await bench.queue.delete([one, one]) == [Done(), LeaseLost()]
    assert await bench.queue.release([(two, 1.0), (two, 1.0)]) == [Done(), LeaseLost()]
    burials = [bench.burial(three), bench.burial(three)]
    assert await bench.queue.dead_letter(burials) == [Done(), LeaseLost()]
    await bench.depth(waiting=1, dead=1)


def _done(verdicts: list[object]) -> list[bool]:
    return [verdict == Done() for verdict in verdicts]


# --- several queues -------------------------------------------------------------------------


async def test_queues_of_other_names_are_kept_apart(bench: Bench) -> None:
    other = bench.backend.queue("other")
    assert (bench.queue.name, other.name) == ("default", "other")
    assert bench.backend.queue("other") is other
    here, there = bench.task(), bench.task(queue="other")
    await bench.send(here)
    await other.send([Message(task=there)])

    assert ids(await bench.receive()) == [here.id]
    assert await bench.nothing_visible()
    (delivery,) = await other.receive(10, wait=0, visibility=bench.lease)
    assert delivery.task_id == there.id
    await bench.depth(in_flight=1)
    await other.dead_letter([bench.burial(delivery)])
    await bench.depth(in_flight=1)
    assert await bench.dead() == []
    assert await bench.queue.take_dead(limit=10) == []
    assert await bench.queue.purge_dead() == 0
    (letter,) = (await other.list_dead(limit=10)).letters
    assert await bench.queue.take_dead(limit=10, ids=[letter.id]) == []
    assert await bench.queue.delete_dead([letter]) != [Done()]
    assert (await other.list_dead(limit=10)).letters == (letter,)


@every_operation
async def test_a_receipt_of_another_queue_holds_nothing(bench: Bench, operate: Operation) -> None:
    other = bench.backend.queue("other")
    await bench.send(bench.task())
    await bench.receive()
    await other.send([Message(task=bench.task(queue="other"))])
    (foreign,) = await other.receive(1, wait=0, visibility=bench.lease)

    assert await operate(bench, foreign) != Done()

    await bench.depth(in_flight=1)
    assert await bench.dead() == []
    assert await other.extend([foreign], visibility=bench.lease) == [Done()]

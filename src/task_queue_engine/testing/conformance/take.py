"""`Steps.take`: received, leased, and claimed where queue and store are one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from task_queue_engine.backends.base import Done, Message, NewTask, Steps, Taken, TakePlan
from task_queue_engine.lifecycle import (
    ClaimRequest,
    Row,
    ScheduleRetry,
    Started,
    decide_claim,
)
from task_queue_engine.task import TaskError, TaskStatus
from task_queue_engine.testing.conformance.harness import Harness
from task_queue_engine.testing.conformance.needs import needs

ERROR = TaskError(type="ValueError", message="no", traceback="Traceback ...")
TYPES = {"email": "here", "export": "there"}
SHORT = frozenset({"email"})


def steps_of(harness: Harness) -> Steps:
    return harness.backend.steps("default")


async def take(harness: Harness, free: int = 1, ahead: int = 0, **fields: Any) -> list[Taken]:
    plan: dict[str, Any] = {"worker": "host:1", "free": free, "ahead": ahead}
    plan |= {"types": TYPES, "ahead_types": SHORT}
    return await steps_of(harness).take(
        TakePlan(**plan | fields), wait=0, visibility=harness.visibility
    )


def ids(taken: Sequence[Taken]) -> list[str]:
    return [one.delivery.task_id for one in taken]


def started(taken: Sequence[Taken]) -> list[str]:
    return [one.started.task.id for one in taken if one.started is not None]


async def counts(harness: Harness, **expected: int) -> None:
    counted = await harness.store.counts()
    found = {status.value.lower(): getattr(counted, status.value.lower()) for status in TaskStatus}
    assert found == dict.fromkeys(found, 0) | expected


async def test_it_says_whether_a_step_is_one_transaction(harness: Harness) -> None:
    promised = harness.promises.steps_are_one_transaction
    assert steps_of(harness).is_one_transaction is promised
    assert steps_of(harness).max_batch >= 1


async def test_take_leases_as_a_receive_does(harness: Harness) -> None:
    submitted = await harness.submit()
    (taken,) = await take(harness, types={})
    assert (taken.started, taken.ahead) == (None, False)
    delivery = taken.delivery
    assert (delivery.task_id, delivery.receive_count) == (submitted.id, 1)
    assert await take(harness) == []
    assert isinstance(await harness.claim(delivery), Started)


async def test_take_waits_for_a_message(harness: Harness) -> None:
    found: list[Taken] = []

    async def wait() -> None:
        plan = TakePlan(worker="w", free=1, types=TYPES)
        found.extend(await steps_of(harness).take(plan, wait=5, visibility=harness.visibility))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(0.05)  # for it to wait; that it found the message at once does no harm
        task = await harness.submit()
    assert ids(found) == [task.id]


async def test_it_takes_no_more_than_the_plan_has_places_for(harness: Harness) -> None:
    for _ in range(3):
        await harness.submit()
    assert len(await take(harness, 1, 1)) == 2
    assert len(await take(harness, 3)) == 1


@needs("steps_are_one_transaction")
async def test_what_it_claims_is_claimed_as_by_a_claim(harness: Harness) -> None:
    task = await harness.submit(max_attempts=5, timeout_seconds=12.5, payload={"n": [1.5, "☃"]})
    await harness.advance(2)
    (taken,) = await take(harness)
    delivery = taken.delivery
    request = ClaimRequest(
        task_id=task.id,
        message_id=delivery.message_id,
        receive_count=delivery.receive_count,
        worker="host:1",
    )
    assert taken.started == decide_claim(Row(task=task), request, harness.now())[0]
    assert taken.started == Started(await harness.get(task.id))
    # The delivery is the owner, and its lease is kept as any other's.
    (again,) = await harness.store.claim([request])
    assert not isinstance(again, Started)
    assert await harness.queue.extend([delivery], visibility=60) == [Done()]
    assert await harness.queue.delete([delivery]) == [Done()]


@needs("steps_are_one_transaction")
async def test_a_retried_task_is_claimed_with_all_that_is_known_of_it(harness: Harness) -> None:
    task, delivery = await harness.start(max_attempts=5)
    retry = ScheduleRetry(
        task_id=task.id, attempt=1, error=ERROR, run_at=harness.later(5), scheduled=True
    )
    await harness.store.record([retry])
    await harness.queue.delete([delivery])
    await harness.advance(5)
    await harness.send(task)
    (taken,) = await take(harness)
    assert taken.started == Started(await harness.get(task.id))
    assert taken.started is not None
    found = taken.started.task
    assert (found.attempt, found.retry_count, found.error) == (2, 1, ERROR)
    # It is no longer the scheduler's.
    assert await harness.store.due("default", before=harness.later(10**6), limit=10) == []


@needs("steps_are_one_transaction")
async def test_it_keeps_their_order_and_counts(harness: Harness) -> None:
    tasks = [await harness.submit() for _ in range(5)]
    taken = await take(harness, 2, 2)
    assert ids(taken) == started(taken) == [task.id for task in tasks[:4]]
    assert [one.ahead for one in taken] == [False, False, True, True]
    await counts(harness, pending=1, processing=4)
    depth = await harness.queue.depth()
    assert (depth.waiting, depth.in_flight) == (1, 4)


@needs("steps_are_one_transaction")
async def test_what_has_no_place_stays_on_the_queue_with_all_behind_it(harness: Harness) -> None:
    types = ["email", "email", "export", "email"]
    tasks = [await harness.submit(type=name) for name in types]
    taken = await take(harness, 1, 3)
    assert ids(taken) == [task.id for task in tasks[:2]]
    assert (await harness.queue.depth()).waiting == 2
    # A free worker takes it, whatever its type.
    assert ids(await take(harness, 1)) == [tasks[2].id]


@needs("steps_are_one_transaction")
async def test_where_nothing_has_a_place_it_says_so_at_once(harness: Harness) -> None:
    """Without waiting for more, which would come behind it."""
    task = await harness.submit(type="export")
    plan = TakePlan(worker="w", free=0, ahead=3, types=TYPES, ahead_types=SHORT)
    with trio.fail_after(5):
        found = await steps_of(harness).take(plan, wait=3600, visibility=harness.visibility)
    assert found == []
    assert ids(await take(harness, 1)) == [task.id]


@needs("steps_are_one_transaction")
async def test_of_a_type_it_was_not_told_it_claims_nothing(harness: Harness) -> None:
    first, known, other = [
        await harness.submit(type=name) for name in ("unknown", "email", "unknown")
    ]
    taken = await take(harness, 2, 5)
    assert ids(taken) == [first.id, known.id]
    assert started(taken) == [known.id]
    await counts(harness, pending=2, processing=1)
    assert ids(await take(harness, 1)) == [other.id]
    # What it could not run may be looked at before its claim.
    assert taken[0].delivery.task_type == "unknown"
    assert taken[0].delivery.payload_json


@needs("steps_are_one_transaction")
async def test_it_claims_no_more_than_may_run_in_a_place(harness: Harness) -> None:
    types = ["export", "export", "email", "export"]
    tasks = [await harness.submit(type=name) for name in types]
    taken = await take(harness, 3, places={"there": 1})
    assert ids(taken) == started(taken) == [tasks[0].id, tasks[2].id]
    # Nor ahead.
    ahead = {"ahead_types": frozenset(TYPES)}
    assert await take(harness, 0, 5, places={"there": 0}, **ahead) == []
    assert started(await take(harness, 0, 5, places={"there": 1}, **ahead)) == [tasks[1].id]
    # What was left has not been received.
    (last,) = await take(harness, 1)
    assert (last.delivery.task_id, last.delivery.receive_count) == (tasks[3].id, 1)


@needs("steps_are_one_transaction")
async def test_what_has_lost_its_place_to_another_of_the_take_makes_room_for_what_lies_behind(
    harness: Harness,
) -> None:
    types = ["export", "export", "email", "export", "email", "email"]
    tasks = [await harness.submit(type=name) for name in types]
    taken = await take(harness, 3, places={"there": 1})
    assert ids(taken) == started(taken) == [tasks[n].id for n in (0, 2, 4)]
    assert ids(await take(harness, 3, places={"there": 0})) == [tasks[5].id]


@needs("steps_are_one_transaction")
async def test_what_can_start_is_found_behind_any_number_that_cannot(harness: Harness) -> None:
    """More of them than one batch has, and than one look goes through."""
    full: dict[str, Any] = {"places": {"there": 0}}
    number = 2500
    for _ in range(number // 50):
        batch = [NewTask(task=harness.make_task(type="export")) for _ in range(50)]
        await harness.backend.submit(batch)
    first, second = [await harness.submit(type="email") for _ in range(2)]
    unknown = await harness.submit(type="unknown")
    assert ids(await take(harness, 1, **full)) == [first.id]
    assert ids(await take(harness, 0, 1, **full)) == [second.id]
    assert ids(await take(harness, 1, **full)) == [unknown.id]
    assert await take(harness, 1, **full) == []
    depth = await harness.queue.depth()
    assert (depth.waiting, depth.in_flight) == (number, 3)
    # With a place for one of them: the one that has waited for longest.
    found = await take(harness, 2, places={"there": 1})
    assert len(found) == 1
    assert found[0].delivery.receive_count == 1
    later = await harness.submit(type="email")
    assert ids(await take(harness, 1, **full)) == [later.id]


@needs("steps_are_one_transaction")
async def test_a_take_that_passes_what_is_there_waits_for_what_can_start(harness: Harness) -> None:
    await harness.submit(type="export")
    found: list[Taken] = []
    plan = TakePlan(worker="w", free=1, types=TYPES, places={"there": 0})

    async def wait() -> None:
        found.extend(await steps_of(harness).take(plan, wait=30, visibility=harness.visibility))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.05)  # for it to wait; that it found the message at once does no harm
            task = await harness.submit(type="email")
    assert ids(found) == [task.id]


@needs("steps_are_one_transaction")
async def test_a_message_received_before_is_leased_and_not_claimed(harness: Harness) -> None:
    """Its receive count says something, which `claim` looks at."""
    task = await harness.submit()
    await harness.receive_one()
    await harness.lapse()
    (taken,) = await take(harness)
    assert (taken.delivery.task_id, taken.delivery.receive_count) == (task.id, 2)
    assert (taken.started, taken.ahead) == (None, False)
    assert (await harness.get(task.id)).status is TaskStatus.PENDING
    assert isinstance(await harness.claim(taken.delivery), Started)


@needs("steps_are_one_transaction")
async def test_what_is_not_pending_and_due_is_leased_and_not_claimed(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.send(running)
    cancelled = await harness.submit()
    await harness.store.cancel([cancelled.id])
    early = await harness.submit(run_at=harness.later(5))
    missing = harness.make_task()
    await harness.send(missing)
    taken = await take(harness, 10)
    assert ids(taken) == [running.id, cancelled.id, early.id, missing.id]
    assert started(taken) == []
    await counts(harness, pending=1, processing=1, cancelled=1)
    assert await harness.get(running.id) == running


@needs("steps_are_one_transaction")
async def test_of_two_messages_of_one_task_one_starts_it(harness: Harness) -> None:
    task = await harness.submit()
    await harness.send(task)
    taken = await take(harness, 2)
    assert ids(taken) == [task.id] * 2
    assert [one.started is not None for one in taken] == [True, False]
    assert (await harness.get(task.id)).attempt == 1


@needs("steps_are_one_transaction")
async def test_a_last_chance_is_not_claimed_ahead(harness: Harness) -> None:
    task = await harness.submit(max_attempts=1)
    (taken,) = await take(harness, 0, 1)
    assert (taken.delivery.task_id, taken.started, taken.ahead) == (task.id, None, False)
    assert (await harness.get(task.id)).status is TaskStatus.PENDING


@needs("steps_are_one_transaction")
@pytest.mark.parametrize("ahead", [True, False])
async def test_a_lapse_of_what_was_claimed_ahead_costs_nothing(
    harness: Harness, ahead: bool
) -> None:
    task = await harness.submit()
    (taken,) = await take(harness, 0 if ahead else 1, 1)
    assert taken.ahead is ahead
    assert taken.started is not None
    await harness.lapse()
    verdict = await harness.claim(await harness.receive_one())
    assert isinstance(verdict, Started)
    assert verdict.takeover
    assert (await harness.get(task.id)).retry_count == (0 if ahead else 1)


@needs("steps_are_one_transaction")
async def test_a_large_payload_is_claimed_whole(harness: Harness) -> None:
    task = await harness.submit(payload={"text": "x" * 5000})
    (taken,) = await take(harness)
    assert taken.started is not None
    assert taken.started.task.payload == task.payload


async def test_a_message_may_be_taken_while_its_task_is_on_another_queue(
    harness: Harness,
) -> None:
    """A message names a task, and no more: redriven by hand it may stand anywhere."""
    task = await harness.create(queue="other")
    await harness.queue.send([Message(task=task)])
    (taken,) = await take(harness)
    assert taken.delivery.task_id == task.id

"""`Steps.take`: an action on many tasks is taken before all that waits, where an order can be
chosen (docs/adr/0047)."""

from __future__ import annotations

from typing import Any

import pytest

from task_queue_engine.backends.base import Message
from task_queue_engine.lifecycle import ScheduleSnooze, Started
from task_queue_engine.task_actions import ACTION_TYPE
from task_queue_engine.testing.conformance.harness import Harness
from task_queue_engine.testing.conformance.needs import needs
from task_queue_engine.testing.conformance.take import (
    TYPES,
    ids,
    started,
    take,
)

WITH_ACTIONS: dict[str, Any] = {"types": TYPES | {ACTION_TYPE: "here"}}


async def backlog(harness: Harness, number: int = 3, **fields: Any) -> list[str]:
    """After a take that has found no action."""
    await harness.submit()
    (taken,) = await take(harness, **WITH_ACTIONS)
    await harness.queue.delete([taken.delivery])
    waiting = [(await harness.submit(**fields)).id for _ in range(number)]
    await harness.advance(2)
    return waiting


@needs("steps_are_one_transaction")
async def test_an_action_is_taken_before_all_that_waits(harness: Harness) -> None:
    waiting = await backlog(harness)
    action = await harness.submit(type=ACTION_TYPE)
    oldest = (await harness.queue.depth()).oldest_age
    assert oldest == pytest.approx(2, abs=0.5), "and is not older for that"
    taken = await take(harness, 2, **WITH_ACTIONS)
    assert started(taken) == ids(taken) == [action.id, waiting[0]]
    assert [one.ahead for one in taken] == [False, False]
    assert (await harness.get(action.id)).attempt == 1
    assert ids(await take(harness, 5, **WITH_ACTIONS)) == waiting[1:]


@needs("steps_are_one_transaction")
async def test_an_action_waits_for_a_free_worker_with_all_behind_it(harness: Harness) -> None:
    """Else what is short would be claimed ahead for ever."""
    await backlog(harness)
    action = await harness.submit(type=ACTION_TYPE)
    for _ in range(2):
        assert await take(harness, 0, 3, **WITH_ACTIONS) == []
    assert ids(await take(harness, 1, **WITH_ACTIONS)) == [action.id]


@needs("steps_are_one_transaction")
async def test_an_action_that_rests_leaves_others_their_turn_and_comes_first_then(
    harness: Harness,
) -> None:
    waiting = await backlog(harness, 5)
    action = await harness.submit(type=ACTION_TYPE)
    (taken,) = await take(harness, **WITH_ACTIONS)
    snooze = ScheduleSnooze(task_id=action.id, attempt=1, run_at=harness.later(10), scheduled=False)
    await harness.store.record([snooze])
    await harness.queue.release([(taken.delivery, 10)])
    assert ids(await take(harness, 1, **WITH_ACTIONS)) == waiting[:1]
    await harness.advance(5)
    assert ids(await take(harness, 1, **WITH_ACTIONS)) == waiting[1:2]
    await harness.advance(5)
    assert ids(await take(harness, 1, **WITH_ACTIONS)) == [action.id]


@needs("steps_are_one_transaction")
async def test_an_action_whose_worker_has_died_comes_first_again(harness: Harness) -> None:
    """Its message is visible since the end of its lease, after all that waits."""
    waiting = await backlog(harness)
    action = await harness.submit(type=ACTION_TYPE)
    assert ids(await take(harness, **WITH_ACTIONS)) == [action.id]
    await harness.advance(harness.visibility - 2)
    assert ids(await take(harness, **WITH_ACTIONS)) == waiting[:1], "it is still held"
    await harness.advance(3)
    (taken,) = await take(harness, **WITH_ACTIONS)
    assert (taken.delivery.task_id, taken.delivery.receive_count) == (action.id, 2)
    assert isinstance(await harness.claim(taken.delivery), Started)


@needs("steps_are_one_transaction")
async def test_an_action_is_taken_before_what_has_no_place(harness: Harness) -> None:
    waiting = await backlog(harness, 300, type="export")
    email = await harness.submit()
    action = await harness.submit(type=ACTION_TYPE)
    full: dict[str, Any] = WITH_ACTIONS | {
        "places": {"there": 0},
        "types": {"export": "there", "email": "elsewhere", ACTION_TYPE: "here"},
    }
    assert ids(await take(harness, 1, **full)) == [action.id]
    assert ids(await take(harness, 1, **full)) == [email.id]
    assert ids(await take(harness, 1, **WITH_ACTIONS)) == waiting[:1]


@needs("steps_are_one_transaction")
async def test_an_action_that_is_not_to_run_is_taken_in_its_turn(harness: Harness) -> None:
    """By a worker that knows no actions; of another queue; one that has ended, by its message."""
    waiting = await backlog(harness, 2)
    other = await harness.create(type=ACTION_TYPE, queue="other")
    await harness.backend.queue("other").send([Message(task=other)])
    ended = await harness.submit(type=ACTION_TYPE)
    await harness.store.cancel([ended.id])
    assert ids(await take(harness, 1, **WITH_ACTIONS)) == waiting[:1]
    action = await harness.submit(type=ACTION_TYPE)
    assert ids(await take(harness, 1)) == waiting[1:]
    assert ids(await take(harness, 5, **WITH_ACTIONS)) == [action.id, ended.id]

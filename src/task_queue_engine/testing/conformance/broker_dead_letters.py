"""Tasks whose message the broker itself has moved to the dead-letter queue."""

from __future__ import annotations

import pytest

from task_queue_engine.lifecycle import (
    DEAD_LETTERED_ERROR_TYPE,
    BrokerDeadLetter,
    Complete,
    Fenced,
    Recorded,
    ScheduleRetry,
)
from task_queue_engine.task import Task, TaskError, TaskStatus, new_task_id
from task_queue_engine.testing.conformance.harness import Harness

REASON = "received 3 times and never settled"


async def moved(harness: Harness, task: Task, message_id: str = "a-message") -> object:
    item = BrokerDeadLetter(task_id=task.id, message_id=message_id, reason=REASON)
    (verdict,) = await harness.store.fail_dead_lettered([item])
    return verdict


async def test_one_that_never_started_fails_with_the_reason(harness: Harness) -> None:
    task = await harness.create()
    assert await moved(harness, task) == Recorded(TaskStatus.FAILED)
    found = await harness.get(task.id)
    assert (found.status, found.retry_count, found.attempt) == (TaskStatus.FAILED, 0, 0)
    assert found.error == TaskError(type=DEAD_LETTERED_ERROR_TYPE, message=REASON)
    assert found.finished_at == harness.now()
    counts = await harness.store.counts()
    assert (counts.pending, counts.failed) == (0, 1)


async def test_a_running_one_fails_with_its_own_message_alone(harness: Harness) -> None:
    running, delivery = await harness.start()
    assert await moved(harness, running, "another-message") == Fenced()
    assert await harness.get(running.id) == running

    assert await moved(harness, running, delivery.message_id) == Recorded(TaskStatus.FAILED)

    found = await harness.get(running.id)
    assert (found.status, found.retry_count) == (TaskStatus.FAILED, 1)
    assert found.error is not None
    assert found.error.message == REASON
    late = Complete(task_id=running.id, attempt=running.attempt, result=1)
    assert await harness.store.record([late]) == [Fenced()]


async def test_one_that_was_to_be_cancelled_is_cancelled(harness: Harness) -> None:
    running, delivery = await harness.start()
    await harness.store.cancel([running.id])
    assert await moved(harness, running, delivery.message_id) == Recorded(TaskStatus.CANCELLED)


@pytest.mark.parametrize("scheduled", [False, True])
async def test_one_that_waits_for_its_retry_has_another_message(
    harness: Harness, scheduled: bool
) -> None:
    running, delivery = await harness.start()
    retry = ScheduleRetry(
        task_id=running.id,
        attempt=running.attempt,
        error=TaskError(type="ValueError", message="no"),
        run_at=harness.later(60),
        scheduled=scheduled,
    )
    await harness.store.record([retry])
    assert await moved(harness, running, delivery.message_id) == Fenced()
    if scheduled:  # and for as long as the scheduler has not sent it
        await harness.advance(61)
        assert await moved(harness, running, delivery.message_id) == Fenced()


async def test_nothing_is_changed_about_what_has_ended_or_is_not_there(harness: Harness) -> None:
    task = await harness.create()
    await harness.store.cancel([task.id])
    ended = await harness.get(task.id)
    assert await moved(harness, ended) == Fenced()
    assert await harness.get(task.id) == ended
    assert await moved(harness, harness.make_task(id=new_task_id())) == Fenced()


async def test_a_batch_answers_item_by_item(harness: Harness) -> None:
    one, other = await harness.create(), await harness.create()
    items = [
        BrokerDeadLetter(task_id=task_id, message_id="m", reason=REASON)
        for task_id in (one.id, new_task_id(), other.id)
    ]
    failed = Recorded(TaskStatus.FAILED)
    assert await harness.store.fail_dead_lettered(items) == [failed, Fenced(), failed]


async def test_a_broker_that_moved_nothing_has_none(harness: Harness) -> None:
    await harness.submit()
    assert list(await harness.queue.dead_letters.moved_by_broker()) == []

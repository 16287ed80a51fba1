"""Waits that live in the store: due tasks, and what sends them."""

from __future__ import annotations

from task_queue_engine.backends.base import Created, NewTask
from task_queue_engine.lifecycle import NotDue, ScheduleRetry, ScheduleSnooze, Started
from task_queue_engine.task import TaskError, new_task_id
from task_queue_engine.testing.conformance.harness import Harness

ERROR = TaskError(type="ValueError", message="no")
DAY = 24 * 3600.0


async def due(harness: Harness, *, limit: int = 10) -> list[str]:
    return [task.id for task in await harness.store.due(before=harness.now(), limit=limit)]


async def test_a_scheduled_task_is_due_at_its_time_and_not_before(harness: Harness) -> None:
    run_at = harness.later(30 * DAY)
    task = harness.make_task(run_at=run_at)
    assert await harness.store.create([NewTask(task=task, due_at=run_at)]) == [Created()]

    await harness.advance(30 * DAY - 1)
    assert await due(harness) == []
    await harness.advance(1)
    assert await harness.store.due(before=harness.now(), limit=10) == [task]


async def test_earliest_first_up_to_the_limit(harness: Harness) -> None:
    tasks = {}
    for seconds in (300, 100, 200):
        tasks[seconds] = await harness.create()
        await harness.store.schedule([(tasks[seconds].id, harness.later(seconds))])
    await harness.advance(1000)
    assert await due(harness) == [tasks[100].id, tasks[200].id, tasks[300].id]
    assert await due(harness, limit=2) == [tasks[100].id, tasks[200].id]


async def test_a_task_that_was_sent_is_no_longer_due(harness: Harness) -> None:
    task = await harness.create()
    await harness.store.schedule([(task.id, harness.now())])
    assert await due(harness) == [task.id]
    await harness.store.schedule([(task.id, None)])
    assert await due(harness) == []


async def test_a_task_that_starts_is_no_longer_due(harness: Harness) -> None:
    """Sent, and the process died before it could say so: the start settles it."""
    task = await harness.submit()
    await harness.store.schedule([(task.id, harness.now())])
    assert isinstance(await harness.claim(await harness.receive_one()), Started)
    assert await due(harness) == []
    await harness.advance(DAY)
    assert await due(harness) == []


async def test_only_pending_tasks_are_scheduled(harness: Harness) -> None:
    running, _ = await harness.start()
    cancelled = await harness.create()
    await harness.store.cancel([cancelled.id])
    await harness.store.schedule(
        [(running.id, harness.now()), (cancelled.id, harness.now()), (new_task_id(), None)]
    )
    assert await due(harness) == []


async def test_a_long_retry_lives_in_the_store(harness: Harness) -> None:
    running, delivery = await harness.start()
    run_at = harness.later(DAY)
    await harness.store.record(
        [ScheduleRetry(task_id=running.id, attempt=1, error=ERROR, run_at=run_at, scheduled=True)]
    )
    await harness.queue.delete([delivery])

    await harness.advance(DAY - 1)
    assert await due(harness) == []
    await harness.advance(1)
    assert await due(harness) == [running.id]

    await harness.send(await harness.get(running.id))
    started = await harness.claim(await harness.receive_one())
    assert isinstance(started, Started)
    assert started.task.retry_count == 1
    assert await due(harness) == []


async def test_a_short_retry_does_not(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.record(
        [
            ScheduleRetry(
                task_id=running.id,
                attempt=1,
                error=ERROR,
                run_at=harness.later(1),
                scheduled=False,
            )
        ]
    )
    await harness.advance(DAY)
    assert await due(harness) == []


async def test_a_long_snooze_lives_in_the_store(harness: Harness) -> None:
    running, delivery = await harness.start()
    run_at = harness.later(DAY)
    await harness.store.record(
        [ScheduleSnooze(task_id=running.id, attempt=1, run_at=run_at, scheduled=True)]
    )
    await harness.lapse()
    again = await harness.receive_one()
    assert again.message_id == delivery.message_id
    assert await harness.claim(again) == NotDue(run_at)
    await harness.advance(DAY)
    assert await due(harness) == [running.id]

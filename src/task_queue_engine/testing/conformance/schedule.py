"""Waits that live in the store: due tasks, and what sends them."""

from __future__ import annotations

from task_queue_engine.backends.base import Created, DueChange, DueTask, NewTask
from task_queue_engine.lifecycle import (
    MESSAGE_REFUSED_ERROR_TYPE,
    Fenced,
    Finished,
    NotDue,
    PendingFailure,
    Recorded,
    ScheduleRetry,
    ScheduleSnooze,
    Started,
)
from task_queue_engine.task import TaskError, TaskStatus, new_task_id
from task_queue_engine.testing.conformance.harness import Harness

ERROR = TaskError(type="ValueError", message="no")
DAY = 24 * 3600.0


async def due(harness: Harness, *, limit: int = 10) -> list[str]:
    name = harness.queue.name
    found = await harness.store.due(name, before=harness.now(), limit=limit)
    return [each.task.id for each in found]


async def test_a_scheduled_task_is_due_at_its_time_and_not_before(harness: Harness) -> None:
    run_at = harness.later(30 * DAY)
    task = harness.make_task(run_at=run_at)
    assert await harness.store.create([NewTask(task=task, due_at=run_at)]) == [Created()]

    await harness.advance(30 * DAY - 1)
    assert await due(harness) == []
    await harness.advance(1)
    found = await harness.store.due(harness.queue.name, before=harness.now(), limit=10)
    assert found == [DueTask(task, run_at)]


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
    mark = harness.now()
    await harness.store.schedule([(task.id, mark)])
    assert await due(harness) == [task.id]
    assert await harness.store.change_due([DueChange(task.id, mark, None)]) == [True]
    assert await due(harness) == []


async def test_what_is_due_on_other_queues_is_not_in_the_way(harness: Harness) -> None:
    """However many there are, and however long they have been due."""
    others = [harness.make_task(queue="other") for _ in range(7)]
    await harness.store.create([NewTask(task=each, due_at=harness.now()) for each in others])
    await harness.advance(10)
    mine = [await harness.create() for _ in range(3)]
    await harness.store.schedule([(each.id, harness.now()) for each in mine])

    for _ in range(2):  # what the first look has learnt does not mislead the second
        found: set[str] = set()
        while new := set(await due(harness, limit=2)) - found:
            found |= new
            await harness.store.change_due(
                [DueChange(id_, harness.now(), harness.later(0.5)) for id_ in new]
            )
        assert found == {each.id for each in mine}
        await harness.advance(0.5)
    of_other = await harness.store.due("other", before=harness.now(), limit=100)
    assert {each.task.id for each in of_other} == {each.id for each in others}


async def test_of_several_that_claim_a_mark_one_succeeds(harness: Harness) -> None:
    task = await harness.create()
    mark, claimed_until = harness.now(), harness.later(60)
    await harness.store.schedule([(task.id, mark)])
    claim = DueChange(task.id, mark, claimed_until)
    answers = [await harness.store.change_due([claim]) for _ in range(3)]
    assert answers == [[True], [False], [False]]
    assert await due(harness) == []
    await harness.advance(60)
    assert await due(harness) == [task.id], "its sender died"


async def test_a_newer_mark_is_never_wiped_out(harness: Harness) -> None:
    """A sender that was slow clears the mark it has sent for: meanwhile the task has run, and waits
    in the store for its retry."""
    task = await harness.submit()
    old = harness.now()
    await harness.store.schedule([(task.id, old)])
    started = await harness.claim(await harness.receive_one())
    assert isinstance(started, Started)
    run_at = harness.later(DAY)
    retry = ScheduleRetry(task_id=task.id, attempt=1, error=ERROR, run_at=run_at, scheduled=True)
    await harness.store.record([retry])

    assert await harness.store.change_due([DueChange(task.id, old, None)]) == [False]

    await harness.advance(DAY)
    assert await due(harness) == [task.id]


async def test_a_mark_for_what_has_none(harness: Harness) -> None:
    waiting = await harness.create()
    running, _ = await harness.start()
    ids = (waiting.id, running.id, new_task_id())
    changes = [DueChange(id_, None, harness.now()) for id_ in ids]
    assert await harness.store.change_due(changes) == [True, False, False]
    assert await due(harness) == [waiting.id]
    assert await harness.store.change_due(changes) == [False, False, False]


async def test_changing_no_marks(harness: Harness) -> None:
    assert await harness.store.change_due([]) == []


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
        [(id_, harness.now()) for id_ in (running.id, cancelled.id, new_task_id())]
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


# --- what can never be sent -----------------------------------------------------------------

REFUSED = TaskError(type=MESSAGE_REFUSED_ERROR_TYPE, message="the message is too large")


async def test_a_task_that_can_never_be_sent_fails_with_the_reason(harness: Harness) -> None:
    task = await harness.create()
    await harness.store.schedule([(task.id, harness.now())])
    failure = PendingFailure(task_id=task.id, attempt=0, error=REFUSED)
    for _ in range(2):  # the second time its answer had been lost
        assert await harness.store.fail_pending([failure]) == [Recorded(TaskStatus.FAILED)]
    found = await harness.get(task.id)
    assert (found.status, found.retry_count, found.attempt) == (TaskStatus.FAILED, 0, 0)
    assert found.error == REFUSED
    assert found.finished_at == harness.now()
    assert await due(harness) == []
    counts = await harness.store.counts()
    assert (counts.pending, counts.failed) == (0, 1)


async def test_one_that_has_started_by_another_message_goes_on(harness: Harness) -> None:
    running, _ = await harness.start()
    failure = PendingFailure(task_id=running.id, attempt=0, error=REFUSED)
    assert await harness.store.fail_pending([failure]) == [Fenced()]
    of_it = PendingFailure(task_id=running.id, attempt=1, error=REFUSED)
    assert await harness.store.fail_pending([of_it]) == [Fenced()]
    assert await harness.get(running.id) == running


async def test_what_is_finished_or_unknown_does_not_fail(harness: Harness) -> None:
    task = await harness.submit()
    await harness.store.cancel([task.id])
    failures = [
        PendingFailure(task_id=id_, attempt=0, error=REFUSED) for id_ in (task.id, new_task_id())
    ]
    assert await harness.store.fail_pending(failures) == [Fenced(), Fenced()]
    assert await harness.store.fail_pending([]) == []


async def test_a_late_message_of_a_task_that_failed_so_is_done_with(harness: Harness) -> None:
    task = await harness.submit()
    await harness.store.fail_pending([PendingFailure(task_id=task.id, attempt=0, error=REFUSED)])
    assert await harness.claim(await harness.receive_one()) == Finished(TaskStatus.FAILED)

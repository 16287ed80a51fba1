"""Counts are exact after every kind of change, and changes that change nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from task_queue_engine.backends.base import Counts, ListQuery, NewTask
from task_queue_engine.lifecycle import (
    Cancel,
    Complete,
    Fail,
    Interrupt,
    Progress,
    ScheduleRetry,
    ScheduleSnooze,
)
from task_queue_engine.task import Task, TaskError, TaskStatus
from task_queue_engine.testing.conformance.harness import Harness

ERROR = TaskError(type="ValueError", message="no")

Step = Callable[[Harness, Task], Awaitable[object]]

FROM_PROCESSING: dict[str, tuple[Step, Counts]] = {
    "complete": (
        lambda h, t: h.store.record([Complete(task_id=t.id, attempt=1, result=None)]),
        Counts(completed=1),
    ),
    "fail": (
        lambda h, t: h.store.record([Fail(task_id=t.id, attempt=1, error=ERROR)]),
        Counts(failed=1),
    ),
    "retry": (
        lambda h, t: h.store.record(
            [ScheduleRetry(task_id=t.id, attempt=1, error=ERROR, run_at=h.now(), scheduled=True)]
        ),
        Counts(pending=1),
    ),
    "snooze": (
        lambda h, t: h.store.record(
            [ScheduleSnooze(task_id=t.id, attempt=1, run_at=h.now(), scheduled=False)]
        ),
        Counts(pending=1),
    ),
    "interrupt": (
        lambda h, t: h.store.record([Interrupt(task_id=t.id, attempt=1)]),
        Counts(pending=1),
    ),
    "cancel": (
        lambda h, t: h.store.record([Cancel(task_id=t.id, attempt=1)]),
        Counts(cancelled=1),
    ),
    "progress": (
        lambda h, t: h.store.record([Progress(task_id=t.id, attempt=1, value=1)]),
        Counts(processing=1),
    ),
    "cancel request": (lambda h, t: h.store.cancel([t.id]), Counts(processing=1)),
    "reclaim": (lambda h, t: h.store.reclaim([(t.id, 1)]), Counts(pending=1)),
    "refused write": (
        lambda h, t: h.store.record([Complete(task_id=t.id, attempt=9, result=None)]),
        Counts(processing=1),
    ),
    "reopen": (lambda h, t: h.store.reopen([t.id]), Counts(processing=1)),
    "create again": (
        lambda h, t: h.store.create([NewTask(task=h.make_task(id=t.id))]),
        Counts(processing=1),
    ),
}


async def real_counts(harness: Harness) -> Counts:
    """Counted from the rows themselves."""
    numbers = dict.fromkeys(TaskStatus, 0)
    for status in TaskStatus:
        page = await harness.store.list_tasks(ListQuery(status=status, limit=1000))
        numbers[status] = len(page.tasks)
    return Counts(**{status.lower(): number for status, number in numbers.items()})


@pytest.mark.parametrize(("step", "expected"), FROM_PROCESSING.values(), ids=FROM_PROCESSING.keys())
async def test_from_processing(harness: Harness, step: Step, expected: Counts) -> None:
    running, _ = await harness.start()
    assert await harness.store.counts() == Counts(processing=1)
    await step(harness, running)
    assert await harness.store.counts() == expected == await real_counts(harness)


async def test_from_pending(harness: Harness) -> None:
    assert await harness.store.counts() == Counts()
    first, second = await harness.create(), await harness.create()
    assert await harness.store.counts() == Counts(pending=2)
    await harness.store.cancel([first.id])
    assert await harness.store.counts() == Counts(pending=1, cancelled=1)
    await harness.store.schedule([(second.id, harness.now())])
    await harness.store.reopen([first.id])
    assert await harness.store.counts() == Counts(pending=2) == await real_counts(harness)


async def test_takeovers(harness: Harness) -> None:
    await harness.start(max_attempts=2)
    await harness.lapse()
    await harness.claim(await harness.receive_one())
    assert await harness.store.counts() == Counts(processing=1)
    await harness.lapse()
    await harness.claim(await harness.receive_one())
    assert await harness.store.counts() == Counts(failed=1) == await real_counts(harness)


async def test_expire(harness: Harness) -> None:
    for _ in range(3):
        running, _ = await harness.start()
        await harness.store.record([Complete(task_id=running.id, attempt=1, result=None)])
    await harness.advance(1)
    await harness.store.expire(finished_before=harness.now(), limit=2)
    counts = await harness.store.counts()
    assert counts == Counts(completed=1) == await real_counts(harness)
    assert counts.total == 1


async def test_tasks_of_all_queues_are_counted(harness: Harness) -> None:
    await harness.create()
    await harness.create(queue="other")
    assert await harness.store.counts() == Counts(pending=2)

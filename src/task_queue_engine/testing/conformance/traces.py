"""The trace context of a task: kept with its row, whatever becomes of the task."""

from __future__ import annotations

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from task_queue_engine.backends.base import AlreadyExists, NewTask, TakePlan
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Cancel,
    Complete,
    Fail,
    Interrupt,
    Progress,
    Recorded,
    ScheduleRetry,
    ScheduleSnooze,
    Started,
)
from task_queue_engine.task import Task, TaskError, TaskStatus
from task_queue_engine.testing.conformance.harness import Harness, claim_request
from task_queue_engine.trace_context import TraceContext

GIVEN = TraceContext(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    span_id="00f067aa0ba902b7",
    sampled=True,
    tracestate='vendor=a"\\b,other@vendor=2',
)
AFTER = replace(GIVEN, last_span_id="b7ad6b7169203331")
ERROR = TaskError(type="ValueError", message="no")


async def stored(harness: Harness, task: Task) -> Task:
    (found,) = await harness.store.get([task.id])
    assert found is not None
    return found


async def started(harness: Harness, task: Task) -> Task:
    delivery = await harness.receive_one()
    assert delivery.task_id == task.id
    (verdict,) = await harness.store.claim([claim_request(delivery)])
    assert isinstance(verdict, Started)
    return verdict.task


async def test_it_is_kept_through_a_whole_life(harness: Harness) -> None:
    task = await harness.submit(trace_context=GIVEN)
    assert await stored(harness, task) == task
    running = await started(harness, task)
    assert running.trace_context == GIVEN
    await harness.store.record(
        [
            Progress(task_id=task.id, attempt=1, value=1),
            Complete(task_id=task.id, attempt=1, result=2),
        ]
    )
    ended = await stored(harness, task)
    assert (ended.status, ended.trace_context) == (TaskStatus.COMPLETED, GIVEN)


async def test_a_task_without_one_has_none(harness: Harness) -> None:
    task = await harness.submit()
    assert (await stored(harness, task)).trace_context is UNSET
    assert (await started(harness, task)).trace_context is UNSET


async def test_it_comes_with_what_is_taken(harness: Harness) -> None:
    task = harness.make_task(trace_context=GIVEN)
    await harness.backend.submit([NewTask(task=task)])
    plan = TakePlan(free=1, worker="worker-1", types={task.type: "here"})
    (taken,) = await harness.backend.steps("default").take(
        plan, wait=5, visibility=harness.visibility
    )
    if taken.started is None:
        (verdict,) = await harness.store.claim([claim_request(taken.delivery)])
        assert isinstance(verdict, Started)
        assert verdict.task.trace_context == GIVEN
    else:
        assert taken.started.task.trace_context == GIVEN


async def test_what_is_submitted_again_keeps_its_first(harness: Harness) -> None:
    task = await harness.submit(trace_context=GIVEN)
    again = replace(task, trace_context=AFTER)
    assert await harness.store.create([NewTask(task=again)]) == [AlreadyExists(task)]


async def test_it_comes_with_what_is_due(harness: Harness) -> None:
    task = harness.make_task(trace_context=GIVEN)
    await harness.store.create([NewTask(task=task, due_at=harness.later(60))])
    (due,) = await harness.store.due("default", before=harness.later(60), limit=10)
    assert due.task.trace_context == GIVEN


@pytest.mark.parametrize("given", [GIVEN, UNSET], ids=["with one", "without"])
@pytest.mark.parametrize("ending", ["retry", "snooze", "interrupt"])
async def test_an_attempt_says_what_the_next_one_links_to(
    harness: Harness, ending: str, given: TraceContext
) -> None:
    task = await harness.create(trace_context=given)
    await harness.send(task)
    delivery = await harness.receive_one()
    await harness.store.claim([claim_request(delivery)])
    now = harness.now()
    write: AttemptWrite
    if ending == "retry":
        write = ScheduleRetry(
            task_id=task.id,
            attempt=1,
            error=ERROR,
            run_at=now,
            scheduled=False,
            trace_context=AFTER,
        )
    elif ending == "snooze":
        write = ScheduleSnooze(
            task_id=task.id, attempt=1, run_at=now, scheduled=False, trace_context=AFTER
        )
    else:
        write = Interrupt(task_id=task.id, attempt=1, trace_context=AFTER)
    assert await harness.store.record([write]) == [Recorded(TaskStatus.PENDING)]
    assert (await stored(harness, task)).trace_context == AFTER
    await harness.queue.release([(delivery, 0)])
    assert (await started(harness, task)).trace_context == AFTER


@pytest.mark.parametrize("is_failed", [True, False], ids=["failed", "cancelled"])
async def test_a_new_round_links_to_the_last_attempt_of_the_one_before(
    harness: Harness, is_failed: bool
) -> None:
    task = await harness.submit(trace_context=GIVEN)
    await started(harness, task)
    kind = Fail if is_failed else Cancel
    await harness.store.record([kind(task_id=task.id, attempt=1, error=ERROR, trace_context=AFTER)])
    assert (await stored(harness, task)).trace_context == AFTER
    await harness.store.reopen([task.id])
    assert (await stored(harness, task)).trace_context == AFTER

"""The claim table, row by row."""

from __future__ import annotations

import pytest

from task_queue_engine.lifecycle import (
    CRASH_ERROR_TYPE,
    Cancel,
    CancelRequested,
    Complete,
    DuplicateDelivery,
    Exhausted,
    ExtraCopy,
    Fail,
    Fenced,
    Finished,
    Missing,
    NotDue,
    Progress,
    Recorded,
    Retry,
    Started,
)
from task_queue_engine.task import TaskStatus, new_task_id
from tests.conformance.bench import BOOM, Bench, claim_of


async def test_a_pending_task_starts(bench: Bench) -> None:
    task, delivery = await bench.deliver()
    await bench.advance(1)

    verdict = await bench.claim(delivery, "worker-7")

    assert isinstance(verdict, Started)
    assert not verdict.takeover
    stored = await bench.get(task)
    assert verdict.task == stored
    assert stored.status is TaskStatus.PROCESSING
    assert (stored.attempt, stored.retry_count) == (1, 0)
    assert stored.worker == "worker-7"
    assert stored.started_at == stored.updated_at == bench.now
    assert stored.created_at == task.created_at
    assert stored.finished_at is None


async def test_starting_again_keeps_the_last_error_and_drops_the_last_progress(
    bench: Bench,
) -> None:
    task, delivery = await bench.start()
    await bench.record(Progress(task_id=task.id, attempt=1, value={"percent": 50}))
    await bench.record(
        Retry(task_id=task.id, attempt=1, error=BOOM, run_at=bench.now, scheduled=False)
    )
    await bench.release(delivery)
    (again,) = await bench.receive()

    verdict = await bench.claim(again, "worker-2")

    assert isinstance(verdict, Started)
    assert not verdict.takeover
    assert (verdict.task.attempt, verdict.task.retry_count) == (2, 1)
    assert verdict.task.error == BOOM
    assert verdict.task.progress is None
    assert verdict.task.worker == "worker-2"
    assert await bench.get(task) == verdict.task


async def test_a_task_that_is_not_due_does_not_start(bench: Bench) -> None:
    run_at = bench.in_seconds(bench.lease)
    task, delivery = await bench.deliver(run_at=run_at)

    assert await bench.claim(delivery) == NotDue(run_at)
    assert await bench.get(task) == task
    await bench.counts(pending=1)

    await bench.advance(bench.lease)
    assert isinstance(await bench.claim(delivery), Started)


async def test_a_duplicate_of_a_live_attempt_is_left_alone(bench: Bench) -> None:
    task, delivery = await bench.start()

    assert await bench.claim(delivery, "worker-2") == DuplicateDelivery()
    assert await bench.get(task) == task
    # The first owner goes on as if nothing had been.
    assert await bench.record(Complete(task_id=task.id, attempt=1, result="mine")) == Recorded(
        TaskStatus.COMPLETED
    )


async def test_a_lapsed_lease_is_taken_over(bench: Bench) -> None:
    task, first = await bench.start()
    await bench.record(Progress(task_id=task.id, attempt=1, value=1))
    await bench.advance(bench.lease)
    (second,) = await bench.receive()
    assert (second.message_id, second.receive_count) == (first.message_id, 2)

    verdict = await bench.claim(second, "worker-2")

    assert isinstance(verdict, Started)
    assert verdict.takeover
    stored = await bench.get(task)
    assert verdict.task == stored
    assert (stored.attempt, stored.retry_count) == (2, 1)
    assert stored.error is not None
    assert stored.error.type == CRASH_ERROR_TYPE
    assert "attempt 1 on worker-1" in stored.error.message
    assert stored.progress is None
    assert stored.started_at == bench.now
    await bench.counts(processing=1)


async def test_the_old_delivery_of_a_task_taken_over_is_a_duplicate(bench: Bench) -> None:
    _, first = await bench.start()
    await bench.advance(bench.lease)
    (second,) = await bench.receive()
    await bench.claim(second)

    assert await bench.claim(first) == DuplicateDelivery()
    assert await bench.claim(second) == DuplicateDelivery()


async def test_a_takeover_past_the_last_attempt_fails_the_task(bench: Bench) -> None:
    task, _ = await bench.start(max_attempts=1)
    await bench.advance(bench.lease)
    (second,) = await bench.receive()

    verdict = await bench.claim(second)

    assert isinstance(verdict, Exhausted)
    stored = await bench.get(task)
    assert verdict.task == stored
    assert stored.status is TaskStatus.FAILED
    assert (stored.attempt, stored.retry_count) == (1, 1)
    assert stored.error is not None
    assert stored.error.type == CRASH_ERROR_TYPE
    assert stored.finished_at == bench.now
    await bench.counts(failed=1)


async def test_a_takeover_of_a_task_to_be_cancelled_cancels_it(bench: Bench) -> None:
    task, _ = await bench.start()
    assert isinstance(await bench.cancel(task), CancelRequested)
    await bench.advance(bench.lease)
    (second,) = await bench.receive()

    assert await bench.claim(second) == Finished(TaskStatus.CANCELLED)

    stored = await bench.get(task)
    assert stored.status is TaskStatus.CANCELLED
    assert (stored.attempt, stored.retry_count) == (1, 1)
    assert stored.finished_at == bench.now
    await bench.counts(cancelled=1)


async def test_another_message_of_a_running_task_is_an_extra_copy(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.send(task)
    (copy,) = await bench.receive()
    assert await bench.claim(copy) == ExtraCopy()

    # Its own receive count says nothing about the owner's lease, however high it is.
    await bench.release(copy)
    (copy,) = await bench.receive()
    assert copy.receive_count == 2
    assert await bench.claim(copy) == ExtraCopy()
    assert await bench.get(task) == task


@pytest.mark.parametrize("status", [status for status in TaskStatus if status.is_terminal])
async def test_a_finished_task_does_not_start(bench: Bench, status: TaskStatus) -> None:
    task, delivery = await bench.start()
    write = {
        TaskStatus.COMPLETED: Complete(task_id=task.id, attempt=1, result=1),
        TaskStatus.FAILED: Fail(task_id=task.id, attempt=1, error=BOOM),
        TaskStatus.CANCELLED: Cancel(task_id=task.id, attempt=1),
    }[status]
    assert await bench.record(write) == Recorded(status)
    stored = await bench.get(task)

    # Its own message once more, with a higher count, and a copy.
    await bench.advance(bench.lease)
    (again,) = await bench.receive()
    assert await bench.claim(delivery) == Finished(status)
    assert await bench.claim(again) == Finished(status)
    await bench.send(task)
    (copy,) = await bench.receive()
    assert await bench.claim(copy) == Finished(status)
    assert await bench.get(task) == stored


async def test_a_message_without_a_task(bench: Bench) -> None:
    await bench.send(bench.task())
    (delivery,) = await bench.receive()
    assert await bench.claim(delivery) == Missing()
    await bench.counts()


async def test_verdicts_come_in_the_order_asked_and_one_does_not_change_another(
    bench: Bench,
) -> None:
    running, owner = await bench.start()
    later = bench.in_seconds(bench.lease)
    waiting, early = await bench.deliver(run_at=later)
    fresh, delivery = await bench.deliver()
    done = await bench.finish()

    verdicts = await bench.store.claim(
        [
            claim_of(owner),
            claim_of(delivery, task_id=new_task_id()),
            claim_of(early),
            claim_of(delivery),
            claim_of(delivery),
            claim_of(delivery, task_id=done.id),
        ]
    )

    started = await bench.get(fresh)
    assert verdicts == [
        DuplicateDelivery(),
        Missing(),
        NotDue(later),
        Started(started),
        DuplicateDelivery(),
        Finished(TaskStatus.COMPLETED),
    ]
    assert await bench.get(running) == running
    assert await bench.get(waiting) == waiting
    await bench.counts(processing=2, pending=1, completed=1)


async def test_nothing_asked_nothing_answered(bench: Bench) -> None:
    assert await bench.store.claim([]) == []


async def test_an_attempt_that_was_taken_over_is_fenced(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.advance(bench.lease)
    (second,) = await bench.receive()
    await bench.claim(second)
    current = await bench.get(task)

    assert await bench.record(Complete(task_id=task.id, attempt=1, result=1)) == Fenced()
    assert await bench.get(task) == current

"""What an attempt writes: each kind of write, fencing, and the same write twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from task_queue_engine.lifecycle import (
    AttemptWrite,
    Cancel,
    Complete,
    Fail,
    Fenced,
    Finished,
    Interrupt,
    Progress,
    Recorded,
    ScheduleRetry,
    ScheduleSnooze,
    Started,
)
from task_queue_engine.task import TaskError, TaskStatus, new_task_id
from task_queue_engine.testing.conformance.harness import Harness

ERROR = TaskError(type="ValueError", message="no", traceback="Traceback ...")

Make = Callable[[Harness, str, int], AttemptWrite]

ENDINGS: dict[str, tuple[Make, TaskStatus]] = {
    "complete": (
        lambda h, task_id, n: Complete(task_id=task_id, attempt=n, result={"n": 1}),
        TaskStatus.COMPLETED,
    ),
    "fail": (
        lambda h, task_id, n: Fail(task_id=task_id, attempt=n, error=ERROR),
        TaskStatus.FAILED,
    ),
    "cancel": (lambda h, task_id, n: Cancel(task_id=task_id, attempt=n), TaskStatus.CANCELLED),
}
WAITS: dict[str, tuple[Make, TaskStatus]] = {
    "retry": (
        lambda h, task_id, n: ScheduleRetry(
            task_id=task_id, attempt=n, error=ERROR, run_at=h.later(5), scheduled=False
        ),
        TaskStatus.PENDING,
    ),
    "retry by the scheduler": (
        lambda h, task_id, n: ScheduleRetry(
            task_id=task_id, attempt=n, error=ERROR, run_at=h.later(5), scheduled=True
        ),
        TaskStatus.PENDING,
    ),
    "snooze": (
        lambda h, task_id, n: ScheduleSnooze(
            task_id=task_id, attempt=n, run_at=h.later(5), scheduled=False
        ),
        TaskStatus.PENDING,
    ),
    "interrupt": (lambda h, task_id, n: Interrupt(task_id=task_id, attempt=n), TaskStatus.PENDING),
}
GOES_ON: dict[str, tuple[Make, TaskStatus]] = {
    "progress": (
        lambda h, task_id, n: Progress(task_id=task_id, attempt=n, value=0.5),
        TaskStatus.PROCESSING,
    ),
}
EVERY_WRITE = ENDINGS | WAITS | GOES_ON


def each(table: dict[str, tuple[Make, TaskStatus]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("make", "status"), table.values(), ids=table.keys())


async def test_complete(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.advance(3)

    verdict = await harness.store.record(
        [Complete(task_id=running.id, attempt=1, result={"sent": [1, 2]})]
    )

    assert verdict == [Recorded(TaskStatus.COMPLETED)]
    task = await harness.get(running.id)
    assert task.status is TaskStatus.COMPLETED
    assert task.result == {"sent": [1, 2]}
    assert task.finished_at == task.updated_at == harness.now()
    assert task.started_at == running.started_at
    assert (task.attempt, task.retry_count, task.error) == (1, 0, None)


async def test_completing_clears_the_error_of_earlier_attempts(harness: Harness) -> None:
    running, delivery = await harness.start()
    await harness.store.record(
        [
            ScheduleRetry(
                task_id=running.id, attempt=1, error=ERROR, run_at=harness.now(), scheduled=False
            )
        ]
    )
    assert (await harness.get(running.id)).error == ERROR
    await harness.queue.release([(delivery, 0)])
    started = await harness.claim(await harness.receive_one())
    assert isinstance(started, Started)
    assert started.task.error == ERROR

    await harness.store.record([Complete(task_id=running.id, attempt=2, result=None)])

    task = await harness.get(running.id)
    assert (task.error, task.run_at, task.retry_count) == (None, None, 1)


async def test_fail(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.advance(3)

    verdict = await harness.store.record([Fail(task_id=running.id, attempt=1, error=ERROR)])

    assert verdict == [Recorded(TaskStatus.FAILED)]
    task = await harness.get(running.id)
    assert task.status is TaskStatus.FAILED
    assert task.error == ERROR
    assert task.retry_count == 1
    assert task.finished_at == harness.now()


async def test_retry_counts_and_waits(harness: Harness) -> None:
    running, delivery = await harness.start()
    run_at = harness.later(10)

    verdict = await harness.store.record(
        [ScheduleRetry(task_id=running.id, attempt=1, error=ERROR, run_at=run_at, scheduled=False)]
    )

    assert verdict == [Recorded(TaskStatus.PENDING)]
    task = await harness.get(running.id)
    assert (task.status, task.retry_count, task.run_at) == (TaskStatus.PENDING, 1, run_at)
    assert task.error == ERROR

    await harness.queue.release([(delivery, 10)])
    await harness.advance(10)
    again = await harness.claim(await harness.receive_one())
    assert isinstance(again, Started)
    assert (again.task.attempt, again.task.retry_count, again.takeover) == (2, 1, False)


async def test_snooze_costs_no_attempt(harness: Harness) -> None:
    running, _ = await harness.start()
    run_at = harness.later(10)

    await harness.store.record(
        [ScheduleSnooze(task_id=running.id, attempt=1, run_at=run_at, scheduled=False)]
    )

    task = await harness.get(running.id)
    assert (task.status, task.retry_count, task.run_at) == (TaskStatus.PENDING, 0, run_at)


async def test_interrupt_costs_no_attempt_and_waits_for_nothing(harness: Harness) -> None:
    running, delivery = await harness.start()

    await harness.store.record([Interrupt(task_id=running.id, attempt=1)])
    await harness.queue.release([(delivery, 0)])

    task = await harness.get(running.id)
    assert (task.status, task.retry_count, task.run_at) == (TaskStatus.PENDING, 0, None)
    again = await harness.claim(await harness.receive_one())
    assert isinstance(again, Started)
    assert (again.task.attempt, again.task.retry_count) == (2, 0)


async def test_cancel_may_carry_the_error_of_the_cleanup(harness: Harness) -> None:
    running, _ = await harness.start()

    verdict = await harness.store.record([Cancel(task_id=running.id, attempt=1, error=ERROR)])

    assert verdict == [Recorded(TaskStatus.CANCELLED)]
    assert (await harness.get(running.id)).error == ERROR


async def test_progress_is_seen_and_starts_anew_with_the_next_attempt(harness: Harness) -> None:
    running, delivery = await harness.start()
    await harness.advance(1)

    verdict = await harness.store.record(
        [Progress(task_id=running.id, attempt=1, value={"rows": 10})]
    )

    assert verdict == [Recorded(TaskStatus.PROCESSING)]
    task = await harness.get(running.id)
    assert task.progress == {"rows": 10}
    assert task.updated_at == harness.now()

    await harness.store.record([Interrupt(task_id=running.id, attempt=1)])
    await harness.queue.release([(delivery, 0)])
    again = await harness.claim(await harness.receive_one())
    assert isinstance(again, Started)
    assert again.task.progress is None


async def test_progress_does_not_disturb_the_lease(harness: Harness) -> None:
    """The message that started the attempt is still known: its next delivery takes over."""
    running, _ = await harness.start()
    await harness.store.record([Progress(task_id=running.id, attempt=1, value=1)])
    await harness.lapse()

    verdict = await harness.claim(await harness.receive_one())
    assert isinstance(verdict, Started)
    assert verdict.takeover


@each(EVERY_WRITE)
async def test_writes_of_an_attempt_that_was_taken_over_are_refused(
    harness: Harness, make: Make, status: TaskStatus
) -> None:
    running, _ = await harness.start()
    await harness.lapse()
    taken_over = await harness.claim(await harness.receive_one())
    assert isinstance(taken_over, Started)

    assert await harness.store.record([make(harness, running.id, 1)]) == [Fenced()]
    assert await harness.get(running.id) == taken_over.task


@each(EVERY_WRITE)
async def test_writes_of_an_attempt_that_never_was_are_refused(
    harness: Harness, make: Make, status: TaskStatus
) -> None:
    task = await harness.submit()
    write, unknown = make(harness, task.id, 1), make(harness, new_task_id(), 1)

    assert await harness.store.record([write, unknown]) == [Fenced(), Fenced()]
    assert await harness.get(task.id) == task


@each(EVERY_WRITE)
async def test_the_same_write_twice_is_answered_the_same(
    harness: Harness, make: Make, status: TaskStatus
) -> None:
    """Its first answer may have been lost on the way."""
    running, _ = await harness.start()
    write = make(harness, running.id, 1)

    assert await harness.store.record([write]) == [Recorded(status)]
    once = await harness.get(running.id)
    counts = await harness.store.counts()
    assert await harness.store.record([write]) == [Recorded(status)]
    assert await harness.get(running.id) == once
    assert await harness.store.counts() == counts


@each(ENDINGS)
@pytest.mark.parametrize("late", EVERY_WRITE)
async def test_terminal_is_final(
    harness: Harness, make: Make, status: TaskStatus, late: str
) -> None:
    """No other write of the very same attempt changes how the task ended."""
    running, _ = await harness.start()
    await harness.store.record([make(harness, running.id, 1)])
    ended = await harness.get(running.id)
    make_late, would_be = EVERY_WRITE[late]

    verdict = await harness.store.record([make_late(harness, running.id, 1)])

    assert verdict == [Recorded(status) if would_be is status else Fenced()]
    assert await harness.get(running.id) == ended


async def test_writes_of_one_attempt_take_effect_in_their_order(harness: Harness) -> None:
    running, _ = await harness.start()
    verdicts = await harness.store.record(
        [
            Progress(task_id=running.id, attempt=1, value=1),
            Progress(task_id=running.id, attempt=1, value=2),
            Complete(task_id=running.id, attempt=1, result="done"),
            Progress(task_id=running.id, attempt=1, value=3),
        ]
    )
    assert verdicts == [
        Recorded(TaskStatus.PROCESSING),
        Recorded(TaskStatus.PROCESSING),
        Recorded(TaskStatus.COMPLETED),
        Fenced(),
    ]
    task = await harness.get(running.id)
    assert (task.progress, task.result) == (2, "done")


async def test_two_endings_in_one_batch_the_first_wins(harness: Harness) -> None:
    running, _ = await harness.start()
    verdicts = await harness.store.record(
        [
            Fail(task_id=running.id, attempt=1, error=ERROR),
            Complete(task_id=running.id, attempt=1, result=None),
        ]
    )
    assert verdicts == [Recorded(TaskStatus.FAILED), Fenced()]
    counts = await harness.store.counts()
    assert (counts.failed, counts.completed, counts.total) == (1, 0, 1)


async def test_a_refused_write_does_not_fail_its_neighbours(harness: Harness) -> None:
    first, _ = await harness.start()
    second, _ = await harness.start()
    verdicts = await harness.store.record(
        [
            Complete(task_id=first.id, attempt=7, result="wrong attempt"),
            Complete(task_id=new_task_id(), attempt=1, result="no such task"),
            Complete(task_id=second.id, attempt=1, result="right"),
        ]
    )
    assert verdicts == [Fenced(), Fenced(), Recorded(TaskStatus.COMPLETED)]
    assert await harness.get(first.id) == first
    assert (await harness.get(second.id)).result == "right"


@each(WAITS)
async def test_a_cancel_request_waits_for_whatever_would_run_again(
    harness: Harness, make: Make, status: TaskStatus
) -> None:
    """The answer says CANCELLED, so that the message is deleted and not given back."""
    running, delivery = await harness.start()
    await harness.store.cancel([running.id])

    verdict = await harness.store.record([make(harness, running.id, 1)])

    assert verdict == [Recorded(TaskStatus.CANCELLED)]
    assert (await harness.get(running.id)).status is TaskStatus.CANCELLED
    await harness.queue.release([(delivery, 0)])
    assert await harness.claim(await harness.receive_one()) == Finished(TaskStatus.CANCELLED)


async def test_an_attempt_that_finished_anyway_beats_the_cancel_request(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.cancel([running.id])

    verdict = await harness.store.record([Complete(task_id=running.id, attempt=1, result=1)])

    assert verdict == [Recorded(TaskStatus.COMPLETED)]

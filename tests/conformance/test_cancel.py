"""Cancel, reopen, reclaim: what people and the reconciler ask for."""

from __future__ import annotations

from task_queue_engine.backends.base import Done
from task_queue_engine.lifecycle import (
    CRASH_ERROR_TYPE,
    AlreadyFinished,
    AttemptWrite,
    Cancel,
    CancelledNow,
    CancelRequested,
    Complete,
    Fail,
    Fenced,
    Finished,
    Interrupt,
    Missing,
    NotReopened,
    Progress,
    Recorded,
    Reopened,
    Retry,
    Snooze,
    Started,
)
from task_queue_engine.task import TaskStatus, new_task_id
from tests.conformance.bench import BOOM, Bench

# --- cancel ---------------------------------------------------------------------------------


async def test_a_pending_task_is_cancelled_and_never_starts(bench: Bench) -> None:
    task, delivery = await bench.deliver()
    await bench.advance(1)

    verdict = await bench.cancel(task)

    stored = await bench.get(task)
    assert verdict == CancelledNow(stored)
    assert stored.status is TaskStatus.CANCELLED
    assert (stored.attempt, stored.retry_count) == (0, 0)
    assert stored.finished_at == stored.updated_at == bench.now
    assert await bench.claim(delivery) == Finished(TaskStatus.CANCELLED)
    await bench.counts(cancelled=1)


async def test_a_cancelled_task_that_was_scheduled_does_not_come_due(bench: Bench) -> None:
    due_at = bench.in_seconds(5)
    task = await bench.create(run_at=due_at, due_at=due_at)
    await bench.cancel(task)
    assert await bench.store.due(before=bench.in_seconds(10), limit=10) == []


async def test_cancelling_a_task_that_waits_for_its_retry_keeps_its_error(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.record(
        Retry(task_id=task.id, attempt=1, error=BOOM, run_at=bench.in_seconds(9), scheduled=True)
    )

    assert isinstance(await bench.cancel(task), CancelledNow)

    stored = await bench.get(task)
    assert (stored.error, stored.retry_count, stored.run_at) == (BOOM, 1, None)
    assert await bench.store.due(before=bench.in_seconds(10), limit=10) == []


async def test_a_running_task_is_asked_to_stop(bench: Bench) -> None:
    task, _ = await bench.start()
    other, _ = await bench.start()
    await bench.advance(1)

    verdict = await bench.cancel(task)

    stored = await bench.get(task)
    assert verdict == CancelRequested(stored)
    assert stored.status is TaskStatus.PROCESSING
    assert stored.cancel_requested
    asked = await bench.store.cancel_requested([other.id, task.id, new_task_id(), task.id])
    assert asked == [False, True, False, True]
    await bench.counts(processing=2)


async def test_asking_twice_changes_nothing_more(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.cancel(task)
    assert isinstance(await bench.cancel(task), CancelRequested)
    await bench.record(Cancel(task_id=task.id, attempt=1))
    stored = await bench.get(task)
    assert await bench.cancel(task) == AlreadyFinished(stored)
    assert await bench.get(task) == stored


async def test_the_attempt_that_was_asked_to_stop_may_still_succeed(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.cancel(task)
    assert await bench.record(Complete(task_id=task.id, attempt=1, result=1)) == Recorded(
        TaskStatus.COMPLETED
    )
    await bench.counts(completed=1)


async def test_the_request_outlives_progress(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.cancel(task)
    await bench.record(Progress(task_id=task.id, attempt=1, value=1))
    assert await bench.store.cancel_requested([task.id]) == [True]


async def test_a_task_that_is_to_be_cancelled_does_not_go_back_to_wait(bench: Bench) -> None:
    run_at = bench.in_seconds(5)
    for counted in (0, 1):
        writes: list[AttemptWrite]
        if counted:
            writes = [
                Retry(task_id="", attempt=1, error=BOOM, run_at=run_at, scheduled=scheduled)
                for scheduled in (False, True)
            ]
        else:
            writes = [
                Snooze(task_id="", attempt=1, run_at=run_at, scheduled=False),
                Snooze(task_id="", attempt=1, run_at=run_at, scheduled=True),
                Interrupt(task_id="", attempt=1),
            ]
        for write in writes:
            task, _ = await bench.start()
            await bench.cancel(task)
            fields = {name: getattr(write, name) for name in write.__dataclass_fields__}
            own = type(write)(**fields | {"task_id": task.id})

            assert await bench.record(own) == Recorded(TaskStatus.CANCELLED)

            stored = await bench.get(task)
            assert stored.status is TaskStatus.CANCELLED
            assert stored.retry_count == counted
            assert stored.finished_at == bench.now
    assert await bench.store.due(before=bench.in_seconds(1000), limit=10) == []
    await bench.counts(cancelled=5)


async def test_the_request_does_not_outlive_a_reopening(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.cancel(task)
    await bench.record(Cancel(task_id=task.id, attempt=1))
    await bench.reopen(task)
    assert await bench.store.cancel_requested([task.id]) == [False]


async def test_cancel_in_a_batch(bench: Bench) -> None:
    waiting = await bench.create()
    running, _ = await bench.start()
    done = await bench.finish()

    verdicts = await bench.store.cancel([done.id, new_task_id(), waiting.id, running.id])

    assert verdicts == [
        AlreadyFinished(done),
        Missing(),
        CancelledNow(await bench.get(waiting)),
        CancelRequested(await bench.get(running)),
    ]
    assert await bench.get(done) == done
    await bench.counts(cancelled=1, processing=1, completed=1)


async def test_nothing_asked_nothing_answered(bench: Bench) -> None:
    assert await bench.store.cancel([]) == []
    assert await bench.store.cancel_requested([]) == []
    assert await bench.store.reopen([]) == []
    assert await bench.store.reclaim([]) == []


# --- reopen ---------------------------------------------------------------------------------


async def test_a_failed_task_opens_as_a_new_round(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.record(Progress(task_id=task.id, attempt=1, value=1))
    await bench.record(Fail(task_id=task.id, attempt=1, error=BOOM))
    await bench.advance(1)

    verdict = await bench.reopen(task)

    stored = await bench.get(task)
    assert verdict == Reopened(stored)
    assert stored.status is TaskStatus.PENDING
    assert (stored.retry_count, stored.attempt) == (0, 1)
    assert (stored.result, stored.error, stored.progress) == (None, None, None)
    assert (stored.run_at, stored.started_at, stored.finished_at) == (None, None, None)
    assert stored.updated_at == bench.now
    assert stored.payload == task.payload
    await bench.counts(pending=1)


async def test_writes_of_the_round_before_stay_fenced(bench: Bench) -> None:
    failed = await bench.fail()
    await bench.reopen(failed)
    assert await bench.record(Complete(task_id=failed.id, attempt=1, result=1)) == Fenced()

    await bench.send(failed)
    (delivery,) = await bench.receive()
    verdict = await bench.claim(delivery)
    assert isinstance(verdict, Started)
    assert verdict.task.attempt == 2
    assert await bench.record(Complete(task_id=failed.id, attempt=1, result=1)) == Fenced()
    assert await bench.record(Complete(task_id=failed.id, attempt=2, result=1)) == Recorded(
        TaskStatus.COMPLETED
    )


async def test_only_failed_and_cancelled_tasks_open_again(bench: Bench) -> None:
    waiting = await bench.create()
    running, _ = await bench.start()
    done = await bench.finish()
    failed = await bench.fail()
    cancelled = await bench.create()
    await bench.cancel(cancelled)

    verdicts = await bench.store.reopen(
        [waiting.id, running.id, done.id, failed.id, new_task_id(), cancelled.id, failed.id]
    )

    reopened = await bench.get(failed)
    assert verdicts == [
        NotReopened(waiting),
        NotReopened(running),
        NotReopened(done),
        Reopened(reopened),
        Missing(),
        Reopened(await bench.get(cancelled)),
        NotReopened(reopened),
    ]
    await bench.counts(pending=3, processing=1, completed=1)


# --- reclaim --------------------------------------------------------------------------------


async def test_an_orphaned_attempt_goes_back(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.advance(1)

    assert await bench.store.reclaim([(task.id, 1)]) == [Recorded(TaskStatus.PENDING)]

    stored = await bench.get(task)
    assert stored.status is TaskStatus.PENDING
    assert (stored.attempt, stored.retry_count) == (1, 1)
    assert stored.error is not None
    assert stored.error.type == CRASH_ERROR_TYPE
    assert stored.updated_at == bench.now
    # Whoever had it is no longer the owner.
    assert await bench.record(Complete(task_id=task.id, attempt=1, result=1)) == Fenced()
    await bench.counts(pending=1)


async def test_an_orphaned_last_attempt_fails(bench: Bench) -> None:
    task, _ = await bench.start(max_attempts=1)
    assert await bench.store.reclaim([(task.id, 1)]) == [Recorded(TaskStatus.FAILED)]
    stored = await bench.get(task)
    assert (stored.status, stored.retry_count) == (TaskStatus.FAILED, 1)
    assert stored.finished_at == bench.now
    await bench.counts(failed=1)


async def test_an_orphan_to_be_cancelled_is_cancelled(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.cancel(task)
    assert await bench.store.reclaim([(task.id, 1)]) == [Recorded(TaskStatus.CANCELLED)]
    await bench.counts(cancelled=1)


async def test_reclaiming_is_conditional_on_the_attempt(bench: Bench) -> None:
    task, _ = await bench.start()
    waiting = await bench.create()
    done = await bench.finish()
    orphan, _ = await bench.start()

    verdicts = await bench.store.reclaim(
        [(task.id, 2), (waiting.id, 0), (done.id, 1), (new_task_id(), 1), (orphan.id, 1)]
    )

    assert verdicts == [Fenced()] * 4 + [Recorded(TaskStatus.PENDING)]
    assert [await bench.get(task), await bench.get(waiting), await bench.get(done)] == [
        task,
        waiting,
        done,
    ]
    await bench.counts(pending=2, processing=1, completed=1)


async def test_a_reclaimed_task_starts_from_a_new_message(bench: Bench) -> None:
    task, lost = await bench.start()
    assert await bench.delete(lost) == Done()
    await bench.store.reclaim([(task.id, 1)])
    await bench.send(task)
    (delivery,) = await bench.receive()
    verdict = await bench.claim(delivery)
    assert isinstance(verdict, Started)
    assert not verdict.takeover
    assert (verdict.task.attempt, verdict.task.retry_count) == (2, 1)

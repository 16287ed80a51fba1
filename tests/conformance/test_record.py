"""What an attempt writes: conditional on being the owner, repeatable, final at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from task_queue_engine.lifecycle import (
    AttemptWrite,
    Cancel,
    Complete,
    Fail,
    Fenced,
    Interrupt,
    Progress,
    Recorded,
    Retry,
    Snooze,
    Started,
)
from task_queue_engine.task import TaskStatus, new_task_id
from tests.conformance.bench import BOOM, Bench, claim_of

Writes = Callable[[Bench, str, int], AttemptWrite]

WRITES: dict[str, tuple[Writes, TaskStatus]] = {
    "complete": (
        lambda bench, task_id, attempt: Complete(task_id=task_id, attempt=attempt, result=[1]),
        TaskStatus.COMPLETED,
    ),
    "fail": (
        lambda bench, task_id, attempt: Fail(task_id=task_id, attempt=attempt, error=BOOM),
        TaskStatus.FAILED,
    ),
    "cancel": (
        lambda bench, task_id, attempt: Cancel(task_id=task_id, attempt=attempt, error=BOOM),
        TaskStatus.CANCELLED,
    ),
    "retry": (
        lambda bench, task_id, attempt: Retry(
            task_id=task_id, attempt=attempt, error=BOOM, run_at=bench.now, scheduled=False
        ),
        TaskStatus.PENDING,
    ),
    "snooze": (
        lambda bench, task_id, attempt: Snooze(
            task_id=task_id, attempt=attempt, run_at=bench.now, scheduled=False
        ),
        TaskStatus.PENDING,
    ),
    "interrupt": (
        lambda bench, task_id, attempt: Interrupt(task_id=task_id, attempt=attempt),
        TaskStatus.PENDING,
    ),
    "progress": (
        lambda bench, task_id, attempt: Progress(task_id=task_id, attempt=attempt, value=7),
        TaskStatus.PROCESSING,
    ),
}
every_write = pytest.mark.parametrize(("write", "status"), WRITES.values(), ids=WRITES.keys())


# --- what each of them does -----------------------------------------------------------------


async def test_complete(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.advance(2)

    verdict = await bench.record(Complete(task_id=task.id, attempt=1, result={"answer": 42}))

    assert verdict == Recorded(TaskStatus.COMPLETED)
    stored = await bench.get(task)
    assert stored.status is TaskStatus.COMPLETED
    assert stored.result == {"answer": 42}
    assert stored.retry_count == 0
    assert stored.error is None
    assert stored.finished_at == stored.updated_at == bench.now
    assert stored.started_at == task.started_at
    assert stored.worker == "worker-1"
    await bench.counts(completed=1)


async def test_complete_after_a_retry_clears_the_error_and_the_time(bench: Bench) -> None:
    task, delivery = await bench.start()
    await bench.record(
        Retry(task_id=task.id, attempt=1, error=BOOM, run_at=bench.now, scheduled=False)
    )
    assert isinstance(await bench.claim(delivery), Started)

    await bench.record(Complete(task_id=task.id, attempt=2, result=None))

    stored = await bench.get(task)
    assert (stored.status, stored.retry_count) == (TaskStatus.COMPLETED, 1)
    assert stored.error is None
    assert stored.run_at is None


async def test_complete_keeps_the_last_progress(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.record(Progress(task_id=task.id, attempt=1, value=99))
    await bench.record(Complete(task_id=task.id, attempt=1, result=None))
    assert (await bench.get(task)).progress == 99


async def test_fail(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.advance(2)

    assert await bench.record(Fail(task_id=task.id, attempt=1, error=BOOM)) == Recorded(
        TaskStatus.FAILED
    )

    stored = await bench.get(task)
    assert (stored.status, stored.retry_count, stored.attempt) == (TaskStatus.FAILED, 1, 1)
    assert stored.error == BOOM
    assert stored.result is None
    assert stored.finished_at == bench.now
    await bench.counts(failed=1)


async def test_cancel_with_the_error_of_the_cleanup(bench: Bench) -> None:
    task, _ = await bench.start()

    assert await bench.record(Cancel(task_id=task.id, attempt=1, error=BOOM)) == Recorded(
        TaskStatus.CANCELLED
    )

    stored = await bench.get(task)
    assert (stored.status, stored.retry_count) == (TaskStatus.CANCELLED, 0)
    assert stored.error == BOOM
    assert stored.finished_at == bench.now
    await bench.counts(cancelled=1)


async def test_retry_waits_for_its_time(bench: Bench) -> None:
    task, delivery = await bench.start()
    run_at = bench.in_seconds(10)

    assert await bench.record(
        Retry(task_id=task.id, attempt=1, error=BOOM, run_at=run_at, scheduled=False)
    ) == Recorded(TaskStatus.PENDING)

    stored = await bench.get(task)
    assert (stored.status, stored.retry_count, stored.attempt) == (TaskStatus.PENDING, 1, 1)
    assert stored.error == BOOM
    assert stored.run_at == run_at
    assert stored.finished_at is None
    await bench.counts(pending=1)
    # Its message is kept, so there is nothing for the scheduler.
    assert await bench.store.due(before=bench.in_seconds(1000), limit=10) == []
    await bench.advance(10)
    assert isinstance(await bench.claim(delivery), Started)


async def test_snooze_costs_no_attempt(bench: Bench) -> None:
    task, _ = await bench.start()
    run_at = bench.in_seconds(10)

    assert await bench.record(
        Snooze(task_id=task.id, attempt=1, run_at=run_at, scheduled=False)
    ) == Recorded(TaskStatus.PENDING)

    stored = await bench.get(task)
    assert (stored.status, stored.retry_count, stored.attempt) == (TaskStatus.PENDING, 0, 1)
    assert (stored.run_at, stored.error) == (run_at, None)


async def test_interrupt_gives_it_back_at_once(bench: Bench) -> None:
    task, delivery = await bench.start()

    assert await bench.record(Interrupt(task_id=task.id, attempt=1)) == Recorded(TaskStatus.PENDING)

    stored = await bench.get(task)
    assert (stored.status, stored.retry_count, stored.run_at) == (TaskStatus.PENDING, 0, None)
    verdict = await bench.claim(delivery)
    assert isinstance(verdict, Started)
    assert verdict.task.attempt == 2


async def test_progress_leaves_everything_else(bench: Bench) -> None:
    task, _ = await bench.start()
    await bench.advance(1)

    await bench.record(Progress(task_id=task.id, attempt=1, value={"percent": 10}))

    stored = await bench.get(task)
    assert stored.progress == {"percent": 10}
    assert stored.updated_at == bench.now
    assert stored.status is TaskStatus.PROCESSING
    await bench.counts(processing=1)


# --- owner, repetition, order ---------------------------------------------------------------


@every_write
async def test_the_same_write_twice_is_the_same_as_once(
    bench: Bench, write: Writes, status: TaskStatus
) -> None:
    """The answer to the first may have been lost."""
    task, _ = await bench.start()
    asked = write(bench, task.id, 1)
    assert await bench.record(asked) == Recorded(status)
    stored = await bench.get(task)

    assert await bench.record(asked) == Recorded(status)
    assert await bench.get(task) == stored
    await bench.counts(**{status.lower(): 1})


@every_write
async def test_only_the_owner_writes(bench: Bench, write: Writes, status: TaskStatus) -> None:
    task, _ = await bench.start()

    for attempt in (0, 2):
        assert await bench.record(write(bench, task.id, attempt)) == Fenced()
    assert await bench.record(write(bench, new_task_id(), 1)) == Fenced()

    assert await bench.get(task) == task
    await bench.counts(processing=1)


@every_write
async def test_the_attempt_before_is_fenced(
    bench: Bench, write: Writes, status: TaskStatus
) -> None:
    task, _ = await bench.start()
    await bench.advance(bench.lease)
    (second,) = await bench.receive()
    assert isinstance(await bench.claim(second), Started)
    current = await bench.get(task)

    assert await bench.record(write(bench, task.id, 1)) == Fenced()
    assert await bench.get(task) == current


@every_write
async def test_a_finished_task_never_changes(
    bench: Bench, write: Writes, status: TaskStatus
) -> None:
    for ending in (
        Complete(task_id="", attempt=1, result="first"),
        Fail(task_id="", attempt=1, error=BOOM),
        Cancel(task_id="", attempt=1),
    ):
        task, _ = await bench.start()
        first = type(ending)(**_fields(ending) | {"task_id": task.id})
        await bench.record(first)
        stored = await bench.get(task)
        await bench.advance(1)

        verdict = await bench.record(write(bench, task.id, 1))

        # Its own status again may be its own write again; anything else lost the race.
        assert verdict == (Recorded(status) if status is stored.status else Fenced())
        assert await bench.get(task) == stored


def _fields(write: AttemptWrite) -> dict[str, object]:
    return {name: getattr(write, name) for name in write.__dataclass_fields__}


@every_write
async def test_a_task_that_has_not_started_has_no_owner(
    bench: Bench, write: Writes, status: TaskStatus
) -> None:
    task = await bench.create()
    assert await bench.record(write(bench, task.id, 1)) == Fenced()
    assert await bench.get(task) == task


async def test_writes_of_one_batch_take_effect_in_their_order(bench: Bench) -> None:
    task, _ = await bench.start()
    other, _ = await bench.start()

    verdicts = await bench.store.record(
        [
            Progress(task_id=task.id, attempt=1, value=1),
            Progress(task_id=other.id, attempt=9, value=1),
            Progress(task_id=task.id, attempt=1, value=2),
            Complete(task_id=task.id, attempt=1, result="done"),
            Progress(task_id=task.id, attempt=1, value=3),
            Fail(task_id=new_task_id(), attempt=1, error=BOOM),
            Fail(task_id=other.id, attempt=1, error=BOOM),
        ]
    )

    assert verdicts == [
        Recorded(TaskStatus.PROCESSING),
        Fenced(),
        Recorded(TaskStatus.PROCESSING),
        Recorded(TaskStatus.COMPLETED),
        Fenced(),
        Fenced(),
        Recorded(TaskStatus.FAILED),
    ]
    stored = await bench.get(task)
    assert (stored.progress, stored.result) == (2, "done")
    await bench.counts(completed=1, failed=1)


async def test_nothing_asked_nothing_answered(bench: Bench) -> None:
    assert await bench.store.record([]) == []


async def test_a_batch_of_the_largest_size(bench: Bench) -> None:
    count = bench.store.max_batch
    tasks = [await bench.create() for _ in range(count)]
    for i in range(0, count, bench.queue.max_batch):
        await bench.send(*tasks[i : i + bench.queue.max_batch])
    deliveries = []
    while len(deliveries) < count:
        size = min(bench.queue.max_batch, count - len(deliveries))
        deliveries += await bench.queue.receive(size, wait=0, visibility=bench.lease)

    started = await bench.store.claim([claim_of(delivery) for delivery in deliveries])
    assert all(isinstance(verdict, Started) for verdict in started)
    recorded = await bench.store.record(
        [Complete(task_id=task.id, attempt=1, result=task.id) for task in tasks]
    )

    assert recorded == [Recorded(TaskStatus.COMPLETED)] * count
    found = await bench.store.get([task.id for task in tasks])
    assert [task.result for task in found if task] == [task.id for task in tasks]
    await bench.counts(completed=count)

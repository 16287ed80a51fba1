"""Items near DynamoDB's 400 KB: what can be stored must be able to start and to end."""

from __future__ import annotations

import random

import pytest

from task_queue_engine.attempt_record import AttemptRecord, LogLine
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.base import Counts, NewTask, TooLarge
from task_queue_engine.clock import ManualClock
from task_queue_engine.lifecycle import (
    Complete,
    ExtraCopy,
    Fail,
    Interrupt,
    Progress,
    Recorded,
    ScheduleRetry,
    Started,
)
from task_queue_engine.task import TaskError, TaskStatus, new_task_id
from tests.backends.aws.dynamodb.tables import Table, amazons_own
from tests.backends.aws.dynamodb.tasks import create, get, known_of, make_task, request_of, start
from tests.backends.aws.dynamodb.test_foreign_items import foreign

KB = 1024

pytestmark = amazons_own


async def largest(store: DynamoStore, clock: ManualClock) -> int:
    """Characters of the largest payload that is accepted."""
    (verdict,) = await store.create([NewTask(task=make_task(clock, payload="x" * 400 * KB))])
    assert isinstance(verdict, TooLarge)
    return verdict.limit - len("payload")


async def test_the_largest_payload_goes_through_a_whole_life(
    store: DynamoStore, clock: ManualClock
) -> None:
    (task,) = await start(store, clock, payload="x" * await largest(store, clock))
    await store.record(
        [
            Progress(task_id=task.id, attempt=1, value={"done": 0.5}),
            ScheduleRetry(
                task_id=task.id,
                attempt=1,
                error=TaskError(type="ValueError", message="no", traceback="line\n" * 1000),
                run_at=clock.now(),
                scheduled=True,
            ),
        ]
    )
    await store.claim([request_of(task.id, message="m2")])
    await store.cancel([task.id])
    verdicts = await store.record([Complete(task_id=task.id, attempt=2, result={"ok": True})])
    assert verdicts == [Recorded(TaskStatus.COMPLETED)]


async def test_a_result_without_room_fails_the_task(store: DynamoStore, clock: ManualClock) -> None:
    """The handler returned, but "COMPLETED" would promise a result that is not there."""
    large, small = await start(store, clock, 2, payload="x" * 200 * KB)
    verdicts = await store.record(
        [
            Complete(task_id=large.id, attempt=1, result="y" * 220 * KB),
            Complete(task_id=small.id, attempt=1, result="y"),
        ]
    )
    assert verdicts == [Recorded(TaskStatus.FAILED), Recorded(TaskStatus.COMPLETED)]
    task = await get(store, large.id)
    assert task.result is None
    assert task.error is not None
    assert task.error.type.endswith("ResultNotStorable")
    assert "400 KB" in task.error.message
    assert task.payload == large.payload
    assert await store.counts() == Counts(failed=1, completed=1)


async def test_an_error_without_room_is_shortened(store: DynamoStore, clock: ManualClock) -> None:
    (task,) = await start(store, clock, payload="x" * 200 * KB)
    error = TaskError(type="ValueError", message="m" * 2000, traceback="t" * 300 * KB)
    verdicts = await store.record([Fail(task_id=task.id, attempt=1, error=error)])
    assert verdicts == [Recorded(TaskStatus.FAILED)]
    found = await get(store, task.id)
    assert found.error == TaskError(type="ValueError", message="m" * 1000)


async def test_progress_without_room_is_dropped(store: DynamoStore, clock: ManualClock) -> None:
    (task,) = await start(store, clock, payload="x" * 200 * KB)
    writes = [
        Progress(task_id=task.id, attempt=1, value="small"),
        Progress(task_id=task.id, attempt=1, value="p" * 300 * KB),
    ]
    assert await store.record(writes) == [Recorded(TaskStatus.PROCESSING)] * 2
    assert (await get(store, task.id)).progress == "small"


@pytest.mark.parametrize("ending", ["complete", "fail", "interrupt"])
async def test_progress_makes_room_for_the_ending(
    store: DynamoStore, clock: ManualClock, ending: str
) -> None:
    """An item filled to the brim by progress can still end."""
    payload = "x" * 200 * KB
    (task,) = await start(store, clock, payload=payload)
    room = 200 * KB - 600
    stored = await store.record([Progress(task_id=task.id, attempt=1, value="p" * room)])
    assert stored == [Recorded(TaskStatus.PROCESSING)]
    error = TaskError(type="ValueError", message="m" * 500, traceback="t" * 500)
    write, status = {
        "complete": (Complete(task_id=task.id, attempt=1, result="r" * 900), TaskStatus.FAILED),
        "fail": (Fail(task_id=task.id, attempt=1, error=error), TaskStatus.FAILED),
        "interrupt": (Interrupt(task_id=task.id, attempt=1), TaskStatus.PENDING),
    }[ending]
    assert await store.record([write]) == [Recorded(status)]
    assert (await get(store, task.id)).payload == payload


def noise(size: int) -> str:
    """What nothing can be packed into less of."""
    return random.Random(size).randbytes(size // 2).hex()


def with_lines(clock: ManualClock, attempt: int, size: int) -> AttemptRecord:
    line = LogLine(time=clock.now(), level="INFO", logger="shop", message=noise(size))
    return known_of(clock, attempt, logs=(line,))


async def test_log_lines_make_room_for_the_result(store: DynamoStore, clock: ManualClock) -> None:
    (task,) = await start(store, clock, payload="x" * 200 * KB)
    record = with_lines(clock, 1, 60 * KB)
    write = Complete(task_id=task.id, attempt=1, result="y" * 180 * KB, record=record)
    assert await store.record([write]) == [Recorded(TaskStatus.COMPLETED)]
    assert (await get(store, task.id)).result == write.result
    history = await store.history(task.id)
    assert history is not None
    (attempt,) = history.attempts
    assert (attempt.outcome, attempt.logs, attempt.logs_omitted) == ("succeeded", (), 1)


async def test_the_history_makes_room_for_whatever_is_written(
    store: DynamoStore, clock: ManualClock
) -> None:
    """The largest payload, and attempts that fail with all that they can leave: each is started,
    reports progress, is cancelled and run again. First go the lines, then the tracebacks, then what
    is in the middle."""
    payload = "x" * await largest(store, clock)
    (task,) = await start(store, clock, payload=payload)
    for number in range(1, 9):
        error = TaskError(type="ValueError", message=f"{number}", traceback=noise(4 * KB))
        retry = ScheduleRetry(
            task_id=task.id,
            attempt=number,
            error=error,
            run_at=clock.now(),
            scheduled=True,
            record=with_lines(clock, number, 3 * KB),
        )
        assert await store.record([retry]) == [Recorded(TaskStatus.PENDING)]
        (again,) = await store.claim([request_of(task.id, message=f"m{number}")])
        assert isinstance(again, Started)
        progress = Progress(task_id=task.id, attempt=number + 1, value="p" * 1000)
        assert await store.record([progress]) == [Recorded(TaskStatus.PROCESSING)]
    assert (await get(store, task.id)).progress == "p" * 1000
    history = await store.history(task.id)
    assert history is not None
    numbers = [one.number for one in history.attempts]
    assert numbers[0] == 1
    assert numbers[-1] == 9
    assert history.omitted == 9 - len(numbers)
    logged = [one.number for one in history.attempts if one.logs]
    traced = [one.number for one in history.attempts if one.error and one.error.traceback]
    assert len(logged) <= len(traced) <= len(numbers)

    await store.cancel([task.id])
    done = Complete(task_id=task.id, attempt=9, result={"ok": True})
    assert await store.record([done]) == [Recorded(TaskStatus.COMPLETED)]
    assert (await get(store, task.id)).payload == payload


async def test_a_foreign_item_without_room_does_not_stop_the_others(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    """Hidden again and again, until the queue's redrive policy takes its message away."""
    full = new_task_id()
    room = 400 * KB - 250
    await table.put(foreign(full, payload={"S": "x" * room}))
    (other,) = await create(store, clock)
    verdicts = await store.claim([request_of(full), request_of(other.id)])
    assert verdicts[0] == ExtraCopy()
    assert isinstance(verdicts[1], Started)

"""What a task costs in write units, as docs/adr/0014 says it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.base import Created, NewTask
from task_queue_engine.clock import ManualClock
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Complete,
    Fail,
    Interrupt,
    Progress,
    Recorded,
    ScheduleRetry,
    Started,
)
from task_queue_engine.task import Task
from tests.backends.aws.dynamodb.price import Meter, metered
from tests.backends.aws.dynamodb.tables import Table, amazons_own
from tests.backends.aws.dynamodb.tasks import ERROR, create, known_of, make_task, request_of, start

pytestmark = amazons_own

CREATE, START, COMPLETE = 1 + 1, 1 + 0, 1 + 0
MOVE = 1 + 2
"""An entry of the index goes from one partition to another."""


@pytest.fixture
async def meter(table: Table) -> AsyncIterator[Meter]:
    async with metered(table) as made:
        yield made


def done(task: Task, attempt: int = 1) -> AttemptWrite:
    return Complete(task_id=task.id, attempt=attempt, result={"sent": True})


async def record(store: DynamoStore, write: AttemptWrite) -> None:
    (verdict,) = await store.record([write])
    assert isinstance(verdict, Recorded)


async def claim(store: DynamoStore, task: Task, count: int) -> None:
    (verdict,) = await store.claim([request_of(task.id, count=count)])
    assert isinstance(verdict, Started)


async def sweep(store: DynamoStore, clock: ManualClock) -> None:
    await store.stranded("default", before=clock.now(), sent_before=None, limit=100)


async def test_a_task_that_runs_once(store: DynamoStore, clock: ManualClock, meter: Meter) -> None:
    """Half of what single writes of each status to an index by status cost."""
    (task,) = await create(store, clock)
    assert await meter.units() == CREATE
    clock.advance(1)
    await claim(store, task, 1)
    assert await meter.units() == START
    clock.advance(1)
    await record(store, done(task))
    assert await meter.units() == COMPLETE
    clock.advance(10_000)
    await sweep(store, clock)
    assert await meter.units() == 0
    assert CREATE + START + COMPLETE == 4


async def test_a_hundred_at_once(store: DynamoStore, clock: ManualClock, meter: Meter) -> None:
    """A batch saves requests, not units."""
    tasks = await start(store, clock, 100)
    await store.record([done(task) for task in tasks])
    assert await meter.units() == 400


async def test_a_task_that_waits_longer_than_the_lag(
    store: DynamoStore, clock: ManualClock, meter: Meter
) -> None:
    (task,) = await create(store, clock)
    clock.advance(121)
    await sweep(store, clock)
    await claim(store, task, 1)
    await record(store, done(task))
    assert await meter.units() == CREATE + MOVE + START + MOVE == 9


async def test_a_retry_and_its_success(
    store: DynamoStore, clock: ManualClock, meter: Meter
) -> None:
    (task,) = await start(store, clock)
    at_once = clock.now()
    await record(
        store,
        ScheduleRetry(
            task_id=task.id,
            attempt=1,
            error=ERROR,
            run_at=at_once,
            scheduled=False,
            record=known_of(clock),
        ),
    )
    await claim(store, task, 2)
    await record(store, done(task, attempt=2))
    assert await meter.units() == CREATE + START + MOVE + START + MOVE == 10


async def test_a_failure(store: DynamoStore, clock: ManualClock, meter: Meter) -> None:
    (task,) = await start(store, clock)
    await record(store, Fail(task_id=task.id, attempt=1, error=ERROR))
    assert await meter.units() == CREATE + START + MOVE == 6


async def test_an_interruption(store: DynamoStore, clock: ManualClock, meter: Meter) -> None:
    (task,) = await start(store, clock)
    await meter.units()
    await record(store, Interrupt(task_id=task.id, attempt=1, record=known_of(clock)))
    assert await meter.units() == MOVE


async def test_progress(store: DynamoStore, clock: ManualClock, meter: Meter) -> None:
    (task,) = await start(store, clock)
    await meter.units()
    await record(store, Progress(task_id=task.id, attempt=1, value=0.5))
    assert await meter.units() == 1


async def test_a_takeover_and_a_cancel_request_move_nothing(
    store: DynamoStore, clock: ManualClock, meter: Meter
) -> None:
    (task,) = await start(store, clock)
    await meter.units()
    await claim(store, task, 2)
    assert await meter.units() == 1
    await store.cancel([task.id])
    assert await meter.units() == 1 + 1  # of cancel-index


async def test_a_cancelled_one_and_its_second_round(
    store: DynamoStore, clock: ManualClock, meter: Meter
) -> None:
    (task,) = await create(store, clock)
    await store.cancel([task.id])
    assert await meter.units() == CREATE + MOVE
    await store.reopen([task.id])
    assert await meter.units() == MOVE


@pytest.mark.parametrize("wait", [300, 10_000])
async def test_what_is_to_wait_is_never_in_the_default_partition(
    store: DynamoStore, clock: ManualClock, meter: Meter, wait: float
) -> None:
    """The sweep would only have to move it."""
    run_at = clock.now() + timedelta(seconds=wait)
    due_at: datetime | None = run_at if wait > 900 else None
    task = make_task(clock, run_at=run_at)
    assert await store.create([NewTask(task=task, due_at=due_at)]) == [Created()]
    scheduled = due_at is not None  # into the due-index, and out of it
    assert await meter.units() == CREATE + scheduled
    clock.advance(wait)
    await sweep(store, clock)
    await claim(store, task, 1)
    assert await meter.units() == START + scheduled
    await record(store, done(task))
    assert await meter.units() == MOVE


async def test_what_an_operator_does(store: DynamoStore, clock: ManualClock, meter: Meter) -> None:
    """As docs/aws.md has it, for each task of an action."""
    waits, fails, ends = await create(store, clock, 3)
    await claim(store, fails, 1)
    await record(store, Fail(task_id=fails.id, attempt=1, error=ERROR))
    await claim(store, ends, 1)
    await record(store, done(ends))
    clock.advance(121)
    await sweep(store, clock)
    await meter.units()

    await store.cancel([waits.id])
    assert await meter.units() == MOVE
    for task in (waits, fails):
        await store.reopen([task.id])
        assert await meter.units() == MOVE
    await store.delete([ends.id])
    assert await meter.units() == 1 + 1

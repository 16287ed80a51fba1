"""What is written blindly is what `lifecycle` decides, and both writers write the same."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from task_queue_engine.attempt_record import LogLine
from task_queue_engine.backends.aws.dynamodb.transitions import Claim, Record
from task_queue_engine.clock import ManualClock
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Cancel,
    Complete,
    DuplicateDelivery,
    Fail,
    Interrupt,
    Progress,
    ScheduleRetry,
    ScheduleSnooze,
    Started,
)
from task_queue_engine.task import Task
from tests.backends.aws.dynamodb.faults import FaultyClient, Parameters, Send, nothing_wrong
from tests.backends.aws.dynamodb.tables import Table, amazons_own, table_on
from tests.backends.aws.dynamodb.tasks import ERROR, create, known_of, request_of, start
from tests.local_servers import require

# More than is left as it is: it is packed.
LINES = tuple(
    LogLine(
        time=datetime(2030, 1, 1, tzinfo=UTC),
        level="INFO",
        logger="shop",
        message=f"{n}: a line ☃",
    )
    for n in range(30)
)

Make = Callable[[ManualClock, str], AttemptWrite]

WRITES: dict[str, Make] = {
    "complete": lambda c, i: Complete(task_id=i, attempt=1, result={"n": 1.0}),
    "complete with nothing": lambda c, i: Complete(task_id=i, attempt=1, result=None),
    "fail": lambda c, i: Fail(task_id=i, attempt=1, error=ERROR),
    "cancel": lambda c, i: Cancel(task_id=i, attempt=1),
    "cancel with an error": lambda c, i: Cancel(task_id=i, attempt=1, error=ERROR),
    "retry": lambda c, i: ScheduleRetry(
        task_id=i,
        attempt=1,
        error=ERROR,
        run_at=_later(c, 60),
        scheduled=False,
        record=known_of(c, progress="earlier"),
    ),
    "retry by the scheduler": lambda c, i: ScheduleRetry(
        task_id=i,
        attempt=1,
        error=ERROR,
        run_at=_later(c, 60),
        scheduled=True,
        record=known_of(c, logs=LINES),
    ),
    "retry at once": lambda c, i: ScheduleRetry(
        task_id=i,
        attempt=1,
        error=ERROR,
        run_at=_later(c, -60),
        scheduled=False,
        record=known_of(c),
    ),
    "snooze": lambda c, i: ScheduleSnooze(
        task_id=i, attempt=1, run_at=_later(c, 60), scheduled=True, record=known_of(c)
    ),
    "interrupt": lambda c, i: Interrupt(task_id=i, attempt=1, record=known_of(c)),
    "complete with lines": lambda c, i: Complete(
        task_id=i, attempt=1, result=1, record=known_of(c, logs=LINES)
    ),
    "fail with lines": lambda c, i: Fail(
        task_id=i, attempt=1, error=ERROR, record=known_of(c, logs=LINES)
    ),
    "progress": lambda c, i: Progress(task_id=i, attempt=1, value=[0.5]),
    "progress with nothing": lambda c, i: Progress(task_id=i, attempt=1, value=None),
}


def _later(clock: ManualClock, seconds: float) -> datetime:
    return clock.now() + timedelta(seconds=seconds)


async def stored(table: Table, task: Task) -> dict[str, Any]:
    """The item, but for what is different in every item."""
    item = await table.item(task.id)
    assert item is not None
    for name in ("id", "token", "position"):
        del item[name]
    # Kept where the row was looked at, for what may have to be counted in place of a dead process.
    item.pop("taken_token", None)
    for name in ("create_token", "claim_token"):
        if name in item:
            item[name] = "a token"
    for name in ("status_shard", "due_shard"):
        if name in item:
            item[name] = item[name]["S"].partition("#")[0]
    return item


@pytest.mark.parametrize("retention", [0, 3600])
@pytest.mark.parametrize("kind", WRITES)
async def test_recorded_blindly_or_after_a_look(
    table: Table,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    retention: float,
) -> None:
    make = WRITES[kind]
    async with (store := table.store(clock=clock, retention=retention)).open():
        # With everything an earlier attempt can leave behind.
        blind, looked = await start(store, clock, 2, run_at=clock.now())
        for task in (blind, looked):
            await store.record([Progress(task_id=task.id, attempt=1, value="earlier")])
        clock.advance(1)

        await store.record([make(clock, blind.id)])
        monkeypatch.setattr(Record, "blind", lambda *_: None)
        await store.record([make(clock, looked.id)])

        assert await stored(table, blind) == await stored(table, looked)


async def test_started_blindly_or_after_a_look(
    table: Table, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (store := table.store(clock=clock)).open():
        tasks = await start(store, clock, 2, run_at=clock.now())
        for task in tasks:
            await store.record(
                [
                    Progress(task_id=task.id, attempt=1, value="earlier"),
                    ScheduleRetry(
                        task_id=task.id,
                        attempt=1,
                        error=ERROR,
                        run_at=clock.now(),
                        scheduled=True,
                    ),
                ]
            )
        clock.advance(1)
        blind, looked = tasks
        await store.claim([request_of(blind.id, message="m2")])
        monkeypatch.setattr(Claim, "blind", lambda *_: None)
        await store.claim([request_of(looked.id, message="m2")])
        assert await stored(table, blind) == await stored(table, looked)


@pytest.mark.parametrize("name", ["dynamodb-local", "ministack"])
async def test_both_writers_write_the_same(name: str, clock: ManualClock) -> None:
    async with table_on(require(name)) as table:
        items: dict[str, list[dict[str, Any]]] = {}
        for way in ("batch", "single"):
            async with (store := table.store(clock=clock, writes=way)).open():
                tasks = await start(store, clock, len(WRITES))
                for task, make in zip(tasks, WRITES.values(), strict=True):
                    await store.record([make(clock, task.id)])
                (waiting,) = await create(store, clock)
                await store.schedule([(waiting.id, clock.now())])
                (cancelled,) = await create(store, clock)
                await store.cancel([cancelled.id])
                items[way] = [await stored(table, task) for task in [*tasks, waiting, cancelled]]
        for batch, single in zip(items["batch"], items["single"], strict=True):
            assert batch == single


async def test_a_row_that_changed_after_it_was_read_is_looked_at_again(
    table: Table, clock: ManualClock
) -> None:
    """Another engine takes the task over between this one's look and its write. The status is
    the same before and after; the owner is not."""
    client = FaultyClient(table.client)
    async with (
        (store := table.store(client, clock=clock)).open(),
        (other := table.store(clock=clock)).open(),
    ):
        (task,) = await start(store, clock)

        async def overtaken(send: Send, parameters: Parameters) -> dict[str, Any]:
            (verdict,) = await other.claim([request_of(task.id, count=2)])
            assert isinstance(verdict, Started)
            return await send(parameters)

        client.arm_writes(nothing_wrong)
        client.arm_writes(overtaken)
        assert await store.claim([request_of(task.id, count=2)]) == [DuplicateDelivery()]
        (found,) = await store.get([task.id])
        assert found is not None
        assert (found.attempt, found.retry_count) == (2, 1)


@amazons_own
async def test_a_change_of_the_row_in_between_is_noticed(table: Table, clock: ManualClock) -> None:
    """Two engines cancel, start and record the same tasks at once: each row tells one story."""
    async with (
        (one := table.store(clock=clock)).open(),
        (two := table.store(clock=clock)).open(),
    ):
        tasks = await create(one, clock, 12)
        ids = [task.id for task in tasks]
        async with trio.open_nursery() as nursery:
            for store, message in itertools.product((one, two), ("m1", "m2")):
                requests = [request_of(each, message=message) for each in ids]
                nursery.start_soon(store.claim, requests)
            nursery.start_soon(one.cancel, ids)
            nursery.start_soon(two.reclaim, [(each, 1) for each in ids])
        found = [task for task in await one.get(ids) if task is not None]
        assert len(found) == 12
        await one.flush_counts()
        await two.flush_counts()
        by_status = Counter(task.status.lower() for task in found)
        for counts in (await one.counts(), await two.counts()):
            assert {name: getattr(counts, name) for name in by_status} == by_status
            assert counts.total == 12

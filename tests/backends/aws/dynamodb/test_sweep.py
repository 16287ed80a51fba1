"""The sweep passes over nothing: whatever is not finished when its time has come goes to OPEN."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import trio

from task_queue_engine.backends.aws.dynamodb import schema, sweep
from task_queue_engine.backends.aws.dynamodb import store as store_module
from task_queue_engine.backends.aws.dynamodb.schema import SWEEP_ID
from task_queue_engine.backends.aws.dynamodb.sort_keys import LOWEST_SORT_KEY
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.dynamodb.transitions import Claim, Record
from task_queue_engine.backends.base import Counts, Created, NewTask
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import Complete, Fail, Recorded, Started
from task_queue_engine.task import Task, TaskStatus
from tests.backends.aws.dynamodb.faults import FaultyClient, Parameters, Send, lost_answer, not_sent
from tests.backends.aws.dynamodb.tables import Table
from tests.backends.aws.dynamodb.tasks import ERROR, create, get, make_task, request_of, start

LAG = 120.0
"""The store's own, in seconds."""
REST = LAG / 4

batches_only = pytest.mark.parametrize("table", ["dynamodb-local/batch"], indirect=True)
"""Where a task's write and the sweep's notes are told apart by the operation."""


async def look(store: DynamoStore, clock: ManualClock) -> None:
    """What the reconciler does now and then."""
    await store.stranded("default", before=clock.now(), sent_before=None, limit=1000)


async def partition(table: Table, task: Task) -> str:
    item = await table.item(task.id)
    assert item is not None
    return str(item["status_shard"]["S"].partition("#")[0])


async def partitions(table: Table, tasks: list[Task]) -> set[str]:
    items = await table.items(task.id for task in tasks)
    assert len(items) == len(tasks)
    return {item["status_shard"]["S"].partition("#")[0] for item in items}


async def test_what_has_not_ended_in_time_goes_to_open(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    waiting, running, completed, failed = await create(store, clock, 4)
    await store.claim([request_of(task.id) for task in (running, completed, failed)])
    await store.record(
        [
            Complete(task_id=completed.id, attempt=1, result=1),
            Fail(task_id=failed.id, attempt=1, error=ERROR),
        ]
    )
    clock.advance(LAG)
    (young,) = await create(store, clock)
    clock.advance(1)

    await look(store, clock)

    assert await partition(table, waiting) == await partition(table, running) == "OPEN"
    assert await partition(table, completed) == await partition(table, young) == "ROUTINE"
    assert await partition(table, failed) == "FAILED"
    before = await get(store, running.id)
    await store.record([Complete(task_id=running.id, attempt=1, result=1)])
    assert before.status is TaskStatus.PROCESSING
    assert await partition(table, running) == "ROUTINE"


async def test_no_caller_sees_a_task_change_by_it(store: DynamoStore, clock: ManualClock) -> None:
    """Neither what the API says, nor who may write to it."""
    (waiting,) = await create(store, clock)
    (running,) = await start(store, clock)
    clock.advance(LAG + 1)
    await look(store, clock)
    assert await get(store, waiting.id) == waiting
    assert await get(store, running.id) == running
    (started,) = await store.claim([request_of(waiting.id)])
    assert isinstance(started, Started)
    endings = [Complete(task_id=task.id, attempt=1, result=1) for task in (waiting, running)]
    assert await store.record(endings) == [Recorded(TaskStatus.COMPLETED)] * 2


@batches_only
async def test_what_could_not_be_moved_is_moved_later(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    tasks = await create(store, clock, 5)
    clock.advance(LAG + 1)
    client.arm(not_sent, "BatchExecuteStatement")
    with pytest.raises(BackendUnavailable):
        await look(store, clock)
    client.disarm()
    clock.advance(61)  # the lease is over
    await look(store, clock)
    assert await partitions(table, tasks) == {"OPEN"}


@batches_only
async def test_a_crash_between_moving_and_noting_it(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    tasks = await create(store, clock, 5)
    clock.advance(LAG + 1)

    async def not_noted(send: Send, parameters: Parameters) -> dict[str, Any]:
        if "#swept[" in parameters["UpdateExpression"]:
            raise BackendUnavailable("killed by a test")
        return await send(parameters)

    client.arm(not_noted, "UpdateItem", times=2)
    with pytest.raises(BackendUnavailable):
        await look(store, clock)
    noted = await table.item(SWEEP_ID)
    assert noted is not None
    assert {place["S"] for place in noted["swept"]["L"]} == {LOWEST_SORT_KEY}
    (late,) = await create(store, clock, created_at=clock.now() - timedelta(seconds=20))

    clock.advance(LAG)
    async with (other := table.store(clock=clock)).open():
        await look(other, clock)
    assert await partitions(table, [*tasks, late]) == {"OPEN"}


@batches_only
@pytest.mark.parametrize("fault", [lost_answer, not_sent])
async def test_a_lease_whose_answer_is_lost(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock, fault: Any
) -> None:
    tasks = await create(store, clock, 3)
    clock.advance(LAG + 1)
    client.arm(fault, "UpdateItem")
    with pytest.raises(BackendUnavailable):
        await look(store, clock)
    clock.advance(61)
    await look(store, clock)
    assert await partitions(table, tasks) == {"OPEN"}


async def test_one_engine_sweeps_for_all(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    await create(store, clock, 5)
    clock.advance(LAG + 1)
    async with (other := table.store(clock=clock)).open():
        await look(store, clock)
        await look(other, clock)
        await look(store, clock)
        requests = [each.usage().by_step["sweep"].requests for each in (store, other)]
        assert requests[0] > 10
        assert requests[1] == 1  # to hear that the lease is another's
        clock.advance(REST)
        await look(other, clock)
        assert other.usage().by_step["sweep"].requests > schema.STATUS_SHARDS


@batches_only
async def test_a_piece_is_bounded_and_the_next_goes_on(
    table: Table, store: DynamoStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_TURN", 0.0)
    monkeypatch.setattr(sweep, "_PAGE", 2)
    tasks = await create(store, clock, 60)
    ended = await start(store, clock, 60)
    await store.record([Complete(task_id=task.id, attempt=1, result=1) for task in ended])
    clock.advance(LAG + 1)
    cursor = None
    pieces = [0]
    while cursor is not None or pieces == [0]:
        page = await store.stranded(
            "default", before=clock.now(), sent_before=None, limit=1000, cursor=cursor
        )
        cursor = page.next_cursor
        items = await table.items(task.id for task in tasks)
        pieces.append(sum("OPEN" in item["status_shard"]["S"] for item in items))
        clock.advance(1)
    # A page of 2 from each shard.
    assert max(after - before for before, after in pairwise(pieces)) <= 20
    assert len(pieces) > 3
    assert await partitions(table, tasks) == {"OPEN"}
    assert await partitions(table, ended) == {"ROUTINE"}


# --- against other writers ------------------------------------------------------------------


async def before_the_move(
    table: Table, client: FaultyClient, clock: ManualClock, store: DynamoStore, other_write: Any
) -> None:
    """Between the sweep's look at the rows and what it writes."""

    has_written = False

    async def meanwhile(send: Send, parameters: Parameters) -> dict[str, Any]:
        nonlocal has_written
        answer = await send(parameters)
        # Of the task, and the last look: what is written goes by it.
        if "status_shard" in parameters.get("ExpressionAttributeNames", {}).values():
            async with (other := table.store(clock=clock)).open():
                await other_write(other)
            has_written = True
        return answer

    clock.advance(LAG + 1)
    client.arm(meanwhile, "GetItem", times=4)
    await look(store, clock)
    assert has_written


async def test_a_task_that_starts_meanwhile_is_moved(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    (task,) = await create(store, clock)

    async def starts(other: DynamoStore) -> None:
        (verdict,) = await other.claim([request_of(task.id)])
        assert isinstance(verdict, Started)

    await before_the_move(table, client, clock, store, starts)
    assert await partition(table, task) == "OPEN"
    assert (await get(store, task.id)).status is TaskStatus.PROCESSING


async def test_a_task_that_ends_meanwhile_is_not(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    (task,) = await start(store, clock)

    async def ends(other: DynamoStore) -> None:
        await other.record([Complete(task_id=task.id, attempt=1, result=1)])

    await before_the_move(table, client, clock, store, ends)
    assert await partition(table, task) == "ROUTINE"


@batches_only
@pytest.mark.parametrize("kind", ["start", "completion"])
async def test_a_decision_that_was_made_before_the_move(
    table: Table,
    store: DynamoStore,
    client: FaultyClient,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """The long way: read, decide, write. Each ends up where tasks of its status are looked for."""
    is_start = kind == "start"
    monkeypatch.setattr(Claim if is_start else Record, "blind", lambda *_: None)
    (task,) = await (create if is_start else start)(store, clock)
    clock.advance(LAG + 1)

    async def swept_first(send: Send, parameters: Parameters) -> dict[str, Any]:
        async with (other := table.store(clock=clock)).open():
            await look(other, clock)
        assert await partition(table, task) == "OPEN"
        return await send(parameters)

    client.arm(swept_first, "BatchExecuteStatement")
    if is_start:
        await store.claim([request_of(task.id)])
    else:
        await store.record([Complete(task_id=task.id, attempt=1, result=1)])
    expected = TaskStatus.PROCESSING if is_start else TaskStatus.COMPLETED
    assert (await get(store, task.id)).status is expected
    assert await partition(table, task) == ("OPEN" if is_start else "ROUTINE")


# --- what comes late ------------------------------------------------------------------------


async def test_a_task_of_long_ago_is_never_in_the_default_partition(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    (soon,) = await create(store, clock, created_at=clock.now() - timedelta(seconds=LAG / 4))
    (old,) = await create(store, clock, created_at=clock.now() - timedelta(seconds=LAG / 4 + 1))
    assert await partition(table, soon) == "ROUTINE"
    assert await partition(table, old) == "OPEN"


async def test_a_creation_that_took_too_long(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """The process hung (or its machine slept) between making the request and sending it. The
    sweep may have passed the task's place before it was there."""
    task = make_task(clock)

    async def hangs(send: Send, parameters: Parameters) -> dict[str, Any]:
        clock.advance(LAG)
        async with (other := table.store(clock=clock)).open():
            clock.advance(LAG)
            await look(other, clock)
        return await send(parameters)

    client.arm_writes(hangs)
    assert await store.create([NewTask(task=task)]) == [Created()]
    assert await partition(table, task) == "OPEN"


@batches_only
async def test_a_creation_is_not_answered_for_before_it_can_be_found(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    task = make_task(clock)

    async def hangs(send: Send, parameters: Parameters) -> dict[str, Any]:
        clock.advance(LAG)
        return await send(parameters)

    client.arm(hangs, "BatchExecuteStatement")
    client.arm(not_sent, "BatchExecuteStatement")
    with pytest.raises(BackendUnavailable):
        await store.create([NewTask(task=task)])
    assert await partition(table, task) == "ROUTINE"

    assert await store.create([NewTask(task=task)]) == [Created()]
    assert await partition(table, task) == "OPEN"
    assert await store.counts() == Counts(pending=1)


@batches_only
async def test_a_creation_that_runs_out_of_time_is_not_answered_for_either(
    table: Table, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seconds: all of it is waited for, and a busy machine's answers come within it.
    monkeypatch.setattr(store_module, "_CALL_TIMEOUT", 3.0)
    client = FaultyClient(table.client)
    task = make_task(clock)

    async def hangs(send: Send, parameters: Parameters) -> dict[str, Any]:
        clock.advance(LAG)
        return await send(parameters)

    async def never_ends(send: Send, parameters: Parameters) -> dict[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    async with (store := table.store(client, clock=clock)).open():
        client.arm(hangs, "BatchExecuteStatement")
        client.arm(never_ends, "BatchExecuteStatement")
        with pytest.raises(BackendUnavailable):
            await store.create([NewTask(task=task)])
        assert await store.create([NewTask(task=task)]) == [Created()]
    assert await partition(table, task) == "OPEN"


async def test_what_the_index_showed_late_is_found_at_the_second_look(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    """Half an hour after its creation, say."""
    (late, other) = await create(store, clock, 2)
    item = await table.item(late.id)
    assert item is not None
    hidden = item.pop("position")
    await table.put(item)
    clock.advance(1800)
    await look(store, clock)
    assert await partition(table, other) == "OPEN"
    await table.put(item | {"position": hidden})
    clock.advance(600)
    await look(store, clock)
    assert await partition(table, late) == "ROUTINE"
    clock.advance(30 * LAG * 1.25 - 2400 + 1)
    await look(store, clock)
    assert await partition(table, late) == "OPEN"


async def test_a_clock_that_is_ahead_makes_nothing_pass_unseen(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    """An engine whose clock is an hour ahead sweeps what has not been created yet."""
    ahead = ManualClock(clock.now() + timedelta(hours=1))
    async with (wrong := table.store(clock=ahead)).open():
        await look(wrong, ahead)
    clock.advance(1)
    await look(store, clock)  # sets it right
    tasks = await create(store, clock, 3)
    clock.advance(LAG + 1)
    await look(store, clock)
    assert await partitions(table, tasks) == {"OPEN"}


async def test_forgetting_goes_by_the_time_of_the_end(
    store: DynamoStore, clock: ManualClock
) -> None:
    """Of tasks that began together one may have ended long after the other, and they lie side by
    side; those that still run lie there, too."""
    early, late, failed, running = await start(store, clock, 4)
    await store.record([Complete(task_id=early.id, attempt=1, result=1)])
    clock.advance(100)
    cut = clock.now()
    clock.advance(100)
    await store.record(
        [
            Complete(task_id=late.id, attempt=1, result=1),
            Fail(task_id=failed.id, attempt=1, error=ERROR),
        ]
    )
    assert await store.expire(finished_before=cut, limit=10) == 1
    left = await store.get([early.id, late.id, failed.id, running.id])
    assert [task is not None for task in left] == [False, True, True, True]
    assert await store.expire(finished_before=clock.now() + timedelta(seconds=1), limit=10) == 2
    assert await store.counts() == Counts(processing=1)

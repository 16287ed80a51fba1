"""Listing over shards: what the conformance suite cannot see."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from task_queue_engine.backends.aws import listing
from task_queue_engine.backends.aws.dynamodb import DynamoStore
from task_queue_engine.backends.aws.table import STATUS_SHARDS
from task_queue_engine.backends.base import ListQuery, NewTask
from task_queue_engine.backends.cursors import encode_cursor
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.lifecycle import Complete
from task_queue_engine.task import Task, TaskStatus
from tests.aws.dynamodb.faults import FaultyClient, Parameters, Send
from tests.aws.dynamodb.opening import Table
from tests.aws.dynamodb.steps import create, make_task, request_of, start


async def everything(
    store: DynamoStore, *, limit: int, **filters: Any
) -> tuple[list[Task], list[int]]:
    """All tasks, and how many there were on each page."""
    tasks: list[Task] = []
    sizes: list[int] = []
    cursor = None
    while True:
        page = await store.list_tasks(ListQuery(limit=limit, cursor=cursor, **filters))
        tasks += page.tasks
        sizes.append(len(page.tasks))
        cursor = page.next_cursor
        if cursor is None:
            return tasks, sizes


async def populate(store: DynamoStore, clock: ManualClock, number: int) -> list[Task]:
    """Newest first. Every tenth is rare."""
    tasks = []
    for i in range(number):
        clock.advance(random.Random(i).choice([0, 0.000_001, 1]))
        tasks.append(make_task(clock, type="rare" if i % 10 == 0 else "email", payload=i))
    for start_at in range(0, number, 100):
        await store.create([NewTask(task=task) for task in tasks[start_at : start_at + 100]])
    return sorted(tasks, key=lambda task: (task.created_at, task.id), reverse=True)


async def test_shards_are_merged_newest_first(store: DynamoStore, clock: ManualClock) -> None:
    tasks = await populate(store, clock, 150)
    for limit in (7, 50, 149, 150, 151):
        found, sizes = await everything(store, limit=limit)
        assert found == tasks
        assert set(sizes[:-1]) <= {limit}
    pending, _ = await everything(store, limit=40, status=TaskStatus.PENDING)
    assert pending == tasks


async def test_tasks_are_spread_over_the_shards(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    await populate(store, clock, 100)
    scanned = await table.call("Scan", ConsistentRead=True)
    shards = {item["status_shard"]["S"] for item in scanned["Items"] if "status_shard" in item}
    assert shards == {f"PENDING#{n}" for n in range(STATUS_SHARDS)}


async def test_a_page_costs_what_its_size_is(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """Not what the number of tasks is."""
    await populate(store, clock, 300)
    rows = 0

    async def counting(send: Send, parameters: Parameters) -> dict[str, Any]:
        nonlocal rows
        answer = await send(parameters)
        rows += answer["ScannedCount"]
        return answer

    client.arm(counting, "Query", times=100)
    await store.list_tasks(ListQuery(limit=10, status=TaskStatus.PENDING))
    assert rows < 60


async def test_a_rare_type_is_found_among_many(store: DynamoStore, clock: ManualClock) -> None:
    tasks = await populate(store, clock, 150)
    rare = [task for task in tasks if task.type == "rare"]
    for limit in (4, 15, 16):
        assert (await everything(store, limit=limit, type="rare"))[0] == rare


async def test_a_filter_that_hardly_anything_passes_gets_short_pages(
    store: DynamoStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is answered after a bounded amount of work, and nothing is skipped."""
    tasks = await populate(store, clock, 150)
    rare = [task for task in tasks if task.type == "rare"]
    monkeypatch.setattr(listing, "_FIRST_FILTERED", 1)
    monkeypatch.setattr(listing, "_MOST", 2)
    monkeypatch.setattr(listing, "_MAX_ROUNDS", 2)
    found, sizes = await everything(store, limit=10, type="rare", status=TaskStatus.PENDING)
    assert found == rare
    assert any(size < 10 for size in sizes[:-1])


async def test_a_task_between_two_partitions_is_listed_once(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """The index shows it under its old status when that is read, under the new one later."""
    (task,) = await create(store, clock)
    has_started = trio.Event()
    async with (other := table.store(clock=clock)).open():

        async def starts_afterwards(send: Send, parameters: Parameters) -> dict[str, Any]:
            shard = parameters["ExpressionAttributeValues"][":shard"]["S"]
            if shard.startswith("PROCESSING"):
                await has_started.wait()
            answer = await send(parameters)
            if answer["Items"] and shard.startswith("PENDING"):
                await other.claim([request_of(task.id)])
                has_started.set()
            return answer

        client.arm(starts_afterwards, "Query", times=len(TaskStatus) * STATUS_SHARDS)
        page = await store.list_tasks(ListQuery())
    assert [found.id for found in page.tasks] == [task.id]


async def test_what_has_changed_its_status_meanwhile_is_left_out(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """A list of PENDING tasks shows none that runs."""
    first, second = await create(store, clock, 2)

    async with (other := table.store(clock=clock)).open():

        async def starts_first(send: Send, parameters: Parameters) -> dict[str, Any]:
            await other.claim([request_of(first.id)])
            return await send(parameters)

        client.arm(starts_first, "BatchGetItem")
        page = await store.list_tasks(ListQuery(status=TaskStatus.PENDING))
    assert [found.id for found in page.tasks] == [second.id]


@pytest.mark.parametrize(
    "position", ["", "#", "x", "2030-01-01T00:00:00.000000Z", "2030#" + "x" * 500, "a#"]
)
async def test_a_made_up_cursor_is_refused(store: DynamoStore, position: str) -> None:
    with pytest.raises(InvalidQuery):
        await store.list_tasks(ListQuery(cursor=encode_cursor("tasks", (position,))))


async def test_due_tasks_are_merged_over_their_shards(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    tasks = await create(store, clock, 20)
    order = random.Random(7).sample(tasks, 20)
    for task in order:
        clock.advance(1)
        await store.schedule([(task.id, clock.now())])
    due = await store.due(before=clock.now(), limit=8)
    assert [task.id for task in due] == [task.id for task in order[:8]]


async def test_looking_for_due_tasks_costs_little_when_there_are_none(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    await start(store, clock, 10)
    await create(store, clock, 10)
    client.calls.clear()
    assert await store.due(before=clock.now(), limit=100) == []
    assert client.calls["Query"] == 4
    assert client.calls["BatchGetItem"] == 0


async def test_cancel_requests_cost_one_request_for_all_in_hand(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    tasks = await start(store, clock, 30)
    await store.cancel([tasks[3].id, tasks[17].id])
    client.calls.clear()
    asked = await store.cancel_requested([task.id for task in tasks])
    assert [n for n, is_asked in enumerate(asked) if is_asked] == [3, 17]
    assert client.calls.total() == 1

    await store.record([Complete(task_id=tasks[3].id, attempt=1, result=1)])
    asked = await store.cancel_requested([task.id for task in tasks])
    assert [n for n, is_asked in enumerate(asked) if is_asked] == [17]

"""Listing over shards: what the conformance suite cannot see."""

from __future__ import annotations

import random
from typing import Any

import pytest

from task_queue_engine.backends.aws.dynamodb import listing, schema
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.base import ListQuery, NewTask
from task_queue_engine.backends.cursors import encode_cursor
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.lifecycle import Complete, Fail, PendingFailure
from task_queue_engine.task import Task, TaskError, TaskStatus
from tests.backends.aws.dynamodb.faults import FaultyClient, Parameters, Send
from tests.backends.aws.dynamodb.tables import Table
from tests.backends.aws.dynamodb.tasks import ERROR, create, make_task, request_of, start
from tests.sizes import size

LAG = 120.0


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


async def sweep(table: Table, clock: ManualClock) -> None:
    """By another engine."""
    async with (other := table.store(clock=clock)).open():
        await other.stranded("default", before=clock.now(), sent_before=None, limit=100)


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
    for limit in (size(40, in_full=7), 50, 149, 150, 151):
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
    assert shards == {f"ROUTINE#{n}" for n in range(schema.STATUS_SHARDS)}


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


async def test_a_look_for_an_error_reads_a_bounded_number_of_rows(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none of tasks that are COMPLETED, which have no error, but for the youngest."""
    tasks = await populate(store, clock, 150)
    error = TaskError(type="ValueError", message="no route")
    failures = [PendingFailure(task_id=task.id, attempt=0, error=error) for task in tasks]
    for start_at in range(0, 150, 100):
        await store.fail_pending(failures[start_at : start_at + 100])
    monkeypatch.setattr(listing, "_MAX_WITHOUT_ERROR", 20)
    rows = 0

    async def counting(send: Send, parameters: Parameters) -> dict[str, Any]:
        nonlocal rows
        for table in parameters["RequestItems"].values():
            rows += len(table["Keys"])
        return await send(parameters)

    client.arm(counting, "BatchGetItem", times=1000)
    page = await store.list_tasks(ListQuery(limit=10, error="no such route"))
    assert page.tasks == ()
    assert page.next_cursor is not None
    assert rows < 60
    found, _ = await everything(store, limit=10, error="NO ROUTE")
    assert found == await store.get([task.id for task in tasks])


@pytest.mark.parametrize("status", [None, TaskStatus.PENDING])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_task_that_is_reindexed_meanwhile_is_listed_once(
    table: Table,
    store: DynamoStore,
    client: FaultyClient,
    clock: ManualClock,
    status: TaskStatus | None,
    when: str,
) -> None:
    """The sweep moves it from one partition to another between the two looks at them."""
    (task,) = await create(store, clock)
    clock.advance(LAG + 1)

    async def swept(send: Send, parameters: Parameters) -> dict[str, Any]:
        if not parameters["ExpressionAttributeValues"][":shard"]["S"].startswith("ROUTINE"):
            return await send(parameters)
        if when == "before":
            await sweep(table, clock)
        answer = await send(parameters)
        if when == "after":
            await sweep(table, clock)
        return answer

    client.arm(swept, "Query", times=len(IndexPartition) * schema.STATUS_SHARDS)
    page = await store.list_tasks(ListQuery(status=status))
    assert page.tasks == (task,)
    item = await table.item(task.id)
    assert item is not None
    assert item["status_shard"]["S"].startswith("OPEN")


async def test_what_was_reindexed_just_now_is_listed_before_the_index_shows_it(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """It follows the table within a moment: until then the task is where it was."""
    tasks = await populate(store, clock, 10)
    clock.advance(LAG + 1)
    await sweep(table, clock)
    (younger,) = await create(store, clock)
    clock.advance(LAG + 1)
    key = Index.as_it_is(await table.call("Scan", ConsistentRead=True))
    await sweep(table, clock)

    async def stale(send: Send, parameters: Parameters) -> dict[str, Any]:
        return {"Items": key.between(parameters["ExpressionAttributeValues"])}

    client.arm(stale, "Query", times=2 * schema.STATUS_SHARDS)
    page = await store.list_tasks(ListQuery(status=TaskStatus.PENDING))
    assert list(page.tasks) == [younger, *tasks]


class Index:
    """What a partition has held at some time."""

    def __init__(self, places: list[tuple[str, str]]) -> None:
        self._places = places

    @classmethod
    def as_it_is(cls, scanned: dict[str, Any]) -> Index:
        found = [item for item in scanned["Items"] if "position" in item]
        return cls([(item["status_shard"]["S"], item["position"]["S"]) for item in found])

    def between(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        above, below = values[":above"]["S"], values[":below"]["S"]
        return [
            {"position": {"S": position}}
            for shard, position in sorted(self._places, reverse=True)
            if shard == values[":shard"]["S"] and above <= position <= below
        ]


@pytest.mark.parametrize("table", ["dynamodb-local"], indirect=True)  # moto takes too long
async def test_lists_by_status_before_and_after_the_sweep(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    """Whatever partition they are in, and page by page."""
    expected: dict[TaskStatus, list[str]] = {status: [] for status in TaskStatus}
    for _ in range(2):
        tasks = (await populate(store, clock, size(30, in_full=50)))[::-1]
        by_status = dict(zip(TaskStatus, (tasks[n::5] for n in range(5)), strict=True))
        await store.claim(
            [
                request_of(task.id)
                for status, those in by_status.items()
                for task in those
                if status not in (TaskStatus.PENDING, TaskStatus.CANCELLED)
            ]
        )
        await store.record(
            [
                Complete(task_id=task.id, attempt=1, result=1)
                for task in by_status[TaskStatus.COMPLETED]
            ]
        )
        await store.record(
            [Fail(task_id=task.id, attempt=1, error=ERROR) for task in by_status[TaskStatus.FAILED]]
        )
        await store.cancel([task.id for task in by_status[TaskStatus.CANCELLED]])
        for status, those in by_status.items():
            expected[status] += [
                each.id for each in sorted(those, key=lambda task: (task.created_at, task.id))
            ]
        for limit in size((5, 6), in_full=(3, 10, 11)):  # even and uneven numbers of pages
            for status in TaskStatus:
                found, sizes = await everything(store, limit=limit, status=status)
                assert [task.id for task in found] == expected[status][::-1]
                assert {task.status for task in found} == {status}
                assert set(sizes[:-1]) <= {limit}
            found, _ = await everything(store, limit=limit)
            assert (
                len(found) == len({task.id for task in found}) == sum(map(len, expected.values()))
            )
        clock.advance(LAG + 1)
        await sweep(table, clock)
        clock.advance(LAG + 1)
        await sweep(table, clock)


async def test_what_the_sweep_has_settled_is_not_read_for_the_unfinished(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    """A list of what runs must not cost what the number of all COMPLETED tasks is."""
    tasks = await start(store, clock, 80)
    await store.record([Complete(task_id=task.id, attempt=1, result=1) for task in tasks])
    clock.advance(LAG + 1)
    for _ in range(2):
        await sweep(table, clock)
        clock.advance(LAG)
    (running,) = await start(store, clock)
    page = await store.list_tasks(ListQuery(status=TaskStatus.PROCESSING))
    assert [task.id for task in page.tasks] == [running.id]
    assert page.next_cursor is None
    assert store.usage().by_step["list_tasks"].requests <= 25


async def test_rows_read_in_vain_are_bounded_page_by_page(
    store: DynamoStore, client: FaultyClient, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs, behind all that waits."""
    (running,) = await start(store, clock)
    clock.advance(1)
    await populate(store, clock, 150)
    monkeypatch.setattr(listing, "_MAX_IN_VAIN", 20)
    monkeypatch.setattr(listing, "_MOST_ROWS", 10)
    found, sizes = await everything(store, limit=5, status=TaskStatus.PROCESSING)
    assert [task.id for task in found] == [running.id]
    assert 5 <= len(sizes) <= 10


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
    due = await store.due("default", before=clock.now(), limit=8)
    assert [each.task.id for each in due] == [task.id for task in order[:8]]


async def test_what_is_overdue_on_other_queues_is_read_once(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """Their engines do not run: a look reads past them in the index, and not their rows again."""
    others = await create(store, clock, 30, queue="other")
    await store.schedule([(task.id, clock.now()) for task in others])
    clock.advance(1)
    (mine,) = await create(store, clock, 1)
    await store.schedule([(mine.id, clock.now())])
    for known in (False, True):
        client.calls.clear()
        (due,) = await store.due("default", before=clock.now(), limit=5)
        assert due.task.id == mine.id
        assert (client.calls["BatchGetItem"] > 1) != known


async def test_looking_for_due_tasks_costs_little_when_there_are_none(
    store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    await start(store, clock, 10)
    await create(store, clock, 10)
    client.calls.clear()
    assert await store.due("default", before=clock.now(), limit=100) == []
    assert client.calls["Query"] == 4
    assert client.calls["BatchGetItem"] == 0


async def test_cancel_requests_cost_one_request_for_all_in_flight(
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


async def test_a_look_in_vain_ends_in_time(
    store: DynamoStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow store too: the page is short, and the next one goes on there."""
    await populate(store, clock, 60)
    query = ListQuery(limit=50, type="rare")
    monkeypatch.setattr(listing, "_FIRST_FILTERED", 1)
    monkeypatch.setattr(listing, "_MAX_ROUNDS", 1_000)
    monkeypatch.setattr(listing, "_MOST_SECONDS", 1_000)
    whole = await store.list_tasks(query)
    assert (len(whole.tasks), whole.next_cursor) == (6, None)
    monkeypatch.setattr(listing, "_MOST_SECONDS", 0.0)
    short = await store.list_tasks(query)
    assert len(short.tasks) < 6
    assert short.next_cursor is not None

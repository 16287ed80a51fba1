"""Counters: exact for this process, soon right for others, and mended after a crash."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.counter_repair import (
    CounterRepair,
    CountRepair,
    between_repairs,
)
from task_queue_engine.backends.aws.dynamodb.counters import Counters
from task_queue_engine.backends.aws.dynamodb.schema import (
    IndexPartition,
    counter_ids,
)
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.base import Counts
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import Complete, Fail
from task_queue_engine.task import TaskStatus
from tests.backends.aws.dynamodb.faults import (
    Fault,
    FaultyClient,
    Parameters,
    Send,
    lost_answer,
    not_sent,
    sent_twice,
)
from tests.backends.aws.dynamodb.tables import Table, amazons_own
from tests.backends.aws.dynamodb.tasks import ERROR, create, request_of, start

DAY = 24 * 3600.0


@pytest.fixture
def counters_client(table: Table) -> FaultyClient:
    """Its faults hit the counters too."""
    return FaultyClient(table.client, of_counters=True)


async def totals(table: Table) -> dict[str, int]:
    """What the counter items hold together."""
    sums: dict[str, int] = {}
    for item in await table.items(counter_ids()):
        for name, value in item.items():
            if "N" in value and not name.startswith(("flushed_", "upto_", "age_", "re")):
                sums[name] = sums.get(name, 0) + int(value["N"])
    return sums


async def until_counts(store: DynamoStore, expected: Counts) -> None:
    with trio.fail_after(20):
        while await store.counts() != expected:  # noqa: ASYNC110  # another process's doing
            await trio.sleep(0.01)


async def marks(table: Table) -> set[str]:
    found: set[str] = set()
    for item in await table.items(counter_ids()):
        found |= {name for name in item if name.startswith("flushed_")}
    return found


async def test_counts_of_other_processes_show_once_they_are_flushed(
    table: Table, clock: ManualClock
) -> None:
    async with (
        (one := table.store(clock=clock)).open(),
        (two := table.store(clock=clock)).open(),
    ):
        await start(one, clock, 3)
        await create(two, clock, 2)
        for store in (one, two):
            await store.flush_counts()
        assert await one.counts() == Counts(pending=2, processing=3) == await two.counts()


async def test_a_busy_process_flushes_by_itself(table: Table, clock: ManualClock) -> None:
    async with (
        (one := table.store(clock=clock, flush_interval=0.02)).open(),
        (other := table.store(clock=clock)).open(),
    ):
        for number in range(1, 4):
            await create(one, clock)
            await until_counts(other, Counts(pending=number))


async def test_the_last_flush_is_made_on_closing(table: Table, clock: ManualClock) -> None:
    async with (store := table.store(clock=clock)).open():
        await create(store, clock, 2)
        await store.flush_counts()
        await create(store, clock, 3)
    assert (await totals(table))["pending"] == 5
    assert await marks(table) == set()


async def test_an_idle_process_writes_nothing(
    table: Table, client: FaultyClient, clock: ManualClock
) -> None:
    async with table.store(client, clock=clock, flush_interval=0.001).open():
        await trio.sleep(0.05)
    assert client.calls["UpdateItem"] == 0


async def test_many_writes_are_one_flush(
    table: Table, client: FaultyClient, clock: ManualClock
) -> None:
    async with (store := table.store(client, clock=clock)).open():
        await create(store, clock)
        with trio.fail_after(20):
            # Flushed at once; from then on the process waits for the interval.
            while (await totals(table)).get("pending") != 1:  # noqa: ASYNC110  # the store's doing
                await trio.sleep(0.001)
        await store.flush_counts()
        before = store.usage().by_step["counters"].requests
        await start(store, clock, 30)
        await store.flush_counts()
        assert store.usage().by_step["counters"].requests == before + 1


@pytest.mark.parametrize("fault", [lost_answer, not_sent, sent_twice])
async def test_a_flush_counts_once(
    table: Table, counters_client: FaultyClient, clock: ManualClock, fault: Fault
) -> None:
    """Whatever becomes of its answer."""
    async with (store := table.store(counters_client, clock=clock)).open():
        await create(store, clock)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await create(store, clock, 2)
        counters_client.arm(fault, "UpdateItem")
        try:
            await store.flush_counts()
        except BackendUnavailable:
            assert fault is not sent_twice
        # In doubt about the flush, in no doubt about the counts.
        assert await store.counts() == Counts(pending=3)
        await create(store, clock)
        assert await store.counts() == Counts(pending=4)
        await store.flush_counts()
        assert await store.counts() == Counts(pending=4)
        assert (await totals(table))["pending"] == 4


async def test_counts_are_exact_while_a_flush_is_under_way(
    table: Table, counters_client: FaultyClient, clock: ManualClock
) -> None:
    """Read before the flush and answered after it, or the other way round: nothing is counted
    twice, nothing left out."""
    async with (store := table.store(counters_client, clock=clock)).open():
        await create(store, clock)
        await trio.testing.wait_all_tasks_blocked(0.02)
        has_read, may_answer = trio.Event(), trio.Event()

        async def answered_late(send: Send, parameters: Parameters) -> dict[str, Any]:
            answer = await send(parameters)
            has_read.set()
            await may_answer.wait()
            return answer

        await create(store, clock, 2)
        seen: list[Counts] = []

        async def look() -> None:
            seen.append(await store.counts())

        counters_client.arm(answered_late, "BatchGetItem")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await has_read.wait()
            await store.flush_counts()
            seen.append(await store.counts())
            may_answer.set()
        assert seen == [Counts(pending=3)] * 2


@amazons_own
async def test_engines_at_once(table: Table, clock: ManualClock) -> None:
    """Several processes create, start and end tasks side by side and flush all the time."""
    async with AsyncExitStack() as stack:
        stores = [table.store(clock=clock, flush_interval=0.001) for _ in range(4)]
        for store in stores:
            await stack.enter_async_context(store.open())

        async def work(store: DynamoStore) -> None:
            for _ in range(3):
                tasks = await start(store, clock, 4)
                await store.record(
                    [Complete(task_id=task.id, attempt=1, result=None) for task in tasks[:3]]
                )

        async with trio.open_nursery() as nursery:
            for store in stores:
                nursery.start_soon(work, store)
        for store in stores:
            await store.flush_counts()
        for store in stores:
            assert await store.counts() == Counts(processing=12, completed=36)


async def crash(table: Table, clock: ManualClock) -> None:
    """A process that is killed after it did things and before it could flush them."""
    client = FaultyClient(table.client, of_counters=True)
    client.arm(not_sent, "UpdateItem", times=1000)
    async with (store := table.store(client, clock=clock)).open():
        tasks = await start(store, clock, 3)
        await create(store, clock, 2)
        await store.record([Complete(task_id=tasks[0].id, attempt=1, result=1)])


async def test_what_a_crash_loses_and_a_repair_finds(table: Table, clock: ManualClock) -> None:
    await crash(table, clock)
    async with (store := table.store(clock=clock, flush_interval=0.01)).open():
        await create(store, clock)
        # Off by what the dead process had not flushed.
        assert await store.counts() == Counts(pending=1)

        repair = await store.repair_counts()

        assert repair.before == Counts(pending=1)
        assert repair.counted == Counts(pending=3, processing=2, completed=1)
        assert repair.corrected == {
            TaskStatus.PENDING: 2,
            TaskStatus.PROCESSING: 2,
            TaskStatus.COMPLETED: 1,
        }
        assert repair.uncertainty == 0
        assert await store.counts() == repair.counted
        again = await store.repair_counts()
        assert again.corrected == {}


async def test_a_repair_counts_by_status_in_every_partition(
    table: Table, clock: ManualClock
) -> None:
    """In the default partition, swept or not, and outside it."""
    one_round = Counts(pending=1, processing=1, completed=2, failed=1, cancelled=1)
    async with (store := table.store(clock=clock, flush_interval=0.01)).open():
        for times in (1, 2, 3):
            tasks = await create(store, clock, 6)
            ids = [task.id for task in tasks]
            await store.claim([request_of(task_id) for task_id in ids[:4]])
            await store.record(
                [
                    *(Complete(task_id=task_id, attempt=1, result=1) for task_id in ids[:2]),
                    Fail(task_id=ids[2], attempt=1, error=ERROR),
                ]
            )
            await store.cancel([ids[5]])
            repair = await store.repair_counts()
            assert repair.counted == Counts(
                **{name: times * getattr(one_round, name) for name in Counts.__slots__}
            )
            assert repair.corrected == {}
            for _ in range(2):
                clock.advance(121)
                await store.stranded("default", before=clock.now(), sent_before=None, limit=100)


async def test_a_repair_does_not_count_twice_what_is_reindexed_meanwhile(
    table: Table, clock: ManualClock
) -> None:
    client = FaultyClient(table.client)
    async with (
        (sweeping := table.store(clock=clock)).open(),
        (store := table.store(client, clock=clock, flush_interval=0.01)).open(),
    ):
        await create(store, clock, 10)
        await store.flush_counts()
        clock.advance(121)

        one_by_one = trio.Lock()

        async def meanwhile(send: Send, parameters: Parameters) -> dict[str, Any]:
            values = parameters["ExpressionAttributeValues"]
            if values[":shard"]["S"].startswith("OPEN"):
                async with one_by_one:  # all has moved before any shard is read
                    await sweeping.stranded(
                        "default", before=clock.now(), sent_before=None, limit=100
                    )
                    await sweeping.flush_counts()
            return await send(parameters)

        client.arm(meanwhile, "Query", times=2 * schema.STATUS_SHARDS)
        repair = await store.repair_counts()
        assert repair.counted == Counts(pending=20)
        assert repair.corrected == {}
        assert (await store.repair_counts()).counted == Counts(pending=10)


async def test_a_repair_leaves_alone_what_it_cannot_be_sure_of(
    table: Table, clock: ManualClock
) -> None:
    """Tasks move while it counts: a difference no larger than that may be theirs."""
    await crash(table, clock)
    client = FaultyClient(table.client)
    async with (
        (busy := table.store(clock=clock)).open(),
        (store := table.store(client, clock=clock, flush_interval=0.01)).open(),
    ):

        async def meanwhile(send: Send, parameters: Parameters) -> dict[str, Any]:
            await create(busy, clock, 20)
            await busy.flush_counts()
            return await send(parameters)

        client.arm(meanwhile, "Query")
        repair = await store.repair_counts()
        assert repair.uncertainty >= 20
        assert repair.corrected == {}

        assert (await store.repair_counts()).corrected
        assert await store.counts() == Counts(pending=22, processing=2, completed=1)


async def test_a_repair_mends_more_than_moves_meanwhile(table: Table, clock: ManualClock) -> None:
    for _ in range(3):
        await crash(table, clock)
    client = FaultyClient(table.client)
    async with (
        (busy := table.store(clock=clock)).open(),
        (store := table.store(client, clock=clock, flush_interval=0.01)).open(),
    ):

        async def meanwhile(send: Send, parameters: Parameters) -> dict[str, Any]:
            await create(busy, clock, 2)
            await busy.flush_counts()
            return await send(parameters)

        client.arm(meanwhile, "Query")
        repair = await store.repair_counts()
        counts = await store.counts()
        true = Counts(pending=8, processing=6, completed=3)
        assert abs(counts.pending - true.pending) <= repair.uncertainty
        assert (counts.processing, counts.completed) == (6, 3)


async def test_a_repair_forgets_processes_that_were_killed(
    table: Table, clock: ManualClock
) -> None:
    dead = table.store(clock=clock)
    async with dead.open():
        await create(dead, clock)
        await dead.flush_counts()
        (mark,) = await marks(table)
    # Left by an older version that has counted for another one.
    await table.call(
        "UpdateItem",
        Key={"id": {"S": counter_ids()[0]}},
        UpdateExpression="SET #age = :age",
        ExpressionAttributeNames={"#age": "age_0123456789ab"},
        ExpressionAttributeValues={":age": {"N": "30"}},
    )
    # As if it had not been closed.
    for item_id in counter_ids():
        item = await table.item(item_id)
        if item is not None:
            await table.put(item | {mark: {"N": str(int(clock.now().timestamp() * 1000))}})
    async with (store := table.store(clock=clock, flush_interval=0.01)).open():
        await create(store, clock)
        await store.flush_counts()
        assert mark in await marks(table)
        clock.advance(DAY + 1)
        await store.repair_counts()
        assert mark not in await marks(table)
        assert "age_0123456789ab" not in (await table.item(counter_ids()[0]) or {})


async def test_a_repair_waits_for_what_others_have_not_flushed_yet(
    table: Table, client: FaultyClient, clock: ManualClock
) -> None:
    """Their tasks are in the index already; counting them twice would be no repair."""
    async with (
        (busy := table.store(clock=clock)).open(),
        (store := table.store(client, clock=clock, flush_interval=0.5)).open(),
    ):
        await create(busy, clock)
        await busy.flush_counts()
        await create(busy, clock, 5)
        partitions = len(IndexPartition) * schema.STATUS_SHARDS
        answered = 0
        counted_at = looked_at = 0.0
        looks, is_flushed = trio.Event(), trio.Event()

        async def counting(send: Send, parameters: Parameters) -> dict[str, Any]:
            nonlocal answered, counted_at
            answer = await send(parameters)
            answered += 1
            if answered == partitions:
                counted_at = trio.current_time()
                client.arm(second_look, "BatchGetItem")
            return answer

        async def second_look(send: Send, parameters: Parameters) -> dict[str, Any]:
            nonlocal looked_at
            looked_at = trio.current_time()
            looks.set()
            await is_flushed.wait()
            return await send(parameters)

        client.arm(counting, "Query", times=partitions)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.repair_counts)
            await looks.wait()
            await busy.flush_counts()
            is_flushed.set()
        assert looked_at >= counted_at + 0.5, "others flush as seldom"
        assert await store.counts() == Counts(pending=6) == await busy.counts()


@amazons_own
async def test_one_process_repairs_for_all(table: Table, clock: ManualClock) -> None:
    await crash(table, clock)
    async with AsyncExitStack() as stack:
        stores = [
            table.store(clock=clock, flush_interval=0.01, repair_interval=0.05) for _ in range(3)
        ]
        for store in stores:
            await stack.enter_async_context(store.open())
        expected = Counts(pending=2, processing=2, completed=1)
        await until_counts(stores[0], expected)
        # The clock stands still: the next one is not due, for none of them.
        await trio.sleep(0.3)
        repairs = [store.usage().by_step.get("repair_counts") for store in stores]
        assert sum(repair is not None for repair in repairs) == 1


async def test_reading_costs_one_request_however_many_tasks(
    table: Table, client: FaultyClient, clock: ManualClock
) -> None:
    async with (store := table.store(client, clock=clock)).open():
        for number in (1, 40):
            await create(store, clock, number)
            client.calls.clear()
            await store.counts()
            reads = {
                name: client.calls[name] for name in ("GetItem", "BatchGetItem", "Query", "Scan")
            }
            assert reads == {"GetItem": 0, "BatchGetItem": 1, "Query": 0, "Scan": 0}


async def test_counts_are_never_negative(table: Table, clock: ManualClock) -> None:
    """A process was killed after it had created tasks, and others start them."""
    await crash(table, clock)
    async with (store := table.store(clock=clock)).open():
        waiting = [item["id"]["S"] for item in await in_status(table, "PENDING")]
        await store.claim([request_of(task_id) for task_id in waiting])
        assert (await totals_with(store, table))["pending"] == -2
        assert await store.counts() == Counts(processing=2)


async def in_status(table: Table, status: str) -> list[dict[str, Any]]:
    return [item for item in await table.scan() if item.get("status") == {"S": status}]


async def totals_with(store: DynamoStore, table: Table) -> dict[str, int]:
    await store.flush_counts()
    return await totals(table)


@pytest.mark.parametrize(
    ("tasks", "minutes"), [(0, 5), (5_000, 5), (100_000, 72), (1_000_000, 717), (10**8, 1440)]
)
def test_repairs_are_the_rarer_the_more_they_cost(tasks: int, minutes: float) -> None:
    assert between_repairs(tasks, at_most=24 * 3600) == pytest.approx(minutes * 60, rel=0.01)
    assert between_repairs(tasks, at_most=60) == 60


class Silent:
    """A table that holds nothing."""

    name = "tasks"

    async def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}

    async def update(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}


async def test_a_repair_does_not_trust_the_index_about_what_has_just_changed(
    autojump_clock: trio.testing.MockClock, clock: ManualClock
) -> None:
    """It lags: tasks created just before the count do not show, and the counters are right."""
    began = trio.current_time()
    counted_at: list[float] = []

    async def count_rows() -> dict[TaskStatus, int]:
        counted_at.append(trio.current_time() - began)
        return dict.fromkeys(TaskStatus, 0)

    table: Any = Silent()  # all of it that a repair asks for
    counters = Counters(table, process="me", settled=lambda: 0, now=clock.now, flush_interval=1)
    counter_repair = CounterRepair(
        table,
        counters,
        now=clock.now,
        count_rows=count_rows,
        interval=0,
        flush_interval=1,
        rng=random.Random(),
    )
    repairs: list[CountRepair] = []

    async def repair() -> None:
        repairs.append(await counter_repair.repair())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(repair)
        await trio.sleep(3)
        counters.move(None, TaskStatus.PENDING)

    assert counted_at == [5]
    assert (repairs[0].uncertainty, repairs[0].corrected) == (1, {})

"""Opening a store: what is checked, what is said when it cannot be used; TTL."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from task_queue_engine.backends.aws.dynamodb import late_retention
from task_queue_engine.backends.aws.dynamodb.schema import (
    INDEXES,
    TTL_ATTRIBUTE,
    counter_ids,
    create_table_parameters,
    time_to_live_parameters,
)
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed, EndpointUnreachable
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import BackendRefused, BackendUnavailable, ConfigurationError
from task_queue_engine.lifecycle import Complete, Fail
from tests.backends.aws.dynamodb.faults import FaultyClient, failing
from tests.backends.aws.dynamodb.tables import Table
from tests.backends.aws.dynamodb.tasks import ERROR, create, start


async def test_a_table_that_does_not_exist(table: Table) -> None:
    store = Table(table.client, "no-such-table", table.server).store()
    with pytest.raises(ConfigurationError, match="no-such-table") as caught:
        async with store.open():
            pass
    assert caught.value.variable == "DYNAMODB_TABLE"


@pytest.mark.parametrize("index", [index.name for index in INDEXES])
async def test_a_table_without_one_of_the_indexes(table: Table, index: str) -> None:
    name = f"{table.name}-bare"
    parameters = create_table_parameters(name)
    kept = [each for each in parameters["GlobalSecondaryIndexes"] if each["IndexName"] != index]
    keys = {key["AttributeName"] for each in kept for key in each["KeySchema"]} | {"id"}
    parameters["GlobalSecondaryIndexes"] = kept
    parameters["AttributeDefinitions"] = [
        each for each in parameters["AttributeDefinitions"] if each["AttributeName"] in keys
    ]
    await table.client.call("dynamodb", "CreateTable", parameters)
    bare = Table(table.client, name, table.server)
    try:
        with pytest.raises(ConfigurationError, match=f"has no index {index}") as caught:
            async with bare.store().open():
                pass
        assert caught.value.variable == "DYNAMODB_TABLE"
    finally:
        await bare.call("DeleteTable")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AwsRequestFailed("AccessDeniedException", "not authorized", 400), "permission"),
        (AwsRequestFailed("UnrecognizedClientException", "bad token", 400), "credentials"),
        (EndpointUnreachable("connection refused"), "cannot reach DynamoDB"),
    ],
)
async def test_what_work_cannot_begin_with(
    table: Table, client: FaultyClient, error: Exception, said: str
) -> None:
    client.arm(failing(error), "GetItem", "Query", times=10)
    with pytest.raises(BackendRefused, match=said):
        async with table.store(client).open():
            pass


async def test_what_may_pass(table: Table, client: FaultyClient) -> None:
    client.arm(failing(BackendUnavailable("throttled")), "GetItem", "Query", times=10)
    with pytest.raises(BackendUnavailable, match="throttled"):
        async with table.store(client).open():
            pass


async def test_a_table_with_another_key(table: Table) -> None:
    name = f"{table.name}-odd"
    parameters = create_table_parameters(name)
    del parameters["GlobalSecondaryIndexes"]
    parameters["KeySchema"] = [{"AttributeName": "key", "KeyType": "HASH"}]
    parameters["AttributeDefinitions"] = [{"AttributeName": "key", "AttributeType": "S"}]
    await table.client.call("dynamodb", "CreateTable", parameters)
    odd = Table(table.client, name, table.server)
    try:
        with pytest.raises(ConfigurationError, match="with the key id"):
            async with odd.store().open():
                pass
    finally:
        await odd.call("DeleteTable")


async def test_an_error_inside_comes_out_as_it_is(table: Table) -> None:
    """Not in a group, though something runs beside it."""
    with pytest.raises(ValueError, match="mine"):
        async with table.store().open():
            raise ValueError("mine")


async def test_cancelling_gets_through(table: Table, clock: ManualClock) -> None:
    with trio.CancelScope() as scope:
        async with (store := table.store(clock=clock)).open():
            await create(store, clock)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    # The last flush was made all the same.
    async with (again := table.store(clock=clock)).open():
        assert (await again.counts()).pending == 1


async def test_open_again_after_closing(table: Table, clock: ManualClock) -> None:
    store = table.store(clock=clock)
    for number in (1, 2):
        async with store.open():
            await create(store, clock)
            assert (await store.counts()).pending == number
        with pytest.raises(BackendUnavailable, match="not open"):
            await store.counts()


async def test_closing_while_dynamodb_is_away_takes_seconds_at_most(
    table: Table, clock: ManualClock
) -> None:
    client = FaultyClient(table.client, of_counters=True)

    async def silent(*_: Any) -> dict[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    with trio.fail_after(20):  # without a bound of its own it would never end
        async with (store := table.store(client, clock=clock)).open():
            client.arm(silent, "UpdateItem", times=10)
            await create(store, clock)


async def test_ping_reads_and_writes_only_once_a_write_has_failed(
    table: Table, client: FaultyClient, clock: ManualClock
) -> None:
    """A probe of what is well is no paid write; but a permission to read alone would not do."""
    counters = FaultyClient(table.client, of_counters=True)
    async with (store := table.store(counters, clock=clock)).open():
        denied = AwsRequestFailed("AccessDeniedException", "not authorized to UpdateItem", 400)
        counters.arm(failing(denied), "UpdateItem", times=3)
        await store.ping()
        assert store._table.usage()["ping"].write_units == 0
        with pytest.raises(BackendUnavailable, match="UpdateItem"):
            await store._table.update("test", counter_ids()[0], "REMOVE #n", names={"#n": "n"})
        for _ in range(2):
            with pytest.raises(BackendUnavailable, match="UpdateItem"):
                await store.ping()
        await store.ping()
        counters.arm(failing(denied), "UpdateItem")
        await store.ping()


async def test_finished_tasks_expire_by_ttl_where_there_is_a_retention(
    table: Table, clock: ManualClock
) -> None:
    async with (store := table.store(clock=clock, retention=3600)).open():
        done, failed, running = await start(store, clock, 3)
        await store.record(
            [
                Complete(task_id=done.id, attempt=1, result=1),
                Fail(task_id=failed.id, attempt=1, error=ERROR),
            ]
        )
        # A FAILED one as long as its dead letter, without which it could not be redriven.
        for task, kept in ((done, 3600), (failed, 15 * 86400)):
            item = await table.item(task.id)
            assert item is not None
            assert item[TTL_ATTRIBUTE] == {"N": str(int(clock.now().timestamp()) + kept)}
        item = await table.item(running.id)
        assert item is not None
        assert TTL_ATTRIBUTE not in item

        # A new round must not vanish under its worker.
        await store.reopen([failed.id])
        item = await table.item(failed.id)
        assert item is not None
        assert TTL_ATTRIBUTE not in item

        # Deleting is left to DynamoDB, which does it for nothing.
        clock.advance(10**6)
        assert await store.expire(finished_before=clock.now(), limit=10) == 0
        assert await store.get([done.id]) != [None]


async def test_a_retention_that_is_set_later_finds_what_ended_before(
    table: Table, clock: ManualClock
) -> None:
    async with (store := table.store(clock=clock)).open():
        done, failed, running, reopened = await start(store, clock, 4)
        await store.record(
            [
                Complete(task_id=done.id, attempt=1, result=1),
                Fail(task_id=failed.id, attempt=1, error=ERROR),
                Fail(task_id=reopened.id, attempt=1, error=ERROR),
            ]
        )
        await store.reopen([reopened.id])
        ended_at = int(clock.now().timestamp())
    clock.advance(1000)
    stores = [table.store(clock=clock, retention=3600) for _ in range(2)]
    async with stores[0].open(), stores[1].open():
        for store in stores:
            assert await store.expire(finished_before=clock.now(), limit=10) == 0
        for task, kept in ((done, 3600), (failed, 15 * 86400), (running, None), (reopened, None)):
            item = await table.item(task.id)
            assert item is not None
            expected = None if kept is None else {"N": str(ended_at + kept)}
            assert item.get(TTL_ATTRIBUTE) == expected
        # It rests then, and costs next to nothing.
        for store in stores:
            await store.expire(finished_before=clock.now(), limit=10)
            before = store.usage().by_step["expire"].requests
            for _ in range(5):
                clock.advance(30)
                await store.expire(finished_before=clock.now(), limit=10)
            assert store.usage().by_step["expire"].requests == before


async def test_the_walk_for_a_late_retention_goes_on_where_another_engine_has_left_it(
    table: Table, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_retention, "_PIECE", 5)
    monkeypatch.setattr(late_retention, "_PAGE", 5)
    async with (store := table.store(clock=clock)).open():
        tasks = await start(store, clock, 40)
        await store.record([Complete(task_id=task.id, attempt=1, result=1) for task in tasks])
    clock.advance(1000)
    for _ in range(40):  # short-lived workers
        async with (store := table.store(clock=clock, retention=3600)).open():
            await store.expire(finished_before=clock.now(), limit=10)
    items = await table.items(task.id for task in tasks)
    assert len(items) == len(tasks)
    assert all(TTL_ATTRIBUTE in item for item in items)


async def test_a_repair_follows_what_ttl_has_deleted(table: Table, clock: ManualClock) -> None:
    async with (store := table.store(clock=clock, retention=60, flush_interval=0.01)).open():
        tasks = await start(store, clock, 3)
        await store.record([Complete(task_id=task.id, attempt=1, result=1) for task in tasks])
        await table.call("DeleteItem", Key={"id": {"S": tasks[0].id}})  # as TTL does
        assert (await store.counts()).completed == 3
        await store.repair_counts()
        assert (await store.counts()).completed == 2


async def test_ttl_can_be_switched_on(table: Table) -> None:
    await table.client.call("dynamodb", "UpdateTimeToLive", time_to_live_parameters(table.name))
    described = await table.call("DescribeTimeToLive")
    assert described["TimeToLiveDescription"]["AttributeName"] == TTL_ATTRIBUTE

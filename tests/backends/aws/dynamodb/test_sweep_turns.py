"""How long the sweep goes on, and how several processes share it: each shard has a lease."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
import trio

from task_queue_engine.backends.aws.dynamodb import schema, sweep
from task_queue_engine.backends.aws.dynamodb.schema import SWEEP_ID
from task_queue_engine.backends.aws.dynamodb.sort_keys import sort_key
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.clock import ManualClock
from tests.backends.aws.dynamodb.faults import FaultyClient, Parameters, Send
from tests.backends.aws.dynamodb.tables import Table
from tests.backends.aws.dynamodb.tasks import create
from tests.backends.aws.dynamodb.test_sweep import LAG, REST, look, partitions

one_server = pytest.mark.parametrize("table", ["dynamodb-local/batch"], indirect=True)
"""What is looked at is the order of the sweep's requests."""


@pytest.fixture(autouse=True)
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_PAGE", 2)


@one_server
async def test_a_backlog_is_done_in_one_call(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    tasks = await create(store, clock, 60)
    clock.advance(LAG + 1)
    page = await store.stranded("default", before=clock.now(), sent_before=None, limit=1000)
    assert page.next_cursor is None
    assert await partitions(table, tasks) == {"OPEN"}


@one_server
async def test_processes_share_a_backlog(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    """One is held up in the shard that it went on with: another does all of the others."""
    tasks = await create(store, clock, 150)  # more than a page in every shard
    clock.advance(LAG + 1)
    goes_on, may_go_on = trio.Event(), trio.Event()
    shard = ""

    looked_at: set[str] = set()

    async def held_up_in_the_second(send: Send, parameters: Parameters) -> dict[str, Any]:
        nonlocal shard
        asked = parameters["ExpressionAttributeValues"].get(":shard", {}).get("S", "")
        if asked in looked_at and not shard:
            shard = asked
            goes_on.set()
            await may_go_on.wait()
        looked_at.add(asked)
        return await send(parameters)

    client.arm(held_up_in_the_second, "Query", times=100)
    async with trio.open_nursery() as nursery, (other := table.store(clock=clock)).open():
        nursery.start_soon(look, store, clock)
        await goes_on.wait()
        with trio.fail_after(30):  # the others are set free while that one is looked at
            while True:
                await look(other, clock)
                items = await table.items(task.id for task in tasks)
                left = {item["status_shard"]["S"] for item in items}
                if {one for one in left if one.startswith("ROUTINE")} == {shard}:
                    break
        may_go_on.set()
    assert await partitions(table, tasks) == {"OPEN"}


# --- beside an older process ------------------------------------------------------------------


async def acquired_by_older(table: Table, clock: ManualClock) -> bool:
    """Its statement: it has one lease, of all shards."""
    now = int(clock.now().timestamp() * 1000)
    try:
        await table.call(
            "UpdateItem",
            Key={"id": {"S": SWEEP_ID}},
            UpdateExpression="SET #turn = :until, #holder = :me",
            ConditionExpression="attribute_not_exists(#turn) OR #turn <= :now OR #turn > :never "
            "OR #holder = :me",
            ExpressionAttributeNames={"#turn": "turn", "#holder": "holder"},
            ExpressionAttributeValues={
                ":me": {"S": "0123456789ab"},
                ":now": {"N": str(now)},
                ":until": {"N": str(now + 60_000)},
                ":never": {"N": str(now + 390_000)},
            },
        )
    except AwsRequestFailed as error:
        if "ConditionalCheckFailed" not in error.code:
            raise
        return False
    return True


@one_server
async def test_an_older_process_that_sweeps_is_not_disturbed(
    table: Table, store: DynamoStore, clock: ManualClock
) -> None:
    tasks = await create(store, clock, 5)
    clock.advance(LAG + 1)
    assert await acquired_by_older(table, clock)
    await look(store, clock)
    assert store.usage().by_step["sweep"].requests == 1  # to hear of it
    clock.advance(61)  # it was killed
    await look(store, clock)
    assert await partitions(table, tasks) == {"OPEN"}


@one_server
async def test_an_older_process_waits_and_goes_on_from_there(
    table: Table, store: DynamoStore, client: FaultyClient, clock: ManualClock
) -> None:
    await create(store, clock, 60)
    clock.advance(LAG + 1)

    async def meanwhile(send: Send, parameters: Parameters) -> dict[str, Any]:
        assert not await acquired_by_older(table, clock)
        return await send(parameters)

    client.arm(meanwhile, "Query", times=20)
    await look(store, clock)
    assert not client.armed("Query")
    assert not await acquired_by_older(table, clock)
    clock.advance(REST)
    assert await acquired_by_older(table, clock)
    noted = await table.item(SWEEP_ID)
    assert noted is not None
    for name in ("swept", "settled", "checked"):
        assert len(noted[name]["L"]) == schema.STATUS_SHARDS
    assert len({place["S"] for place in noted["swept"]["L"]}) == 1  # the watermark


# --- how much ---------------------------------------------------------------------------------


class Endless:
    """A table whose entries never end; all are of tasks that have ended."""

    def __init__(self, created_at: datetime) -> None:
        self._created_at = created_at
        self.entries = self.requests = self.notes = 0

    def count(self, *_: Any) -> None:
        pass

    async def get(self, _: str, ids: Sequence[str], **__: Any) -> dict[str, Any]:
        await trio.sleep(0.01)
        return {} if SWEEP_ID in ids else {i: {"id": {"S": i}, "finished_at": {}} for i in ids}

    async def query(self, _: str, parameters: Parameters) -> dict[str, Any]:
        await trio.sleep(0.01)
        entries = []
        for _n in range(parameters["Limit"]):
            self.entries += 1
            key = sort_key(self._created_at + timedelta(microseconds=self.entries), "a-task")
            entries.append({"position": {"S": key}})
        self.requests += 1
        return {"Items": entries, "LastEvaluatedKey": entries[-1]}

    async def update(self, *_: Any, **__: Any) -> dict[str, Any]:
        await trio.sleep(0.01)
        self.notes += 1
        return {}


class Unused:
    async def write(self, _: str, updates: Sequence[Any], **__: Any) -> list[Any]:
        assert not updates
        return []


async def test_a_turn_is_bounded_and_paced(
    autojump_clock: trio.testing.MockClock, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_PAGE", 500)
    monkeypatch.setattr(sweep, "_PACE", 50_000 / 4)
    endless: Any = Endless(clock.now() - timedelta(days=1))
    unused: Any = Unused()
    swept = sweep.Sweep(
        endless, unused, now=clock.now, lag=timedelta(seconds=LAG), reindexed=lambda _: None
    )
    began_at = trio.current_time()
    assert await swept.go_on() is False
    assert 20 <= round(trio.current_time() - began_at, 6) < 21
    # A page of each shard comes first.
    assert 0.9 * 250_000 < endless.entries <= 250_000 + 5_000
    # It is taken, noted when the others are left, every five seconds, and given back.
    assert endless.notes <= 2 + 4 + 1

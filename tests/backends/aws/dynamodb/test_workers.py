"""Workers in the table: what a sign of life costs, and whose clock says how old it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import botocore.credentials
import msgspec

from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.worker import LOST_FOR, RunningTask, Worker
from tests.backends.aws.dynamodb.tables import Table, amazons_own

NOW = datetime(2026, 1, 1, tzinfo=UTC)

WORKER = Worker(
    id="ip-10-0-0-1.eu-central-1.compute.internal:1:abcdef",
    host="ip-10-0-0-1.eu-central-1.compute.internal",
    pid=1,
    version="0.1.0",
    queues=("default",),
    types=tuple(f"a-task-type-{n}" for n in range(10)),
    slots=5,
    busy=3,
    running=tuple(
        RunningTask(
            task_id=f"00000000-0000-7000-8000-00000000000{n}",
            type=f"a-task-type-{n}",
            attempt=1,
            since=NOW,
        )
        for n in range(3)
    ),
    started_at=NOW,
    last_seen=NOW,
)


def units(store: DynamoStore) -> float:
    return store.usage().by_step["workers"].write_units


def item_id() -> str:
    return f"@worker#{WORKER.id}"


@amazons_own
async def test_a_sign_of_life_is_one_write_unit(table: Table, store: DynamoStore) -> None:
    await store.workers.put(WORKER)
    assert units(store) == 2, "with its entry in the index"
    for lag in (0.1, 0.2, 0.3):
        before = units(store)
        await store.workers.put(msgspec.structs.replace(WORKER, loop_lag_seconds=lag))
        assert units(store) - before == 1
    item = await table.item(item_id())
    assert item is not None
    assert set(item) == {"id", "worker", "last_seen", "expires_at", "cancel_shard"}


async def test_dynamodb_may_delete_it_an_hour_later(table: Table, store: DynamoStore) -> None:
    await store.workers.put(WORKER)
    item = await table.item(item_id())
    assert item is not None
    assert int(item["expires_at"]["N"]) == int(item["last_seen"]["N"]) // 1000 + LOST_FOR


async def test_it_is_gone_from_the_table_when_it_ends(table: Table, store: DynamoStore) -> None:
    await store.workers.put(WORKER)
    await store.workers.remove(WORKER.id)
    assert await table.item(item_id()) is None


@dataclass
class Shifted:
    seconds: float

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.seconds)


async def test_hosts_whose_clocks_differ_see_each_other(table: Table) -> None:
    """By less than makes AWS refuse their requests: by more, theirs is corrected anyway."""
    key, secret = table.server.credentials
    stores: list[DynamoStore] = []
    for seconds in (-280, 0, 280):
        clock = Shifted(seconds)
        client = AwsClient(
            region=table.server.region,
            endpoints={"dynamodb": table.server.url, "sqs": table.server.url},
            load_credentials=lambda: botocore.credentials.Credentials(key, secret),
            clock=clock,
        )
        store = Table(client, table.name, table.server, table.writes).store(clock=clock)
        async with client.open(), store.open():
            await store.workers.put(msgspec.structs.replace(WORKER, id=f"clock {seconds}"))
            stores.append(store)
            for each in (await store.workers.look()).workers:
                assert abs(each.last_seen.timestamp() - time.time()) < 10
            found = await store.workers.look()
            assert (len(found.workers), found.lost) == (len(stores), 0)


async def test_one_that_shows_itself_while_it_is_being_forgotten_stays(
    table: Table, store: DynamoStore
) -> None:
    workers = store.workers
    await workers.put(WORKER)
    old = await table.item(item_id())
    assert old is not None
    seen_late = {**old, "last_seen": {"N": "1"}}

    async def late() -> list[dict[str, dict[str, str]]]:
        return [seen_late]

    workers._items = late  # type: ignore[method-assign]  # what an eventually consistent read gives
    await workers.forget_lost()
    assert await table.item(item_id()) == old
    await table.put(seen_late)
    await workers.forget_lost()
    assert await table.item(item_id()) is None

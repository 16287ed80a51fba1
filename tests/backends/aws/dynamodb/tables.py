"""A table of its own on a local server, and a store on it."""

from __future__ import annotations

import secrets
import shutil
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import botocore.credentials
import pytest
import trio

from local_aws.servers import LocalServer
from task_queue_engine.backends.aws.dynamodb import (
    late_retention,
    schema,
    store,
    stranded,
    sweep,
    sweep_leases,
)
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition, create_table_parameters
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.dynamodb.table_check import check_table
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.sqs import queue_client
from task_queue_engine.backends.aws.wire.client import AwsClient
from tests.sizes import LONG, size

AMAZONS_OWN = ["dynamodb-local/batch", "dynamodb-local/single"]
"""Both ways to write, on Amazon's own server."""
WITH_MOTO = LONG or shutil.which("java") is None
"""moto takes three times as long for the single writes that Amazon's own server takes as well."""

amazons_own = pytest.mark.parametrize("table", AMAZONS_OWN, indirect=True)
"""For tests that moto has no answer to: it carries out conditional writes in several threads at
once without a lock, and changes an item before it finds it too large."""


_FEW_SHARDS = size(3, in_full=schema.STATUS_SHARDS)
"""A look asks each shard of several partitions, which is most of what a local server is asked.
Three have a first, a last and one between."""

_checked: list[str] = []

_PATIENCE = 30.0
"""Seconds; half of what a test may take."""


@contextmanager
def patience(*, dynamodb: float = _PATIENCE, sqs: float = _PATIENCE) -> Iterator[None]:
    """Stores and queues of this process wait so many seconds for an answer. It is more than they
    have for AWS: where a machine is busy a test may be without a processor for seconds, and so may
    the server that it asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_REQUEST_TIMEOUT", dynamodb)
        patch.setattr(queue_client, "CALL_TIMEOUT", sqs)
        yield


@contextmanager
def few_requests(*, checks: bool = False) -> Iterator[None]:
    """Stores of this process have `patience` and know no more than `_FEW_SHARDS` of each partition,
    and the first of them looks whether a table is as they need it: `create_table` makes all alike.

    Args:
        checks: each store looks, when it is opened.
    """
    shards = {part: schema.status_shards(part)[:_FEW_SHARDS] for part in IndexPartition}
    known = {shard for each in shards.values() for shard in each}
    with patience(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "STATUS_SHARDS", _FEW_SHARDS)
        patch.setattr(schema, "_SHARDS", shards)
        for module in (sweep, sweep_leases):
            patch.setattr(module, "SHARDS", shards[IndexPartition.DEFAULT])
        for module in (stranded, late_retention):
            patch.setattr(module, "_SHARDS", tuple(filter(known.__contains__, module._SHARDS)))
        if not checks:
            patch.setattr(store, "check_table", _check_the_first)
        yield


async def _check_the_first(table: TableClient) -> None:
    if not _checked:
        await check_table(table)
        _checked.append(table.name)


@dataclass(frozen=True, slots=True)
class Table:
    """An empty table; `client` is open."""

    client: AwsClient
    name: str
    server: LocalServer
    writes: str = "batch"

    def store(self, client: Any = None, **options: Any) -> DynamoStore:
        """A store on this table, not open yet.

        Args:
            client: another way to the server, for faults.
        """
        defaults: dict[str, Any] = {
            "writes": self.writes,
            # Nothing happens by itself in a test.
            "flush_interval": 3600.0,
            "repair_interval": 0.0,
        }
        return DynamoStore(client or self.client, table_name=self.name, **(defaults | options))

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return await self.client.call("dynamodb", operation, {"TableName": self.name, **parameters})

    async def item(self, item_id: str) -> dict[str, Any] | None:
        """The item as it is stored."""
        answer = await self.call("GetItem", Key={"id": {"S": item_id}}, ConsistentRead=True)
        return answer.get("Item")

    async def items(self, ids: Iterable[str]) -> list[dict[str, Any]]:
        """Those that there are, in no order."""
        found: list[dict[str, Any]] = []
        wanted = list(ids)
        for start in range(0, len(wanted), 100):  # the most that a request may ask for
            some = [{"id": {"S": one}} for one in wanted[start : start + 100]]
            keys = {"Keys": some, "ConsistentRead": True}
            answer = await self.client.call(
                "dynamodb", "BatchGetItem", {"RequestItems": {self.name: keys}}
            )
            found += answer["Responses"][self.name]
            assert not answer.get("UnprocessedKeys")
        return found

    async def scan(self) -> list[dict[str, Any]]:
        """All items, the counters too."""
        found: list[dict[str, Any]] = []
        start: dict[str, Any] = {}
        while True:  # a page is a megabyte at most
            answer = await self.call("Scan", ConsistentRead=True, **start)
            found += answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return found
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def put(self, item: Mapping[str, Any]) -> None:
        await self.call("PutItem", Item=item)


def writes_of(server: LocalServer) -> str:
    """How this server takes them."""
    return "single" if server.name == "moto" else "batch"


def open_client(server: LocalServer) -> AwsClient:
    key, secret = server.credentials
    return AwsClient(
        region=server.region,
        endpoints={"dynamodb": server.url, "sqs": server.url},
        load_credentials=lambda: botocore.credentials.Credentials(key, secret),
    )


@asynccontextmanager
async def table_on(
    server: LocalServer, writes: str = "", *, is_new: bool = False
) -> AsyncIterator[Table]:
    """
    Args:
        is_new: for tests that change the table itself.
    """
    client = open_client(server)
    async with client.open(), empty_table(client, server, is_new=is_new) as name:
        with patience():
            yield Table(client, name, server, writes or writes_of(server))


_used: defaultdict[str, deque[str]] = defaultdict(deque)
"""Names of tables, by the server's URL; the one that was used last is the last."""
# So many others are used before a table is again: what a test had left on its way to the server is
# in the table by then, and goes with the rest.
_RESTING = 5
# What is emptied by a few requests; another table is made in the place of one that holds more.
_MOST_ITEMS = 100


@asynccontextmanager
async def empty_table(
    client: AwsClient, server: LocalServer, *, is_new: bool = False
) -> AsyncIterator[str]:
    """The name of a table that is empty. Made once and emptied for each: DynamoDB Local is SQLite,
    where a table that comes or goes costs as much as ten requests, and all statements are prepared
    anew.

    Args:
        client: open, here and at the end.
    """
    used = _used[server.url]
    while len(used) > _RESTING and not is_new:
        table = Table(client, used.popleft(), server)
        if await _is_emptied(table):
            break
        await table.call("DeleteTable")
    else:
        table = Table(client, f"test-{secrets.token_hex(6)}", server)
        await create_table(table)
    try:
        yield table.name
    finally:
        if is_new:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
                await table.call("DeleteTable")
        else:
            used.append(table.name)


async def _is_emptied(table: Table) -> bool:
    answer = await table.call("Scan", ConsistentRead=True, ProjectionExpression="id")
    keys = answer["Items"]
    if len(keys) > _MOST_ITEMS or "LastEvaluatedKey" in answer:
        return False
    while keys:
        deletes = [{"DeleteRequest": {"Key": key}} for key in keys[:25]]  # the most of a request
        requests = {"RequestItems": {table.name: deletes}}
        answer = await table.client.call("dynamodb", "BatchWriteItem", requests)
        assert not answer.get("UnprocessedItems")
        keys = keys[25:]
    return True


async def create_table(table: Table) -> None:
    parameters = create_table_parameters(table.name)
    answer = await table.client.call("dynamodb", "CreateTable", parameters)
    described = answer["TableDescription"]
    for _ in range(200):
        if described["TableStatus"] == "ACTIVE":  # local servers say so in their first answer
            return
        await trio.sleep(0.02)
        described = (await table.call("DescribeTable"))["Table"]
    raise AssertionError("the table does not become active")

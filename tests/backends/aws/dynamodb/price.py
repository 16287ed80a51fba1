"""What writes cost by AWS's published rules, reckoned from what they did to the items.

Local servers do not report the units of indexes, so the table's stream is read: each write with
the item before and after it.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import boto3
import trio
from botocore.config import Config

from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.dynamodb.item_size import item_size
from task_queue_engine.backends.aws.dynamodb.schema import INDEXES, KEY, Index
from tests.backends.aws.dynamodb.tables import Table


def units(before: Item | None, after: Item | None) -> int:
    """Write units of one write: of the table, and of every index it changes.

    AWS, "DynamoDB read and write operations": a unit for each started KB of the larger of the two
    items. "Using Global Secondary Indexes", "Provisioned throughput considerations": of an index,
    one write to put an entry, one to delete it, two where its key changes, one where only
    projected attributes change, none where the entry stays as it is.
    """
    return _kilobytes(before, after) + sum(
        _index_units(_entry(index, before), _entry(index, after), index) for index in INDEXES
    )


def _kilobytes(*items: Item | None) -> int:
    return max(math.ceil(item_size(item) / 1024) for item in items if item is not None)


def _entry(index: Index, item: Item | None) -> Item | None:
    if item is None or any(key not in item for key in index.keys):
        return None
    return {name: item[name] for name in (KEY, *index.keys, *index.include) if name in item}


def _index_units(before: Item | None, after: Item | None, index: Index) -> int:
    if before == after:
        return 0
    if before is None or after is None:
        return _kilobytes(before, after)
    if any(before[key] != after[key] for key in index.keys):
        return _kilobytes(before) + _kilobytes(after)
    return _kilobytes(before, after)


class Meter:
    """The writes of tasks to a table since the last look."""

    def __init__(self, streams: Any, shard: Mapping[str, str]) -> None:
        self._streams = streams
        self._shard = shard
        self._last = ""
        """Sequence number of the last record read."""

    async def units(self) -> int:
        return await trio.to_thread.run_sync(lambda: sum(self._read()))

    def _read(self) -> Iterator[int]:
        while records := self._records():
            for record in records:
                images = record["dynamodb"]
                self._last = images["SequenceNumber"]
                if not images["Keys"][KEY]["S"].startswith("@"):
                    yield units(images.get("OldImage"), images.get("NewImage"))

    def _records(self) -> list[Any]:
        # A place is looked up for each look: DynamoDB Local takes one where no record was yet for
        # trimmed once other tables are written to.
        where = (
            {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": self._last}
            if self._last
            else {"ShardIteratorType": "TRIM_HORIZON"}
        )
        found = self._streams.get_shard_iterator(**self._shard, **where)
        answer = self._streams.get_records(ShardIterator=found["ShardIterator"])
        return list(answer["Records"])


@asynccontextmanager
async def metered(table: Table) -> AsyncIterator[Meter]:
    """From here on. The server must have streams: DynamoDB Local."""
    await table.call(
        "UpdateTable",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    described = await table.call("DescribeTable")
    arn = described["Table"]["LatestStreamArn"]

    def start() -> Meter:
        key, secret = table.server.credentials
        streams = boto3.client(
            "dynamodbstreams",
            endpoint_url=table.server.url,
            region_name=table.server.region,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}),
        )
        (shard,) = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
        return Meter(streams, {"StreamArn": arn, "ShardId": shard["ShardId"]})

    meter = await trio.to_thread.run_sync(start)
    try:
        yield meter
    finally:
        await trio.to_thread.run_sync(meter._streams.close)

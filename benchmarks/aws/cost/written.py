"""What was really written to a table, from its stream, and what AWS bills for that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.aws.cost import units
from benchmarks.aws.cost.units import Index, Item


@dataclass(frozen=True, slots=True)
class Change:
    """One write that changed something. None: no item before, or after."""

    old: Item | None
    new: Item | None

    @property
    def name(self) -> str:
        """What became of the task: "new", "PENDING > PROCESSING"."""
        key = (self.new or self.old or {}).get("id", {}).get("S", "")
        if key.startswith("@"):  # items that are no tasks
            return "counters"
        before, after = _status(self.old), _status(self.new)
        if self.old is None:
            return f"new > {after}"
        if self.new is None:
            return f"{before} > deleted"
        return f"{before} > {after}" if before != after else f"{before}, noted"


@dataclass(slots=True)
class WriteBill:
    """Write units of some changes."""

    writes: Counter[str] = field(default_factory=Counter)
    """By the change's name."""
    table: Counter[str] = field(default_factory=Counter)
    indexes: Counter[str] = field(default_factory=Counter)
    by_index: Counter[str] = field(default_factory=Counter)
    """By the index's name."""

    @property
    def total(self) -> int:
        return self.table.total() + self.indexes.total()


def bill(changes: Sequence[Change], indexes: Sequence[Index]) -> WriteBill:
    found = WriteBill()
    for change in changes:
        found.writes[change.name] += 1
        found.table[change.name] += units.table_write(change.old, change.new)
        for index in indexes:
            cost = units.index_write(index, change.old, change.new)
            found.indexes[change.name] += cost
            found.by_index[index.name] += cost
    return found


class TableStream:
    """The changes of one table, in the order of their shards. Made before the first write.

    Args:
        dynamodb, streams: boto3 clients.
    """

    def __init__(self, dynamodb: Any, streams: Any, table: str) -> None:
        self._streams = streams
        answer = dynamodb.update_table(
            TableName=table,
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
        described = answer["TableDescription"]
        self._arn = described["LatestStreamArn"]
        table_keys = tuple(key["AttributeName"] for key in described["KeySchema"])
        self.indexes = [
            Index.of(index, table_keys) for index in described.get("GlobalSecondaryIndexes", ())
        ]
        self._read: set[str] = set()

    def new_changes(self) -> list[Change]:
        """Those since the last look."""
        return list(self._new_changes())

    def _new_changes(self) -> Iterator[Change]:
        for record in self._records():
            if record["SequenceNumber"] in self._read:
                continue
            self._read.add(record["SequenceNumber"])
            yield Change(record.get("OldImage"), record.get("NewImage"))

    def _records(self) -> Iterator[dict[str, Any]]:
        for shard in self._shards():
            iterator = self._streams.get_shard_iterator(
                StreamArn=self._arn, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while iterator:
                page = self._streams.get_records(ShardIterator=iterator, Limit=1000)
                if not page["Records"]:
                    break  # a shard that is still open never ends
                for record in page["Records"]:
                    yield record["dynamodb"]
                iterator = page.get("NextShardIterator")

    def _shards(self) -> Iterator[str]:
        last: dict[str, str] = {}
        while True:
            described = self._streams.describe_stream(StreamArn=self._arn, **last)
            shards = described["StreamDescription"]["Shards"]
            for shard in shards:
                yield shard["ShardId"]
            if "LastEvaluatedShardId" not in described["StreamDescription"]:
                return
            last = {"ExclusiveStartShardId": described["StreamDescription"]["LastEvaluatedShardId"]}


def _status(item: Item | None) -> str:
    return str((item or {}).get("status", {}).get("S", "?"))

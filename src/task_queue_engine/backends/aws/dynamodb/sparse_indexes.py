"""The two sparse indexes: `due-index` holds scheduled tasks only, `cancel-index` running tasks with
a request to cancel them. So a look costs next to nothing, however many tasks there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.item_format import Item, moment, read_row
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.base import DueTask
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import TaskStatus

# Ids of overdue tasks of other queues: about 15 MB at most.
_MAX_REMEMBERED = 100_000


@dataclass(slots=True)
class _Shard:
    """What has been read of one key of `due-index`."""

    key: str
    entries: list[tuple[str, str]] = field(default_factory=list)
    """(due_at, task id), ascending."""
    start: Item | None = None
    is_read: bool = False


class DueSearch:
    """Finds the tasks of a queue that are due. The index holds those of all queues and does not say
    which is whose, so a row of another queue is read once and remembered: however many are overdue
    because no engine serves their queue, they cost a look their entries in the index."""

    def __init__(self, table: TableClient) -> None:
        self._table = table
        self._queues: OrderedDict[str, str] = OrderedDict()

    async def due(self, queue: str, *, before: datetime, limit: int) -> list[DueTask]:
        """The earliest of all shards, up to `limit`; fewer where others lie between them, and none
        only where there are none."""
        shards = [_Shard(key) for key in schema.due_shards()]
        while True:
            await gather([partial(self._fill, shard, queue, before, limit) for shard in shards])
            earliest = sorted(entry for shard in shards for entry in shard.entries)[:limit]
            if not earliest:
                return []
            found = await self._table.get("due", [task_id for _, task_id in earliest])
            rows = [row for item in found.values() if (row := read_row(item)) is not None]
            self._remember(rows, queue)
            # The rows say whether it still holds.
            due = [
                DueTask(row.task, row.due_at)
                for row in rows
                if row.due_at is not None
                and row.due_at <= before
                and row.task.status is TaskStatus.PENDING
                and row.task.queue == queue
            ]
            if due:
                return sorted(due, key=lambda each: (each.due_at, each.task.id))
            seen = set(earliest)
            for shard in shards:
                shard.entries = [entry for entry in shard.entries if entry not in seen]

    async def _fill(self, shard: _Shard, queue: str, before: datetime, limit: int) -> None:
        """Read on until there are `limit` entries that may be of this queue, or no more."""
        while len(shard.entries) < limit and not shard.is_read:
            parameters: dict[str, Any] = {
                "IndexName": schema.DUE_INDEX.name,
                "KeyConditionExpression": "#shard = :shard AND #at <= :before",
                "ExpressionAttributeNames": {"#shard": "due_shard", "#at": "due_at"},
                "ExpressionAttributeValues": {
                    ":shard": {"S": shard.key},
                    ":before": moment(before),
                },
                "Limit": limit,
            }
            if shard.start is not None:
                parameters["ExclusiveStartKey"] = shard.start
            document = await self._table.query("due", parameters)
            shard.entries += [
                (item["due_at"]["S"], item["id"]["S"])
                for item in document["Items"]
                if self._queues.get(item["id"]["S"], queue) == queue
            ]
            shard.start = document.get("LastEvaluatedKey")
            shard.is_read = shard.start is None

    def _remember(self, rows: Sequence[Row], queue: str) -> None:
        self._queues |= {row.task.id: row.task.queue for row in rows if row.task.queue != queue}
        while len(self._queues) > _MAX_REMEMBERED:
            self._queues.popitem(last=False)


async def cancel_requests(table: TableClient) -> set[str]:
    """The ids of all running tasks that are to be cancelled: few, so one request tells about
    everything in flight."""
    found: set[str] = set()
    start: Item | None = None
    while True:
        parameters: dict[str, Any] = {
            "IndexName": schema.CANCEL_INDEX.name,
            "KeyConditionExpression": "#shard = :shard",
            "ExpressionAttributeNames": {"#shard": "cancel_shard"},
            "ExpressionAttributeValues": {":shard": {"S": schema.CANCEL_SHARD}},
        }
        if start is not None:
            parameters["ExclusiveStartKey"] = start
        document = await table.query("cancel_requested", parameters)
        found.update(item["id"]["S"] for item in document["Items"])
        start = document.get("LastEvaluatedKey")
        if start is None:
            return found

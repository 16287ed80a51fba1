"""The two sparse indexes: `due-index` holds scheduled tasks only, `cancel-index` running tasks with
a request to cancel them. So a look costs next to nothing, however many tasks there are.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.item_format import Item, moment, read_row
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.task import Task, TaskStatus


async def due_tasks(table: TableClient, *, before: datetime, limit: int) -> list[Task]:
    """The earliest of each shard; then the rows themselves, which say whether it still holds."""
    pages = await gather(
        [partial(_due_ids, table, shard, before, limit) for shard in schema.due_shards()]
    )
    earliest = sorted(found for page in pages for found in page)[:limit]
    if not earliest:
        return []
    found = await table.get("due", [task_id for _, task_id in earliest])
    still_due = [
        (row.due_at, row.task.id, row.task)
        for item in found.values()
        if (row := read_row(item)) is not None
        and row.due_at is not None
        and row.due_at <= before
        and row.task.status is TaskStatus.PENDING
    ]
    return [task for _, _, task in sorted(still_due, key=lambda each: each[:2])]


async def _due_ids(
    table: TableClient, shard: str, before: datetime, limit: int
) -> list[tuple[str, str]]:
    document = await table.query(
        "due",
        {
            "IndexName": schema.DUE_INDEX.name,
            "KeyConditionExpression": "#shard = :shard AND #at <= :before",
            "ExpressionAttributeNames": {"#shard": "due_shard", "#at": "due_at"},
            "ExpressionAttributeValues": {":shard": {"S": shard}, ":before": moment(before)},
            "Limit": limit,
        },
    )
    return [(item["due_at"]["S"], item["id"]["S"]) for item in document["Items"]]


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

"""Reading `status-index` from its oldest entries on. (`listing` reads it from its newest.)"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from task_queue_engine.backends.aws.dynamodb.item_format import Item, moment
from task_queue_engine.backends.aws.dynamodb.schema import STATUS_INDEX
from task_queue_engine.backends.aws.dynamodb.sort_keys import id_of_sort_key, sort_key_of
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.task import DEFAULT_QUEUE


def of_shard(shard: str) -> tuple[str, dict[str, str], Item]:
    """The condition of a Query, its names and its values, to be added to."""
    return "#shard = :shard", {"#shard": STATUS_INDEX.hash_key}, {":shard": {"S": shard}}


def of_queue(queue: str, names: dict[str, str], values: Item) -> str:
    """A filter for entries of this queue's tasks; adds its names and values."""
    names["#queue"] = "queue"
    values[":queue"] = {"S": queue}
    # Other programs' items name none.
    nameless = "attribute_not_exists(#queue) OR " if queue == DEFAULT_QUEUE else ""
    return f"({nameless}#queue = :queue)"


async def page(
    table: TableClient, purpose: str, query: Mapping[str, Any], start: Item | None
) -> dict[str, Any]:
    """
    Args:
        start: what the answer before ended with, `LastEvaluatedKey`; None for the first.
    """
    parameters = {"IndexName": STATUS_INDEX.name, **query}
    if start is not None:
        parameters["ExclusiveStartKey"] = start
    return await table.query(purpose, parameters)


async def pages(
    table: TableClient, purpose: str, query: Mapping[str, Any]
) -> AsyncGenerator[dict[str, Any], None]:
    """The answers, to the end of the query. To be closed by who may stop before."""
    start: Item | None = None
    while True:
        document = await page(table, purpose, query, start)
        yield document
        start = document.get("LastEvaluatedKey")
        if start is None:
            return


@dataclass(frozen=True, slots=True)
class WalkedPage:
    entries: list[Item]
    scanned: int
    """Entries read, those that were filtered out included."""
    after: str | None
    """The sort key to go on from; None at the shard's end."""


async def walk(
    table: TableClient,
    purpose: str,
    *,
    shard: str,
    after: str | None,
    since_before: datetime,
    queue: str | None,
    limit: int,
) -> WalkedPage:
    """A page of entries, but for those of tasks that are what they are since `since_before` or
    later for certain: `status_at` may be too early, never too late.

    Args:
        after: the sort key to begin behind; None: at the start.
    """
    condition, names, values = of_shard(shard)
    names["#since"] = "status_at"
    values[":before"] = moment(since_before)
    if after is not None:
        condition += " AND #position > :after"
        names["#position"] = "position"
        values[":after"] = {"S": after}
    matches = "#since < :before"
    if queue is not None:
        matches += f" AND {of_queue(queue, names, values)}"
    document = await table.query(
        purpose,
        {
            "IndexName": STATUS_INDEX.name,
            "KeyConditionExpression": condition,
            "FilterExpression": matches,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "Limit": limit,
        },
    )
    last = document.get("LastEvaluatedKey")
    return WalkedPage(
        document["Items"],
        document.get("ScannedCount", len(document["Items"])),
        None if last is None else sort_key_of(last),
    )


def check_sort_key(text: str) -> None:
    """Raises InvalidQuery for field "cursor" where it is none that DynamoDB could hold, or that an
    id of ours could make."""
    if not 3 <= len(text) <= 200 or not id_of_sort_key(text):
        raise InvalidQuery("is not a cursor of this listing", field="cursor")

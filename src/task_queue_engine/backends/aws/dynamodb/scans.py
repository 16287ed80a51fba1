"""Reads over the indexes beside listing: what is due, cancelled, stranded, old, and how many."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from task_queue_engine.backends.aws.dynamodb import conditional_writes as writes
from task_queue_engine.backends.aws.dynamodb import item_format as items
from task_queue_engine.backends.aws.dynamodb import schema as table
from task_queue_engine.backends.aws.dynamodb.item_format import (
    Item,
    MalformedItem,
    id_of_position,
    moment,
    moment_text,
)
from task_queue_engine.backends.aws.dynamodb.schema import Filing
from task_queue_engine.backends.aws.dynamodb.sweep import START
from task_queue_engine.backends.aws.dynamodb.table_client import TableCalls
from task_queue_engine.backends.aws.dynamodb.writers import Applied, Writer
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.base import Stranded, StrandedKind
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import DEFAULT_QUEUE, Task, TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")


async def due_tasks(calls: TableCalls, *, before: datetime, limit: int) -> list[Task]:
    """Of the sparse index, the earliest of each shard; then the rows themselves, which say
    whether it still holds."""
    pages = await gather(
        [partial(_due_ids, calls, shard, before, limit) for shard in table.due_shards()]
    )
    earliest = sorted(found for page in pages for found in page)[:limit]
    if not earliest:
        return []
    rows = rows_of(await calls.get("due", [task_id for _, task_id in earliest]))
    still_due = [
        (row.due_at, row.task.id, row.task)
        for row in rows
        if row.due_at is not None and row.due_at <= before and row.task.status is TaskStatus.PENDING
    ]
    return [task for _, _, task in sorted(still_due, key=lambda each: each[:2])]


async def _due_ids(
    calls: TableCalls, shard: str, before: datetime, limit: int
) -> list[tuple[str, str]]:
    document = await calls.query(
        "due",
        {
            "IndexName": table.DUE_INDEX.name,
            "KeyConditionExpression": "#shard = :shard AND #at <= :before",
            "ExpressionAttributeNames": {"#shard": "due_shard", "#at": "due_at"},
            "ExpressionAttributeValues": {":shard": {"S": shard}, ":before": moment(before)},
            "Limit": limit,
        },
    )
    return [(item["due_at"]["S"], item["id"]["S"]) for item in document["Items"]]


async def cancel_requests(calls: TableCalls) -> set[str]:
    """The ids of all running tasks that somebody has asked to cancel: few, so one request tells
    about everything in hand."""
    found: set[str] = set()
    start: Item | None = None
    while True:
        parameters: dict[str, Any] = {
            "IndexName": table.CANCEL_INDEX.name,
            "KeyConditionExpression": "#shard = :shard",
            "ExpressionAttributeNames": {"#shard": "cancel_shard"},
            "ExpressionAttributeValues": {":shard": {"S": table.CANCEL_SHARD}},
        }
        if start is not None:
            parameters["ExclusiveStartKey"] = start
        document = await calls.query("cancel_requested", parameters)
        found.update(item["id"]["S"] for item in document["Items"])
        start = document.get("LastEvaluatedKey")
        if start is None:
            return found


# --- how many -------------------------------------------------------------------------------


async def count_rows(calls: TableCalls, settled: Sequence[str]) -> dict[TaskStatus, int]:
    """All of `status-index`: about 0.04 read units a task, and 0.5 for the row of each one that is
    not finished or that the sweep has not come to.

    Args:
        settled: of `Sweep.settled`; what is on the routine below is COMPLETED.
    """
    routine = list(zip(table.status_shards(Filing.ROUTINE), settled, strict=True))
    # In this order: what the sweep refiles meanwhile is rather seen twice than not at all.
    by_rows = [
        *await gather([partial(_count_by_rows, calls, shard, above) for shard, above in routine]),
        *await gather(
            [partial(_count_by_rows, calls, shard) for shard in table.status_shards(Filing.OPEN)]
        ),
    ]
    counted: Counter[TaskStatus] = Counter()
    for each in by_rows:
        counted.update(each)
    counted[TaskStatus.COMPLETED] += sum(
        await gather(
            [
                partial(_count_shard, calls, shard, up_to)
                for shard, up_to in routine
                if up_to != START
            ]
        )
    )
    for filing, status in (
        (Filing.FAILED, TaskStatus.FAILED),
        (Filing.CANCELLED, TaskStatus.CANCELLED),
    ):
        counted[status] += sum(
            await gather(
                [partial(_count_shard, calls, shard) for shard in table.status_shards(filing)]
            )
        )
    return {status: counted[status] for status in TaskStatus}


async def _count_shard(calls: TableCalls, shard: str, up_to: str | None = None) -> int:
    condition, names, values = _of_shard(shard)
    if up_to is not None:
        condition += " AND #position <= :up_to"
        names["#position"] = "position"
        values[":up_to"] = {"S": up_to}
    return sum(
        [
            int(document["Count"])
            async for document in _pages(
                calls,
                "repair_counts",
                {
                    "KeyConditionExpression": condition,
                    "ExpressionAttributeNames": names,
                    "ExpressionAttributeValues": values,
                    "Select": "COUNT",
                },
            )
        ]
    )


async def _count_by_rows(calls: TableCalls, shard: str, above: str = START) -> Counter[TaskStatus]:
    condition, names, values = _of_shard(shard)
    query = {
        "KeyConditionExpression": condition + " AND #position > :above",
        "ExpressionAttributeNames": names | {"#position": "position"},
        "ExpressionAttributeValues": values | {":above": {"S": above}},
    }
    counted: Counter[TaskStatus] = Counter()
    async for document in _pages(calls, "repair_counts", query):
        ids = [id_of_position(entry["position"]["S"]) for entry in document["Items"]]
        found = await calls.get("repair_counts", ids, consistent=False, attributes=("id", "status"))
        for item in found.values():
            with suppress(MalformedItem):
                counted[items.status_of(item)] += 1
    return counted


def _of_shard(shard: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    return "#shard = :shard", {"#shard": "status_shard"}, {":shard": {"S": shard}}


async def _pages(
    calls: TableCalls, purpose: str, query: Mapping[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """Of `status-index`, to the end of the query."""
    start: Item | None = None
    while True:
        parameters = {"IndexName": table.STATUS_INDEX.name, **query}
        if start is not None:
            parameters["ExclusiveStartKey"] = start
        document = await calls.query(purpose, parameters)
        yield document
        start = document.get("LastEvaluatedKey")
        if start is None:
            return


# --- walks over a filing, oldest first ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    entries: list[Item]
    scanned: int
    after: str | None
    """The position to go on from; None at the partition's end."""


async def _walk(
    calls: TableCalls,
    purpose: str,
    *,
    shard: str,
    after: str | None,
    since_before: datetime,
    queue: str | None,
    limit: int,
) -> _Piece:
    """Index entries, but for those of tasks that are what they are since `since_before` or later
    for certain: `status_at` may be too early, never too late."""
    condition, names, values = _of_shard(shard)
    names["#since"] = "status_at"
    values[":before"] = moment(since_before)
    if after is not None:
        condition += " AND #position > :after"
        names["#position"] = "position"
        values[":after"] = {"S": after}
    matches = "#since < :before"
    if queue is not None:
        names["#queue"] = "queue"
        values[":queue"] = {"S": queue}
        # Other programs' items name none.
        of_queue = "attribute_not_exists(#queue) OR " if queue == DEFAULT_QUEUE else ""
        matches += f" AND ({of_queue}#queue = :queue)"
    document = await calls.query(
        purpose,
        {
            "IndexName": table.STATUS_INDEX.name,
            "KeyConditionExpression": condition,
            "FilterExpression": matches,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "Limit": limit,
        },
    )
    last = document.get("LastEvaluatedKey")
    return _Piece(
        document["Items"],
        document.get("ScannedCount", len(document["Items"])),
        None if last is None else last["position"]["S"],
    )


WALK = tuple(table.status_shards(Filing.OPEN))
"""The partitions that a search for stranded tasks goes through."""

_NEVER = datetime.min.replace(tzinfo=UTC)

Place = tuple[str, str]
"""A partition of WALK, and the position after which to go on ("" for its start)."""


async def find_stranded(
    calls: TableCalls,
    writer: Writer,
    *,
    queue: str,
    unsent_before: datetime | None,
    orphaned_before: datetime,
    now: datetime,
    limit: int,
    place: Place | None,
) -> tuple[list[Stranded], Place | None]:
    """A piece of the walk, about `limit` index entries long; see `DynamoStore.stranded`."""
    shard, after = place or (WALK[0], "")
    remaining = list(WALK[WALK.index(shard) :])
    if unsent_before is None:
        unsent_before = _NEVER
    suspects: list[str] = []
    left = limit
    next_place: Place | None = None
    while remaining and left > 0:
        piece = await _walk(
            calls,
            "stranded",
            shard=remaining[0],
            after=after or None,
            since_before=max(unsent_before, orphaned_before),
            queue=queue,
            limit=left,
        )
        suspects += [id_of_position(entry["position"]["S"]) for entry in piece.entries]
        left -= piece.scanned
        if piece.after is None:
            remaining.pop(0)
            after = ""
        else:
            after = piece.after
    if remaining:
        next_place = (remaining[0], after)
    if not suspects:
        return [], next_place
    found = await calls.get("stranded", suspects)
    stranded = [
        (item, Stranded(row.task, kind))
        for item in found.values()
        if (row := row_of(item)) is not None
        and (kind := _why_stranded(item, row, unsent_before, orphaned_before, now)) is not None
    ]
    return await _report(writer, stranded, now), next_place


def _why_stranded(
    item: Item, row: Row, unsent_before: datetime, orphaned_before: datetime, now: datetime
) -> StrandedKind | None:
    task = row.task
    if task.status is TaskStatus.PROCESSING:
        started_at = task.started_at or task.updated_at
        return StrandedKind.ORPHANED if started_at < orphaned_before else None
    if task.status is not TaskStatus.PENDING or row.due_at is not None:
        return None
    ready_at = max(task.updated_at, task.run_at or task.updated_at)
    if ready_at >= unsent_before:
        return None
    reported = item.get("stranded_at")
    if reported is not None:
        reported_at = datetime.fromisoformat(reported["S"])
        # Its message may merely wait in a long line: ask ever more rarely.
        if reported_at >= unsent_before or now - reported_at < reported_at - ready_at:
            return None
    return StrandedKind.UNSENT


async def _report(
    writer: Writer, found: Sequence[tuple[Item, Stranded]], now: datetime
) -> list[Stranded]:
    """Those that this engine may act upon: an unsent task is one engine's, and not soon again."""
    unsent = [item for item, stranded in found if stranded.kind is StrandedKind.UNSENT]
    answers = await writer.write(
        "stranded", [writes.mark_stranded(item, now) for item in unsent], explain=False
    )
    mine = {
        item["id"]["S"]
        for item, answer in zip(unsent, answers, strict=True)
        if isinstance(answer.result, Applied)
    }
    return [
        stranded
        for _, stranded in found
        if stranded.kind is StrandedKind.ORPHANED or stranded.task.id in mine
    ]


async def find_ended(
    calls: TableCalls, *, ended_before: datetime, limit: int
) -> list[tuple[str, TaskStatus, items.AttributeValue]]:
    """Up to `limit` finished tasks as (id, status, `finished_at`), of each filing those that were
    created first. Reads past the unfinished and the lately finished among them."""
    before = moment_text(ended_before)
    found: list[tuple[str, TaskStatus, items.AttributeValue]] = []
    for filing in (Filing.ROUTINE, Filing.FAILED, Filing.CANCELLED):
        for shard in table.status_shards(filing):
            after: str | None = ""
            while after is not None and len(found) < limit:
                piece = await _walk(
                    calls,
                    "expire",
                    shard=shard,
                    after=after or None,
                    since_before=ended_before,
                    queue=None,
                    limit=1000,
                )
                found += await _ended_of(calls, piece, before)
                after = piece.after
                if after is not None and after > before:
                    break  # the rest was created after that
    return found[:limit]


async def _ended_of(
    calls: TableCalls, piece: _Piece, before: str
) -> list[tuple[str, TaskStatus, items.AttributeValue]]:
    ids = [id_of_position(entry["position"]["S"]) for entry in piece.entries]
    attributes = ("id", "status", "finished_at")
    rows = await calls.get("expire", ids, consistent=False, attributes=attributes)
    ended = []
    for item in (rows[task_id] for task_id in ids if task_id in rows):
        with suppress(MalformedItem):
            status = items.status_of(item)
            finished_at = item.get("finished_at", {}).get("S", before)
            if status.is_terminal and finished_at < before:
                ended.append((item["id"]["S"], status, item["finished_at"]))
    return ended


# --- rows -----------------------------------------------------------------------------------


def row_of(item: Item) -> Row | None:
    """None for an item that cannot be understood; it is logged."""
    try:
        return items.to_row(item)
    except MalformedItem as error:
        logger.error("the item of task %s is malformed: %s", item["id"].get("S"), error)
        return None


def rows_of(found: dict[str, Item]) -> list[Row]:
    return [row for item in found.values() if (row := row_of(item)) is not None]

"""Lists of tasks, newest first, merged over the shards of `status-index`.

Every partition of the index is read from its newest end, a little at a time; the merge takes the
newest of all heads until a page is full. Pages are a look at a moving target: the index follows
the table within a moment, so a task that changes its status meanwhile may be missing from a page
by status, never twice in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from task_queue_engine.backends.aws import table
from task_queue_engine.backends.aws.calls import TableCalls
from task_queue_engine.backends.aws.concurrently import gather
from task_queue_engine.backends.aws.items import id_of_position
from task_queue_engine.backends.base import ListQuery
from task_queue_engine.task import TaskStatus

_PURPOSE = "list_tasks"

_MAX_ROUNDS = 12
"""Of reading on past what a filter holds back. A filter that hardly anything passes gets a short
page then, and a cursor to go on from."""

_FIRST_FILTERED = 100
_MOST = 2_000
"""Rows of one request; the next one of a partition asks for twice as many as the last."""


@dataclass(slots=True)
class _Stream:
    """One partition, from newest to oldest."""

    shard: str
    below: str | None
    """Positions still to be read are below this."""
    positions: list[str] = field(default_factory=list)
    """Read and not merged yet, newest last."""
    is_exhausted: bool = False
    limit: int = 0


@dataclass(frozen=True, slots=True)
class FoundPage:
    task_ids: tuple[str, ...]
    """Newest first."""
    next_below: str | None
    """The position to go on from; None at the end."""


async def find(calls: TableCalls, query: ListQuery, below: str | None) -> FoundPage:
    """The ids of the next page.

    Args:
        below: only tasks at positions (see `items.position`) smaller than this.

    Raises:
        BackendUnavailable
    """
    statuses = list(TaskStatus) if query.status is None else [query.status]
    streams = [
        _Stream(shard, below) for status in statuses for shard in table.status_shards(status)
    ]
    # One more than asked for tells whether there is a next page.
    wanted = query.limit + 1
    # As if all were of one status: the shards share them about evenly. Twenty rows cost as much
    # as one, half a read unit.
    first = math.ceil(1.5 * wanted / table.STATUS_SHARDS) + 2
    for stream in streams:
        stream.limit = min(_MOST, first if query.type is None else _FIRST_FILTERED)
    merged: list[str] = []
    rounds = 0
    while rounds < _MAX_ROUNDS or query.type is None:
        rounds += 1
        hungry = [each for each in streams if not each.positions and not each.is_exhausted]
        if hungry:
            await gather([partial(_read_on, calls, each, query.type) for each in hungry])
        _merge(streams, merged, wanted)
        if len(merged) == wanted or all(each.is_exhausted for each in streams):
            break
    found = merged[: query.limit]
    next_below = found[-1] if len(merged) == wanted else _frontier(streams)
    return FoundPage(tuple(id_of_position(each) for each in found), next_below)


def _frontier(streams: Sequence[_Stream]) -> str | None:
    """All that is still unknown lies below this; None where nothing is."""
    unknown = [each.below or "" for each in streams if not each.positions and not each.is_exhausted]
    return max(unknown, default=None)


def _merge(streams: Sequence[_Stream], merged: list[str], wanted: int) -> None:
    """Move positions over, newest first, until one is needed that has not been read."""
    frontier = _frontier(streams)
    while len(merged) < wanted:
        heads = [each for each in streams if each.positions]
        if not heads:
            return
        newest = max(heads, key=lambda each: each.positions[-1])
        if frontier is not None and newest.positions[-1] < frontier:
            return
        position = newest.positions.pop()
        if not newest.positions:
            frontier = _frontier(streams)
        if not merged or merged[-1] != position:  # a task between two partitions
            merged.append(position)


async def _read_on(calls: TableCalls, stream: _Stream, type_name: str | None) -> None:
    condition = "#shard = :shard"
    names = {"#shard": table.STATUS_INDEX.hash_key}
    values: dict[str, Any] = {":shard": {"S": stream.shard}}
    if stream.below is not None:
        condition += " AND #position < :below"
        names["#position"] = "position"
        values[":below"] = {"S": stream.below}
    parameters: dict[str, Any] = {
        "IndexName": table.STATUS_INDEX.name,
        "KeyConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ScanIndexForward": False,
        "Limit": stream.limit,
    }
    if type_name is not None:
        names["#type"] = "type"
        values[":type"] = {"S": type_name}
        parameters["FilterExpression"] = "#type = :type"
    stream.limit = min(_MOST, stream.limit * 2)
    document = await calls.query(_PURPOSE, parameters)
    stream.positions = [item["position"]["S"] for item in reversed(document["Items"])]
    last = document.get("LastEvaluatedKey")
    if last is None:
        stream.is_exhausted = True
    else:
        stream.below = last["position"]["S"]

"""Lists of tasks, newest first, merged over the partitions of `status-index`.

Every partition is read from its newest end, a little at a time; the merge takes the newest of all
heads. Where a task is filed does not say its status, so the rows are read before a page by status
is full, and those of another status are left out.

The routine comes first, then all else down to the same place: what the sweep or a change of status
takes off the routine meanwhile is met where it went. Pages are a look at a moving target all the
same: the index follows the table within a moment, and a task that changes its status meanwhile may
be missing from a page by status. No task is ever listed twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from task_queue_engine.backends.aws.dynamodb import schema as table
from task_queue_engine.backends.aws.dynamodb.item_format import Item, id_of_position
from task_queue_engine.backends.aws.dynamodb.schema import Filing
from task_queue_engine.backends.aws.dynamodb.table_client import TableCalls
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.base import ListQuery
from task_queue_engine.task import TaskStatus

_PURPOSE = "list_tasks"

UNFINISHED = frozenset({TaskStatus.PENDING, TaskStatus.PROCESSING})

_START, _END = "0", "~"
"""Below and above every position."""

_MAX_ROUNDS = 12
"""Of reading on past what a filter by type holds back. A filter that hardly anything passes gets a
short page then, and a cursor to go on from."""

_MAX_IN_VAIN = 2_000
"""Rows of another status read for one page, of the routine and of all else; then the same."""

_FIRST_FILTERED = 100
_MOST = 2_000
"""Entries of one request; the next one of a partition asks for twice as many as the last."""
_MOST_ROWS = 500
"""Looked at together."""


@dataclass(slots=True)
class _Stream:
    """One partition, from newest to oldest."""

    shard: str
    above: str
    below: str
    """Only positions between these two."""
    limit: int
    positions: list[str] = field(default_factory=list)
    """Read and not merged yet, newest last."""
    last_key: Item | None = None
    """Read up to here."""
    is_exhausted: bool = False

    @property
    def is_hungry(self) -> bool:
        return not self.positions and not self.is_exhausted

    @property
    def reached(self) -> str:
        return self.below if self.last_key is None else str(self.last_key["position"]["S"])


@dataclass(frozen=True, slots=True)
class FoundPage:
    task_ids: tuple[str, ...]
    """Newest first."""
    rows: dict[str, Item]
    """Of those ids; some may be missing."""
    next_below: str | None
    """The position to go on from; None at the end."""


async def find(
    calls: TableCalls, query: ListQuery, *, below: str | None, settled: Sequence[str] | None
) -> FoundPage:
    """The next page.

    Args:
        below: only tasks at positions (see `items.position`) smaller than this.
        settled: for a query by an unfinished status: `Sweep.settled`.

    Raises:
        BackendUnavailable
    """
    page = _Page(calls, query)
    below = _END if below is None else below
    filings = _filings(query.status)
    reached: str | None = None
    if Filing.ROUTINE in filings:
        shards = table.status_shards(Filing.ROUTINE)
        places = zip(shards, settled or [_START] * len(shards), strict=True)
        routine = [page.stream(shard, above, below) for shard, above in places]
        reached = await page.fill(routine)
    others = [
        page.stream(shard, reached or _START, below)
        for filing in filings
        if filing is not Filing.ROUTINE
        for shard in table.status_shards(filing)
    ]
    if others:
        others_reached = await page.fill(others)
        reached = max(filter(None, (reached, others_reached)), default=None)
    return await page.finish(reached)


def _filings(status: TaskStatus | None) -> tuple[Filing, ...]:
    if status is None:
        return tuple(Filing)
    if status in UNFINISHED:
        return (Filing.ROUTINE, Filing.OPEN)
    return (table.filing_of(status),)


class _Page:
    """Being filled."""

    def __init__(self, calls: TableCalls, query: ListQuery) -> None:
        self._calls = calls
        self._query = query
        # One more than asked for tells whether there is a next page.
        self._wanted = query.limit + 1
        self._found: set[str] = set()
        """Positions of what belongs on the page, or below it."""
        self._rows: dict[str, Item] = {}

    def stream(self, shard: str, above: str, below: str) -> _Stream:
        # As if all were of one filing: the shards share them about evenly. Twenty rows cost as
        # much as one, half a read unit.
        first = math.ceil(1.5 * self._wanted / table.STATUS_SHARDS) + 2
        limit = min(_MOST, first if self._query.type is None else _FIRST_FILTERED)
        # DynamoDB refuses to look between two positions the wrong way round.
        return _Stream(shard, above, below, limit, is_exhausted=above >= below)

    async def fill(self, streams: Sequence[_Stream]) -> str | None:
        """Take from these what belongs on the page.

        Returns:
            The position that it has come down to; None where that is the end.
        """
        merge = _Merge(self._calls, streams, self._query.type)
        found = in_vain = 0
        ask = self._wanted
        while found < self._wanted and in_vain < _MAX_IN_VAIN:
            positions = await merge.take(ask)
            matching = await self._matching(positions)
            self._found.update(matching)
            found += len(matching)
            in_vain += len(positions) - len(matching)
            if len(positions) < ask:
                break
            ask = min(_MOST_ROWS, ask * 2)
        return merge.reached

    async def _matching(self, positions: Sequence[str]) -> Sequence[str]:
        if self._query.status is None:
            return positions
        await self._read([id_of_position(position) for position in positions])
        wanted = {"S": self._query.status.value}
        return [
            position
            for position in positions
            if self._rows.get(id_of_position(position), {}).get("status") == wanted
        ]

    async def _read(self, task_ids: Sequence[str]) -> None:
        # The index has said which; a moment's staleness is no worse than its own.
        unread = [task_id for task_id in task_ids if task_id not in self._rows]
        self._rows |= await self._calls.get(_PURPOSE, unread, consistent=False)

    async def finish(self, reached: str | None) -> FoundPage:
        """
        Args:
            reached: nothing is known of what lies below; None: nothing does.
        """
        known = [each for each in self._found if reached is None or each >= reached]
        known.sort(reverse=True)
        page = known[: self._query.limit]
        task_ids = tuple(id_of_position(position) for position in page)
        await self._read(task_ids)
        next_below = page[-1] if len(known) > len(page) else reached
        return FoundPage(task_ids, self._rows, next_below)


class _Merge:
    """Of several partitions, newest first."""

    def __init__(
        self, calls: TableCalls, streams: Sequence[_Stream], type_name: str | None
    ) -> None:
        self._calls = calls
        self._streams = streams
        self._type_name = type_name
        self._rounds = 0
        self._last: str | None = None
        self.reached: str | None = None
        """All at this position and above has been taken; None: all there is."""

    async def take(self, number: int) -> list[str]:
        """The next positions: fewer only at the end, or where too much would have to be read."""
        taken: list[str] = []
        while True:
            self._merge(taken, number)
            hungry = [each for each in self._streams if each.is_hungry]
            if len(taken) == number:
                has_more = bool(hungry) or any(each.positions for each in self._streams)
                self.reached = taken[-1] if has_more else None
                return taken
            self.reached = self._frontier()
            if not hungry or (self._type_name is not None and self._rounds == _MAX_ROUNDS):
                return taken
            self._rounds += 1
            await gather([partial(self._read_on, each) for each in hungry])

    def _frontier(self) -> str | None:
        """All that is still unknown lies below this; None where nothing is."""
        return max((each.reached for each in self._streams if each.is_hungry), default=None)

    def _merge(self, taken: list[str], number: int) -> None:
        """Move positions over, newest first, until one is needed that has not been read."""
        frontier = self._frontier()
        while len(taken) < number:
            heads = [each for each in self._streams if each.positions]
            if not heads:
                return
            newest = max(heads, key=lambda each: each.positions[-1])
            if frontier is not None and newest.positions[-1] < frontier:
                return
            position = newest.positions.pop()
            if not newest.positions:
                frontier = self._frontier()
            if position != self._last:  # a task between two partitions is in both
                taken.append(position)
            self._last = position

    async def _read_on(self, stream: _Stream) -> None:
        names = {"#shard": table.STATUS_INDEX.hash_key, "#position": "position"}
        values = {
            ":shard": {"S": stream.shard},
            ":above": {"S": stream.above},
            ":below": {"S": stream.below},
        }
        parameters: dict[str, Any] = {
            "IndexName": table.STATUS_INDEX.name,
            "KeyConditionExpression": "#shard = :shard AND #position BETWEEN :above AND :below",
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": False,
            "Limit": stream.limit,
        }
        if stream.last_key is not None:
            parameters["ExclusiveStartKey"] = stream.last_key
        if self._type_name is not None:
            names["#type"] = "type"
            values[":type"] = {"S": self._type_name}
            parameters["FilterExpression"] = "#type = :type"
        stream.limit = min(_MOST, stream.limit * 2)
        document = await self._calls.query(_PURPOSE, parameters)
        read = [item["position"]["S"] for item in reversed(document["Items"])]
        # BETWEEN has both ends in it.
        stream.positions = [each for each in read if stream.above < each < stream.below]
        stream.last_key = document.get("LastEvaluatedKey")
        stream.is_exhausted = stream.last_key is None

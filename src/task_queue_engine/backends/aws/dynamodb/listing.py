"""Lists of tasks, newest first, merged over the shards of `status-index`.

Every shard is read from its newest end, a little at a time; the merge takes the newest of all
heads. The partition of a task does not say its status, so the rows are read before a page by
status is full, and those of another status are left out.

The default partition comes first, then all else down to the same sort key: what the sweep or a
change of status takes out of the default partition meanwhile is met where it went. Pages are a
look at a moving target all the same: the index follows the table within a moment, and a task that
changes its status meanwhile may be missing from a page by status. No task is ever listed twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import trio

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.item_format import Item, read_row
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition
from task_queue_engine.backends.aws.dynamodb.sort_keys import (
    HIGHEST_SORT_KEY,
    LOWEST_SORT_KEY,
    id_of_sort_key,
    moment_text,
    sort_key,
    sort_key_of,
)
from task_queue_engine.backends.aws.dynamodb.status_index import check_sort_key, of_queue
from task_queue_engine.backends.aws.dynamodb.sweep import Sweep
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.base import ListQuery, TaskCount, TaskPage
from task_queue_engine.backends.cursors import check_limit, decode_cursor, encode_cursor
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.task import TaskStatus

_PURPOSE = "list_tasks"

_UNFINISHED = frozenset({TaskStatus.PENDING, TaskStatus.PROCESSING})

# Tasks counted by one call: most filters take a look at the rows, and the caller looks at the clock
# between two calls. (With 5,000 it was 3,000 read units and, on a local server, seconds.)
_MOST_COUNTED = 500

# Seconds after which what a filter holds back is not read past any further: the page is short then,
# with a cursor. A round of requests takes 10 ms on AWS, so this is for one that is slow or
# throttles, and for a local server, which takes 100 ms for ten queries at once. A page is to be
# there in 300.
_MOST_SECONDS = 0.1

# Of reading on past what a filter by type or queue holds back. One that hardly anything passes gets
# a short page then, and a cursor to go on from: 7,000 entries, so that a page takes a tenth of a
# second (it was twelve rounds, and over a second on a local server).
_MAX_ROUNDS = 3

# Rows of another status read for one page, of the default partition and as many of all else; then
# the same. 20 requests each. So many are read even where that takes `_MOST_SECONDS`.
_MAX_IN_VAIN = 2_000
_LEAST_IN_VAIN = 300

# The same of rows without the error looked for. Those have one, and its traceback: they take longer
# to read than others.
_MAX_WITHOUT_ERROR = 100

# Entries of one request; the next one of a shard asks for twice as many as the last. 2,000 entries
# of 290 bytes stay below the 1 MB of an answer.
_FIRST_FILTERED = 100
_MOST = 2_000
# Looked at together: five requests at once.
_MOST_ROWS = 500


async def list_tasks(table: TableClient, sweep: Sweep, query: ListQuery) -> TaskPage:
    """As `TaskStore.list_tasks`.

    Raises:
        InvalidQuery: a bad limit or cursor, or the beginning of an id: the table's key has no
            order.
        BackendUnavailable
    """
    page, reached = await _look(table, sweep, query)
    return await page.finish(reached)


async def count_tasks(table: TableClient, sweep: Sweep, query: ListQuery) -> TaskCount:
    """As `TaskStore.count_tasks`; raises as `list_tasks`."""
    query = replace(query, limit=min(query.limit, _MOST_COUNTED))
    page, reached = await _look(table, sweep, query)
    found, cursor = page.found(reached)
    return TaskCount(number=len(found), next_cursor=cursor)


async def _look(table: TableClient, sweep: Sweep, query: ListQuery) -> tuple[_Page, str | None]:
    check_limit(query.limit)
    query.check()
    below = HIGHEST_SORT_KEY
    if query.created_before is not None:
        below = moment_text(query.created_before)
    if query.cursor is not None:
        (cursor,) = decode_cursor(query.cursor, "tasks", tuple[str])
        check_sort_key(cursor)
        below = min(below, cursor)
    page = _Page(table, query)
    if query.id is not None:
        await page.fill_by_id(query.id)
        return page, None
    lowest = LOWEST_SORT_KEY
    if query.created_after is not None:
        # A prefix of all sort keys of that moment; what is between them and it is nothing.
        lowest = moment_text(query.created_after)
    default_shards = schema.status_shards(IndexPartition.DEFAULT)
    settled = [lowest] * len(default_shards)
    statuses = _statuses(query)
    if TaskStatus.COMPLETED not in statuses:
        settled = [max(lowest, each) for each in await sweep.settled(_PURPOSE)]
    partitions = _partitions(statuses)
    reached: str | None = None
    if IndexPartition.DEFAULT in partitions:
        reached = await page.fill(
            [
                page.stream(shard, above, below)
                for shard, above in zip(default_shards, settled, strict=True)
            ]
        )
    others = [
        page.stream(shard, reached or lowest, below)
        for partition in partitions
        if partition is not IndexPartition.DEFAULT
        for shard in schema.status_shards(partition)
    ]
    if others:
        others_reached = await page.fill(others)
        reached = max(filter(None, (reached, others_reached)), default=None)
    return page, reached


def _statuses(query: ListQuery) -> list[TaskStatus]:
    """A task that is COMPLETED has no error."""
    completed_too = query.error is None
    return [each for each in query.statuses if completed_too or each is not TaskStatus.COMPLETED]


def _partitions(statuses: Sequence[TaskStatus]) -> list[IndexPartition]:
    wanted = {schema.PARTITION_OF[status] for status in statuses}
    if not _UNFINISHED.isdisjoint(statuses):
        wanted |= {IndexPartition.DEFAULT, IndexPartition.OPEN}
    return [partition for partition in IndexPartition if partition in wanted]


@dataclass(slots=True)
class _Stream:
    """One shard, from newest to oldest."""

    shard: str
    above: str
    below: str
    """Only sort keys between these two."""
    limit: int
    sort_keys: list[str] = field(default_factory=list)
    """Read and not merged yet, newest last."""
    last_key: Item | None = None
    """Read up to here."""
    is_exhausted: bool = False

    @property
    def is_hungry(self) -> bool:
        return not self.sort_keys and not self.is_exhausted

    @property
    def reached(self) -> str:
        return self.below if self.last_key is None else sort_key_of(self.last_key)


class _Page:
    """Being filled."""

    def __init__(self, table: TableClient, query: ListQuery) -> None:
        self._table = table
        self._query = query
        # One more than asked for tells whether there is a next page.
        self._wanted = query.limit + 1
        self._statuses = [{"S": status.value} for status in _statuses(query)]
        self._ends = trio.current_time() + _MOST_SECONDS
        self._most_in_vain = _MAX_IN_VAIN if query.error is None else _MAX_WITHOUT_ERROR
        self._looks_at_rows = len(self._statuses) < len(TaskStatus) or query.error is not None
        self._found: set[str] = set()
        """Sort keys of what belongs on the page, or below it."""
        self._rows: dict[str, Item] = {}

    def stream(self, shard: str, above: str, below: str) -> _Stream:
        # As if all were in one partition: its shards share them about evenly. Twenty rows cost as
        # much as one, half a read unit.
        first = math.ceil(1.5 * self._wanted / schema.STATUS_SHARDS) + 2
        limit = min(_MOST, _FIRST_FILTERED if self._is_filtered else first)
        # DynamoDB refuses to look between two sort keys the wrong way round.
        return _Stream(shard, above, below, limit, is_exhausted=above >= below)

    @property
    def _is_filtered(self) -> bool:
        """By DynamoDB, before it answers."""
        return self._query.type is not None or self._query.queue is not None

    async def fill_by_id(self, task_id: str) -> None:
        """Raises InvalidQuery for less than a whole id."""
        if not self._query.id_is_whole:
            raise InvalidQuery(
                "must be a whole id: this store does not find tasks by its beginning", field="id"
            )
        item = (await self._table.get(_PURPOSE, [task_id])).get(task_id)
        row = None if item is None else read_row(item)
        if item is None or row is None or self._query.cursor is not None:
            return
        if self._query.passes(row.task) and row.task.status in self._query.statuses:
            self._rows[task_id] = item
            self._found.add(sort_key(row.task.created_at, task_id))

    async def fill(self, streams: Sequence[_Stream]) -> str | None:
        """Take from these what belongs on the page.

        Returns:
            The sort key that it has come down to; None where that is the end.
        """
        merge = _Merge(self._table, streams, self._query, ends=self._ends)
        found = in_vain = 0
        ask = min(self._wanted, _MOST_ROWS) if self._looks_at_rows else self._wanted
        while found < self._wanted and in_vain < self._most_in_vain:
            sort_keys = await merge.take(ask)
            matching = await self._matching(sort_keys)
            self._found.update(matching)
            found += len(matching)
            in_vain += len(sort_keys) - len(matching)
            has_looked = in_vain >= (_LEAST_IN_VAIN if self._query.error is None else 1)
            if len(sort_keys) < ask or (has_looked and trio.current_time() >= self._ends):
                break
            ask = min(_MOST_ROWS, ask * 2)
        return merge.reached

    async def _matching(self, sort_keys: Sequence[str]) -> Sequence[str]:
        if not self._looks_at_rows:
            return sort_keys
        await self._read([id_of_sort_key(sort_key) for sort_key in sort_keys])
        return [
            sort_key
            for sort_key in sort_keys
            if self._passes(self._rows.get(id_of_sort_key(sort_key), {}))
        ]

    def _passes(self, item: Item) -> bool:
        if item.get("status") not in self._statuses:
            return False
        if self._query.error is None:
            return True
        row = read_row(item) if "error" in item else None
        return row is not None and self._query.has_error(row.task.error)

    async def _read(self, task_ids: Sequence[str]) -> None:
        # The index has said which; a moment's staleness is no worse than its own.
        unread = [task_id for task_id in task_ids if task_id not in self._rows]
        self._rows |= await self._table.get(_PURPOSE, unread, consistent=False)

    def found(self, reached: str | None) -> tuple[list[str], str | None]:
        """The sort keys on the page, and the next one's cursor.

        Args:
            reached: nothing is known of what lies below this sort key; None: nothing does.
        """
        known = [each for each in self._found if reached is None or each >= reached]
        known.sort(reverse=True)
        page = known[: self._query.limit]
        next_below = page[-1] if len(known) > len(page) else reached
        return page, None if next_below is None else encode_cursor("tasks", (next_below,))

    async def finish(self, reached: str | None) -> TaskPage:
        """See `found`."""
        page, cursor = self.found(reached)
        task_ids = [id_of_sort_key(sort_key) for sort_key in page]
        await self._read(task_ids)
        tasks = tuple(
            row.task
            for task_id in task_ids
            if (item := self._rows.get(task_id)) is not None and (row := read_row(item)) is not None
        )
        self._table.count(_PURPOSE, len(tasks))
        return TaskPage(tasks=tasks, next_cursor=cursor)


class _Merge:
    """Of several shards, newest first."""

    def __init__(
        self, table: TableClient, streams: Sequence[_Stream], query: ListQuery, *, ends: float
    ) -> None:
        self._table = table
        self._ends = ends
        self._streams = streams
        self._type_name = query.type
        self._queue = query.queue
        self._is_filtered = query.type is not None or query.queue is not None
        self._rounds = 0
        self._last: str | None = None
        self.reached: str | None = None
        """All at this sort key and above has been taken; None: all there is."""

    async def take(self, number: int) -> list[str]:
        """The next sort keys: fewer only at the end, or where too much would have to be read."""
        taken: list[str] = []
        while True:
            self._merge(taken, number)
            hungry = [each for each in self._streams if each.is_hungry]
            if len(taken) == number:
                has_more = bool(hungry) or any(each.sort_keys for each in self._streams)
                self.reached = taken[-1] if has_more else None
                return taken
            self.reached = self._frontier()
            if not hungry or (self._is_filtered and self._rounds and self._is_enough()):
                return taken
            self._rounds += 1
            await gather([partial(self._read_on, each) for each in hungry])

    def _is_enough(self) -> bool:
        """Of rounds; without one, a page would end where it began."""
        return self._rounds == _MAX_ROUNDS or trio.current_time() >= self._ends

    def _frontier(self) -> str | None:
        """All that is still unknown lies below this; None where nothing is."""
        return max((each.reached for each in self._streams if each.is_hungry), default=None)

    def _merge(self, taken: list[str], number: int) -> None:
        """Move sort keys over, newest first, until one is needed that has not been read."""
        frontier = self._frontier()
        while len(taken) < number:
            heads = [each for each in self._streams if each.sort_keys]
            if not heads:
                return
            newest = max(heads, key=lambda each: each.sort_keys[-1])
            if frontier is not None and newest.sort_keys[-1] < frontier:
                return
            sort_key = newest.sort_keys.pop()
            if not newest.sort_keys:
                frontier = self._frontier()
            if sort_key != self._last:  # a task between two partitions is in both
                taken.append(sort_key)
            self._last = sort_key

    async def _read_on(self, stream: _Stream) -> None:
        names = {"#shard": schema.STATUS_INDEX.hash_key, "#position": "position"}
        values = {
            ":shard": {"S": stream.shard},
            ":above": {"S": stream.above},
            ":below": {"S": stream.below},
        }
        parameters: dict[str, Any] = {
            "IndexName": schema.STATUS_INDEX.name,
            "KeyConditionExpression": "#shard = :shard AND #position BETWEEN :above AND :below",
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": False,
            "Limit": stream.limit,
        }
        if stream.last_key is not None:
            parameters["ExclusiveStartKey"] = stream.last_key
        filters: list[str] = []
        if self._type_name is not None:
            names["#type"] = "type"
            values[":type"] = {"S": self._type_name}
            filters.append("#type = :type")
        if self._queue is not None:
            filters.append(of_queue(self._queue, names, values))
        if filters:
            parameters["FilterExpression"] = " AND ".join(filters)
        stream.limit = min(_MOST, stream.limit * 2)
        document = await self._table.query(_PURPOSE, parameters)
        read = [sort_key_of(entry) for entry in reversed(document["Items"])]
        # BETWEEN has both ends in it.
        stream.sort_keys = [each for each in read if stream.above < each < stream.below]
        stream.last_key = document.get("LastEvaluatedKey")
        stream.is_exhausted = stream.last_key is None

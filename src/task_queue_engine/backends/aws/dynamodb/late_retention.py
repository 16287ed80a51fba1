"""A retention that is set later: the tasks that had ended before get a time to expire at, too.

DynamoDB's TTL deletes by an attribute that a task gets when it ends. What ended while there was no
retention has none, and would stay for ever. So once a week the ended ones are gone through: at the
price of reading them, and of a write for each that lacks it. Engines share the walk through an item
that says how far it has come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from task_queue_engine.backends.aws.dynamodb import conditional_writes, schema
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Update
from task_queue_engine.backends.aws.dynamodb.item_format import (
    Item,
    MalformedItem,
    expiry,
    finished_at_of,
    status_of,
)
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition
from task_queue_engine.backends.aws.dynamodb.sort_keys import (
    id_of_sort_key,
    moment_text,
    sort_key_of,
)
from task_queue_engine.backends.aws.dynamodb.status_index import walk
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.writers import Unanswered, Writer

_PURPOSE = "expire"

_SHARDS = tuple(
    shard
    for partition in (IndexPartition.DEFAULT, IndexPartition.FAILED, IndexPartition.CANCELLED)
    for shard in schema.status_shards(partition)
)
_AGAIN_AFTER = timedelta(days=7)
# Entries of one request: about 290 KB of the 1 MB that it takes at most.
_PAGE = 1000
# Entries of one call: some seconds of the reconciler's time. With a call every half a minute (its
# default) a table of two million is done in four hours.
_PIECE = 5_000
# The first shard, from its beginning.
_START = "0 "


class LateRetention:
    """
    Args:
        retention: seconds after which a finished task expires; not 0.
    """

    def __init__(
        self,
        table: TableClient,
        writer: Writer,
        *,
        now: Callable[[], datetime],
        retention: float,
    ) -> None:
        self._table = table
        self._writer = writer
        self._now = now
        self._retention = retention
        self._next_walk: datetime | None = None

    async def go_on(self) -> None:
        """Do a piece of the walk, if one is due.

        Raises:
            BackendUnavailable: the piece is done again.
        """
        now = self._now()
        if self._next_walk is not None and now < self._next_walk:
            return
        found = await self._table.get(_PURPOSE, [schema.RETENTION_ID])
        noted = found.get(schema.RETENTION_ID, {})
        began, place = noted.get("began_at", {}).get("S"), noted.get("place", {}).get("S")
        if began is not None and place is None and began > moment_text(now - _AGAIN_AFTER):
            # One request an hour to see whether another engine has begun anew.
            self._next_walk = now + timedelta(hours=1)
            return
        if began is None or place is None:
            began, place = moment_text(now), None
        await self._note(began, place, await self._walk(began, place or _START))

    async def _walk(self, began: str, place: str) -> str | None:
        """Walk on from there; returns the place to go on from, None at the end."""
        index, _, after = place.partition(" ")
        shard, seen = int(index), 0
        while shard < len(_SHARDS):
            if seen >= _PIECE:
                return f"{shard} {after}"
            page = await walk(
                self._table,
                _PURPOSE,
                shard=_SHARDS[shard],
                after=after or None,
                since_before=self._now(),
                queue=None,
                limit=_PAGE,
            )
            await self._set_expiry([id_of_sort_key(sort_key_of(one)) for one in page.entries])
            seen += page.scanned
            after = page.after or ""
            # What was created after the walk began ends with a retention.
            if not after or after > began:
                shard, after = shard + 1, ""
        return None

    async def _set_expiry(self, task_ids: Sequence[str]) -> None:
        attributes = ("id", "status", "finished_at", schema.TTL_ATTRIBUTE)
        items = await self._table.get(_PURPOSE, task_ids, consistent=False, attributes=attributes)
        updates = [update for item in items.values() for update in self._update_of(item)]
        for answer in await self._writer.write(_PURPOSE, updates, explain=False):
            if isinstance(answer.result, Unanswered):
                raise answer.result.reason

    def _update_of(self, item: Item) -> list[Update]:
        """The one write that it needs, or none."""
        if schema.TTL_ATTRIBUTE in item:
            return []
        try:
            status, finished_at = status_of(item), finished_at_of(item)
        except MalformedItem:
            return []
        if not status.is_terminal or finished_at is None:
            return []
        return [conditional_writes.expire_at(item, expiry(finished_at, status, self._retention))]

    async def _note(self, began: str, old_place: str | None, place: str | None) -> None:
        """Unless another engine has done the same piece meanwhile."""
        await self._table.update(
            _PURPOSE,
            schema.RETENTION_ID,
            "SET #began = :began, #place = :place"
            if place
            else "SET #began = :began REMOVE #place",
            condition="attribute_not_exists(#place)" if old_place is None else "#place = :old",
            names={"#began": "began_at", "#place": "place"},
            values={
                ":began": {"S": began},
                **({":place": {"S": place}} if place else {}),
                **({":old": {"S": old_place}} if old_place is not None else {}),
            },
        )

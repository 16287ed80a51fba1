"""The sweep: what has not ended some time after its creation is moved to the partition OPEN.

A task that runs once, soon, lies in the default partition from its creation on and never moves:
that is what makes it cheap. So that the unfinished can be found among the finished, engines
follow the entries of the default partition in the order of their creation, look
at each row once, and move to OPEN what waits or runs still. Below the checkpoint, the place that
the sweep has come to, all is COMPLETED.

That holds only if no task turns up unfinished below the checkpoint later, so

- the sweep stops at a watermark, `lag` behind the time, and a task whose creation takes a good part
  of that goes to OPEN (see `create`);
- the checkpoint is noted after the entries have been moved: a crash between the two repeats some
  of it;
- a checkpoint ahead of this engine's watermark is taken back to that;
- everything is looked at a second time, 30 times the lag later, for what the index showed late or
  another clock let slip.

Every shard of the partition has a lease and checkpoints of its own (see `sweep_leases`). Mostly
one engine looks at a page of each and all is done. Where there is more, it goes on with one shard
and leaves the others to whichever engine comes by, so a table that is busy is swept by many.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import trio

from task_queue_engine.backends.aws.dynamodb import conditional_writes, schema
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Update
from task_queue_engine.backends.aws.dynamodb.item_format import Item, status_at_of
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition
from task_queue_engine.backends.aws.dynamodb.sort_keys import (
    id_of_sort_key,
    moment_text,
    sort_key_of,
)
from task_queue_engine.backends.aws.dynamodb.sweep_leases import (
    PURPOSE,
    SHARDS,
    SweepLease,
    SweepLeases,
)
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.writers import Applied, Unanswered, Writer
from task_queue_engine.backends.aws.wire.concurrently import gather

# Entries of a shard looked at together. At least 2: the first one has been seen before.
_PAGE = 500
# A move counts for so many entries: it is a write, where looking is a fraction of a read.
_MOVE_COUNTS_FOR = 10
# Entries a second and process, while there is more than a page of each shard. Each task is looked
# at twice, so a process sweeps 6,250 tasks/s, more than one can run, with less than half a core.
_PACE = 12_500.0
# Seconds for which a process goes on: the rest of its reconciler waits for it. What is left is
# done by the others, and by itself soon after.
_TURN = 20.0
# Seconds between notes: a sixth of the lease is left for one page at least, and a crash repeats
# no more than that.
_NOTE_EVERY = 5.0

# How many lags later everything is looked at again.
_SECOND_LOOK = 30

# Most have ended, and most of a look's CPU goes into reading what comes: the others are read once
# more.
_LOOKED_AT = ("id", "finished_at")
_UNFINISHED = (*_LOOKED_AT, "status", "status_shard", "started_at", "updated_at", "run_at")


@dataclass(frozen=True, slots=True)
class _Ends:
    """Up to where a turn looks, and which shards are far enough behind for a second look."""

    first: str
    second: str
    checks: Collection[int]


class Sweep:
    """
    Args:
        lag: what a task has from its creation until it is looked at.
        reindexed: told how many tasks have moved in the index.
    """

    def __init__(
        self,
        table: TableClient,
        writer: Writer,
        *,
        now: Callable[[], datetime],
        lag: timedelta,
        reindexed: Callable[[int], None],
    ) -> None:
        self._table = table
        self._writer = writer
        self._now = now
        self.lag = lag
        self._reindexed = reindexed
        self._leases = SweepLeases(table, now=now, rest=lag / 4)

    async def settled(self, purpose: str) -> list[str]:
        """For each shard of the default partition, a sort key below which no entry is unfinished.

        It is where the sweep was a second before it was last noted: what it has moved since then
        may not have arrived in the index.

        Raises:
            BackendUnavailable
        """
        watermark = self._watermark(self.lag)
        return [min(sort_key, watermark) for sort_key in await self._leases.settled(purpose)]

    async def go_on(self) -> bool:
        """Do what is to be done, for `_TURN` seconds at most, as far as this engine gets leases.

        Returns:
            False where more is to be done at once.

        Raises:
            BackendUnavailable: it will be tried again.
        """
        ends_at = trio.current_time() + _TURN
        while True:
            lease = await self._leases.acquire()
            if lease is None or not await self._sweep(lease, ends_at):
                return True
            if trio.current_time() >= ends_at:
                return False

    def moves_of(self, found: Sequence[Item]) -> list[Update]:
        """For those of these items that are in the default partition and not finished."""
        return [
            conditional_writes.reindex(item["id"]["S"], status_at_of(item))
            for item in found
            if "finished_at" not in item
            and item.get("status_shard", {}).get("S", "").startswith(IndexPartition.DEFAULT)
        ]

    # --- looking ----------------------------------------------------------------------------

    def _watermark(self, lag: timedelta) -> str:
        """Above the sort keys of what was created before that."""
        return moment_text(self._now() - lag)

    async def _sweep(self, lease: SweepLease, ends_at: float) -> bool:
        """A page of every shard, then all of the one that is furthest behind.

        Returns:
            Whether some of what was leased is behind and may be had.
        """
        ends = self._ends(lease)
        noted_at = began_at = trio.current_time()
        behind, work = await self._round(lease, ends)
        left_to_others = False
        while behind and trio.current_time() < ends_at:
            kept = min(behind, key=lambda n: lease.shards[n].swept)
            if len(lease.shards) > 1 or trio.current_time() >= noted_at + _NOTE_EVERY:
                left_to_others |= len(behind) > 1
                noted_at = trio.current_time()
                if not await self._leases.note(lease, keep=[kept], behind=behind):
                    return False
            # The tasks of this process come first, and the table is to be read evenly.
            await trio.sleep(max(0.0, began_at + work / _PACE - trio.current_time()))
            began_at = trio.current_time()
            behind, work = await self._round(lease, ends)
        is_mine = await self._leases.note(lease, keep=(), behind=behind)
        return is_mine and (left_to_others or bool(behind))

    def _ends(self, lease: SweepLease) -> _Ends:
        second = _SECOND_LOOK * self.lag
        ends = _Ends(
            self._watermark(self.lag),
            self._watermark(second),
            # It is not worth its requests to come any closer than this.
            {
                n
                for n, shard in lease.shards.items()
                if shard.checked < self._watermark(second * 1.25)
            },
        )
        for shard in lease.shards.values():
            shard.swept = min(shard.swept, ends.first)
            shard.checked = min(shard.checked, ends.second)
        return ends

    async def _round(self, lease: SweepLease, ends: _Ends) -> tuple[set[int], int]:
        """A page of each shard.

        Returns:
            Those that are not done, and how much work it was.
        """
        shards = list(lease.shards)
        work = await gather([partial(self._advance, lease, n, ends) for n in shards])
        behind = {
            n
            for n, shard in lease.shards.items()
            if shard.swept < ends.first or (n in ends.checks and shard.checked < ends.second)
        }
        return behind, sum(work)

    async def _advance(self, lease: SweepLease, shard: int, ends: _Ends) -> int:
        """By a page of its first look, and of its second where the first is done."""
        progress = lease.shards[shard]
        work = 0
        if progress.swept < ends.first:
            progress.swept, work = await self._look_at(SHARDS[shard], progress.swept, ends.first)
        if progress.swept >= ends.first and shard in ends.checks and progress.checked < ends.second:
            progress.checked, more = await self._look_at(
                SHARDS[shard], progress.checked, ends.second
            )
            work += more
        return work

    async def _look_at(self, shard: str, start: str, end: str) -> tuple[str, int]:
        """Move what is unfinished of a page of this shard.

        Returns:
            The sort key up to which all has been seen to, and how much work that was.
        """
        document = await self._table.query(
            PURPOSE,
            {
                "IndexName": schema.STATUS_INDEX.name,
                "KeyConditionExpression": "#shard = :shard AND #position BETWEEN :start AND :end",
                "ExpressionAttributeNames": {"#shard": "status_shard", "#position": "position"},
                "ExpressionAttributeValues": {
                    ":shard": {"S": shard},
                    ":start": {"S": start},
                    ":end": {"S": end},
                },
                "ProjectionExpression": "#position",
                "Limit": _PAGE,
            },
        )
        ids = [id_of_sort_key(sort_key_of(entry)) for entry in document["Items"]]
        # A row that is out of date here looks unfinished, never finished.
        found = await self._table.get(PURPOSE, ids, consistent=False, attributes=_LOOKED_AT)
        unfinished = [task_id for task_id, item in found.items() if "finished_at" not in item]
        moves: list[Update] = []
        if unfinished:
            found = await self._table.get(
                PURPOSE, unfinished, consistent=False, attributes=_UNFINISHED
            )
            moves = self.moves_of(list(found.values()))
            await self._move(moves)
        last = document.get("LastEvaluatedKey")
        reached = end if last is None else sort_key_of(last)
        return reached, len(ids) + _MOVE_COUNTS_FOR * len(moves)

    async def _move(self, moves: Sequence[Update]) -> None:
        # One that is refused has been moved or has ended meanwhile.
        answers = await self._writer.write(PURPOSE, moves, explain=False)
        done = sum(isinstance(answer.result, Applied) for answer in answers)
        self._reindexed(done)
        self._table.count(PURPOSE, done)
        for answer in answers:
            if isinstance(answer.result, Unanswered):
                raise answer.result.reason

"""The sweep: what has not ended some time after its creation is moved to the partition OPEN.

A task that runs once, soon, lies in the default partition from its creation on and never moves:
that is what makes it cheap. So that the unfinished can be found among the finished, one engine
after the other follows the entries of the default partition in the order of their creation, looks
at each row once, and moves to OPEN what waits or runs still. Below the checkpoint, the place that
the sweep has come to, all is COMPLETED.

That holds only if no task turns up unfinished below the checkpoint later, so

- the sweep stops at a watermark, `lag` behind the time, and a task whose creation takes a good part
  of that goes to OPEN (see `create`);
- the checkpoint is noted after the entries have been moved: a crash between the two repeats some
  of it;
- a checkpoint ahead of this engine's watermark is taken back to that;
- everything is looked at a second time, 30 times the lag later, for what the index showed late or
  another clock let slip.

Engines take turns by a lease on the item that holds the checkpoints.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from task_queue_engine.backends.aws.dynamodb import conditional_writes, schema
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Update
from task_queue_engine.backends.aws.dynamodb.item_format import (
    LOWEST_SORT_KEY,
    Item,
    id_of_sort_key,
    moment_text,
    sort_key_of,
    status_at_of,
)
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.writers import Applied, Unanswered, Writer
from task_queue_engine.backends.aws.wire.concurrently import gather

_PURPOSE = "sweep"

_SHARDS = schema.status_shards(IndexPartition.DEFAULT)

# Entries looked at in one call, about; 250 requests. While there is more to do, the reconciler
# makes a call every three seconds: about 6,000 tasks/s.
_PIECE = 20_000
# Entries that a move counts for: it is a write, where looking is a fraction of a read.
_MOVE_COUNTS_FOR = 10
# Entries of a shard looked at together. At least 2: the first one has been seen before.
_PAGE = 500

# How many lags later everything is looked at again.
_SECOND_LOOK = 30

# For one page of every shard; an engine that takes longer may find that another has gone on.
_LEASE = timedelta(seconds=60)
# Between two pieces: the index is to show the one before the next has an end. See `settled`.
_PAUSE = timedelta(seconds=1)
# A lease that ends later than any could, and this much, was taken by a clock that is wrong.
_SKEW = timedelta(minutes=5)

_LOOKED_AT = ("id", "status", "status_shard", "finished_at", "started_at", "updated_at", "run_at")


@dataclass(frozen=True, slots=True)
class _Look:
    checkpoint: str
    """The attribute that says how far it has come: a sort key for each shard."""
    lag: timedelta
    every: timedelta
    """It is not worth its requests to come any closer than this."""


@dataclass(slots=True)
class _Lease:
    holder: str
    checkpoints: dict[str, list[str]] = field(default_factory=dict)
    """What is to be noted."""


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
        self._first = _Look("swept", lag, timedelta())
        self._second = _Look("checked", _SECOND_LOOK * lag, _SECOND_LOOK * lag / 4)

    async def settled(self, purpose: str) -> list[str]:
        """For each shard of the default partition, a sort key below which no entry is unfinished.

        It is where the sweep began its last piece: what it has moved since then may not have
        arrived in the index.

        Raises:
            BackendUnavailable
        """
        found = await self._table.get(purpose, [schema.SWEEP_ID], consistent=False)
        watermark = self._watermark(self.lag)
        noted = _checkpoints(found.get(schema.SWEEP_ID, {}), "settled")
        return [min(sort_key, watermark) for sort_key in noted]

    async def go_on(self) -> bool:
        """Do a piece of what is to be done, if this engine gets the lease.

        Returns:
            False where more is to be done at once.

        Raises:
            BackendUnavailable: it will be tried again.
        """
        lease = _Lease(secrets.token_hex(6))
        state = await self._acquire(lease)
        if state is None:
            return True
        began_at = _checkpoints(state, self._first.checkpoint)
        is_done = await self._look(self._first, state, lease)
        if is_done is None:
            return True
        swept = lease.checkpoints[self._first.checkpoint]
        lease.checkpoints["settled"] = [min(pair) for pair in zip(began_at, swept, strict=True)]
        is_checked = await self._look(self._second, state, lease)
        if is_checked is None:
            return True
        is_done = is_done and is_checked
        await self._note(lease, until=self._now() + (self.lag / 4 if is_done else _PAUSE))
        return is_done

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

    async def _look(self, look: _Look, state: Item, lease: _Lease) -> bool | None:
        """Whether it has come to its watermark; None where another engine has the lease by now."""
        watermark = self._watermark(look.lag)
        reached = [min(sort_key, watermark) for sort_key in _checkpoints(state, look.checkpoint)]
        lease.checkpoints[look.checkpoint] = reached
        if look.every and min(reached) >= self._watermark(look.lag + look.every):
            return True
        left = _PIECE
        while True:
            behind = [n for n, sort_key in enumerate(reached) if sort_key < watermark]
            if not behind:
                return True
            if left <= 0:
                return False
            if left < _PIECE and not await self._note(lease, until=self._now() + _LEASE):
                return None
            pieces = await gather(
                [partial(self._look_at, _SHARDS[n], reached[n], watermark) for n in behind]
            )
            for n, (sort_key, work) in zip(behind, pieces, strict=True):
                reached[n] = sort_key
                left -= work

    async def _look_at(self, shard: str, start: str, end: str) -> tuple[str, int]:
        """Move what is unfinished of a page of this shard.

        Returns:
            The sort key up to which all has been seen to, and how much work that was.
        """
        document = await self._table.query(
            _PURPOSE,
            {
                "IndexName": schema.STATUS_INDEX.name,
                "KeyConditionExpression": "#shard = :shard AND #position BETWEEN :start AND :end",
                "ExpressionAttributeNames": {"#shard": "status_shard", "#position": "position"},
                "ExpressionAttributeValues": {
                    ":shard": {"S": shard},
                    ":start": {"S": start},
                    ":end": {"S": end},
                },
                "Limit": _PAGE,
            },
        )
        ids = [id_of_sort_key(sort_key_of(entry)) for entry in document["Items"]]
        # A row that is out of date here looks unfinished, never finished.
        found = await self._table.get(_PURPOSE, ids, consistent=False, attributes=_LOOKED_AT)
        moves = self.moves_of(list(found.values()))
        await self._move(moves)
        last = document.get("LastEvaluatedKey")
        reached = end if last is None else sort_key_of(last)
        return reached, len(ids) + _MOVE_COUNTS_FOR * len(moves)

    async def _move(self, moves: Sequence[Update]) -> None:
        # One that is refused has been moved or has ended meanwhile.
        answers = await self._writer.write(_PURPOSE, moves, explain=False)
        done = sum(isinstance(answer.result, Applied) for answer in answers)
        self._reindexed(done)
        self._table.count(_PURPOSE, done)
        for answer in answers:
            if isinstance(answer.result, Unanswered):
                raise answer.result.reason

    # --- the lease --------------------------------------------------------------------------

    async def _acquire(self, lease: _Lease) -> Item | None:
        """The noted state, where no other engine has the lease."""
        now = self._now()
        return await self._table.update(
            _PURPOSE,
            schema.SWEEP_ID,
            "SET #turn = :until, #holder = :me",
            # The holder's name: sent twice by the client, it has been carried out by the first.
            condition="attribute_not_exists(#turn) OR #turn <= :now OR #turn > :never "
            "OR #holder = :me",
            names={"#turn": "turn", "#holder": "holder"},
            values={
                ":me": {"S": lease.holder},
                ":now": _milliseconds(now),
                ":until": _milliseconds(now + _LEASE),
                ":never": _milliseconds(now + _LEASE + self.lag / 4 + _SKEW),
            },
            returning=True,
        )

    async def _note(self, lease: _Lease, *, until: datetime) -> bool:
        """False where another engine has the lease by now: it has gone on from an older checkpoint,
        which costs something and does no harm."""
        names = {f"#{n}": name for n, name in enumerate(lease.checkpoints)}
        values: Item = {
            f":{n}": {"L": [{"S": sort_key} for sort_key in sort_keys]}
            for n, sort_keys in enumerate(lease.checkpoints.values())
        }
        assignments = ", ".join(f"#{n} = :{n}" for n in range(len(lease.checkpoints)))
        noted = await self._table.update(
            _PURPOSE,
            schema.SWEEP_ID,
            f"SET #turn = :until, {assignments}",
            condition="#holder = :me",
            names=names | {"#turn": "turn", "#holder": "holder"},
            values=values | {":me": {"S": lease.holder}, ":until": _milliseconds(until)},
        )
        return noted is not None


def _checkpoints(state: Item, name: str) -> list[str]:
    """From the start where nothing (or nothing that fits) has been noted."""
    found = [noted.get("S", LOWEST_SORT_KEY) for noted in state.get(name, {}).get("L", ())]
    return found if len(found) == len(_SHARDS) else [LOWEST_SORT_KEY] * len(_SHARDS)


def _milliseconds(moment: datetime) -> dict[str, str]:
    return {"N": str(int(moment.timestamp() * 1000))}

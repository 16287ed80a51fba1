"""Who sweeps which shards of the default partition, and how far each has come: one item.

Beside the three checkpoints of each shard it holds a lease for each, so that several engines
sweep at a time. A lease is taken as it was seen to be (its holder's name is for a request that the
client has sent twice), renewed with each note, and ends by itself.

Older versions have one lease for all shards, `turn` and `holder`. Whoever leases shards takes that
one too, in a name that all share, and moves it on with each note: an older process waits
meanwhile, and while one of those sweeps, no shard is leased.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.dynamodb.process_marks import milliseconds
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition
from task_queue_engine.backends.aws.dynamodb.sort_keys import LOWEST_SORT_KEY
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient

PURPOSE: Final = "sweep"

SHARDS: Final = schema.status_shards(IndexPartition.DEFAULT)

# Many times a page of every shard and a note.
LEASE: Final = timedelta(seconds=60)
# Of the older versions' lease; theirs are hexadecimal.
_SHARED = "shards"
# What has been moved shows in the index after that.
_SETTLING = timedelta(seconds=1)
# A lease that ends later than any could, and this much, was taken by a clock that is wrong.
_SKEW = timedelta(minutes=5)

# The attributes that say how far it has come: lists of sort keys, one a shard.
_SWEPT, _CHECKED, _SETTLED = "swept", "checked", "settled"


@dataclass(slots=True)
class ShardProgress:
    swept: str
    """Up to here all has been looked at once."""
    checked: str
    """The same of the second look."""
    settled: str
    """Up to here no entry is unfinished, and the index shows it."""
    seen_to: deque[tuple[datetime, str]] = field(default_factory=deque)
    """When `swept` was where, since `settled`."""

    def settle(self, now: datetime) -> None:
        self.seen_to.append((now, self.swept))
        while self.seen_to and self.seen_to[0][0] <= now - _SETTLING:
            self.settled = self.seen_to.popleft()[1]
        # It may have been taken back.
        self.settled = min(self.settled, self.swept)


@dataclass(slots=True)
class SweepLease:
    holder: str
    shards: dict[int, ShardProgress]


class SweepLeases:
    """
    Args:
        rest: of a shard that is done.
    """

    def __init__(self, table: TableClient, *, now: Callable[[], datetime], rest: timedelta) -> None:
        self._table = table
        self._now = now
        self._rest = rest

    async def settled(self, purpose: str) -> list[str]:
        """Of each shard.

        Raises:
            BackendUnavailable
        """
        found = await self._table.get(purpose, [schema.SWEEP_ID], consistent=False)
        return _noted(found.get(schema.SWEEP_ID, {}), _SETTLED)

    async def acquire(self) -> SweepLease | None:
        """All shards that are due and not another engine's; None where there are none.

        Raises:
            BackendUnavailable
        """
        found = await self._table.get(PURPOSE, [schema.SWEEP_ID])
        seen = found.get(schema.SWEEP_ID, {})
        now = self._now()
        if seen.get("holder", {}).get("S") != _SHARED and self._is_held(seen, "turn", now):
            return None
        free = [n for n in range(len(SHARDS)) if not self._is_held(seen, f"turn_{n}", now)]
        if not free:
            return None
        lease = SweepLease(secrets.token_hex(6), {n: _progress(seen, n, now) for n in free})
        names = {"#turn": "turn", "#holder": "holder"}
        values: Item = {
            ":me": {"S": lease.holder},
            ":shared": {"S": _SHARED},
            ":until": _at(now + LEASE),
        }
        changes = ["#turn = :until", "#holder = :shared"]
        conditions = [f"(#holder = :shared OR {_as_seen(seen, 'turn', '', values)})"]
        for n in free:
            names |= {f"#turn{n}": f"turn_{n}", f"#holder{n}": f"holder_{n}"}
            changes += [f"#turn{n} = :until", f"#holder{n} = :me"]
            conditions.append(f"({_as_seen(seen, f'turn_{n}', n, values)} OR #holder{n} = :me)")
        for name in (_SWEPT, _CHECKED, _SETTLED):
            if not _fits(seen, name):
                # So that a note finds the places that it writes to.
                names[f"#{name}"] = name
                values[f":{name}"] = {"L": [{"S": LOWEST_SORT_KEY}] * len(SHARDS)}
                changes.append(f"#{name} = :{name}")
        taken = await self._table.update(
            PURPOSE,
            schema.SWEEP_ID,
            "SET " + ", ".join(changes),
            condition=" AND ".join(conditions),
            names=names,
            values=values,
        )
        return None if taken is None else lease

    async def note(
        self, lease: SweepLease, *, keep: Collection[int], behind: Collection[int]
    ) -> bool:
        """How far it has come. Shards that are not kept are given back: those behind are free at
        once, the others rest.

        Returns:
            False where another engine has one of them by now: it has gone on from an older
            checkpoint, which costs something and does no harm.

        Raises:
            BackendUnavailable
        """
        now = self._now()
        is_over = not keep and not behind
        names = {"#turn": "turn", "#holder": "holder"}
        values: Item = {
            ":me": {"S": lease.holder},
            ":shared": {"S": _SHARED},
            ":until": _at(now + LEASE),
            ":now": _at(now),
            ":rested": _at(now + self._rest),
        }
        changes = [f"#turn = {':rested' if is_over else ':until'}", "#holder = :shared"]
        used = {":rested" if is_over else ":until"}
        for n, progress in lease.shards.items():
            progress.settle(now)
            until = ":until" if n in keep else ":now" if n in behind else ":rested"
            used.add(until)
            names |= {f"#turn{n}": f"turn_{n}", f"#holder{n}": f"holder_{n}"}
            changes.append(f"#turn{n} = {until}")
            for name in (_SWEPT, _CHECKED, _SETTLED):
                names[f"#{name}"] = name
                values[f":{name}{n}"] = {"S": getattr(progress, name)}
                changes.append(f"#{name}[{n}] = :{name}{n}")
        noted = await self._table.update(
            PURPOSE,
            schema.SWEEP_ID,
            "SET " + ", ".join(changes),
            condition=" AND ".join(f"#holder{n} = :me" for n in lease.shards),
            names=names,
            # DynamoDB refuses values that no expression names.
            values={
                name: value
                for name, value in values.items()
                if name not in (":until", ":now", ":rested") or name in used
            },
        )
        lease.shards = {n: lease.shards[n] for n in keep}
        return noted is not None

    def _is_held(self, seen: Item, name: str, now: datetime) -> bool:
        until = _until(seen, name)
        never = milliseconds(now + LEASE + self._rest + _SKEW)
        return milliseconds(now) < until <= never


def _progress(seen: Item, shard: int, now: datetime) -> ShardProgress:
    swept, checked, settled = (_noted(seen, name)[shard] for name in (_SWEPT, _CHECKED, _SETTLED))
    # Whoever noted it last did so before the end of that lease; an older version, a second before.
    is_shared = seen.get("holder", {}).get("S") == _SHARED
    if not is_shared or _until(seen, f"turn_{shard}") <= milliseconds(now - _SETTLING):
        settled = swept
    return ShardProgress(swept, checked, settled)


def _noted(seen: Item, name: str) -> list[str]:
    """From the start where nothing (or nothing that fits) has been noted."""
    if not _fits(seen, name):
        return [LOWEST_SORT_KEY] * len(SHARDS)
    return [noted.get("S", LOWEST_SORT_KEY) for noted in seen[name]["L"]]


def _fits(seen: Item, name: str) -> bool:
    return len(seen.get(name, {}).get("L", ())) == len(SHARDS)


def _until(seen: Item, name: str) -> int:
    return int(seen.get(name, {}).get("N", "0"))


def _as_seen(seen: Item, name: str, suffix: object, values: Item) -> str:
    """The condition that this lease is as it was."""
    if name not in seen:
        return f"attribute_not_exists(#turn{suffix})"
    values[f":turn{suffix}"] = seen[name]
    return f"#turn{suffix} = :turn{suffix}"


def _at(moment: datetime) -> dict[str, str]:
    return {"N": str(milliseconds(moment))}

"""The sweep: what has not ended some time after its creation is filed under OPEN.

A task that runs once, soon, is filed under ROUTINE from its creation on and never moved: that is
what makes it cheap. So that the unfinished can be found among the finished, one engine after the
other follows the entries of ROUTINE in the order of their creation, looks at each row once, and
files under OPEN what waits or runs still. Below the place the sweep has come to, all is COMPLETED.

That holds only if no task turns up unfinished below that place later, so

- the sweep stays `lag` behind the time, and a task whose creation takes a good part of that is
  filed under OPEN (see `creation`);
- the place is noted after the refiling: a crash between the two repeats some of it;
- a place ahead of what this engine's clock allows is taken back to that;
- everything is looked at a second time, 30 times the lag later, for what the index showed late or
  another clock let slip.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from task_queue_engine.backends.aws.dynamodb import conditional_writes as writes
from task_queue_engine.backends.aws.dynamodb import item_format as items
from task_queue_engine.backends.aws.dynamodb import schema as table
from task_queue_engine.backends.aws.dynamodb.item_format import Item, id_of_position, moment_text
from task_queue_engine.backends.aws.dynamodb.schema import Filing
from task_queue_engine.backends.aws.dynamodb.table_client import TableCalls
from task_queue_engine.backends.aws.dynamodb.writers import Applied, Unanswered, Writer
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.errors import BackendUnavailable

logger = logging.getLogger("task_queue_engine.dynamodb")

_PURPOSE = "sweep"

START = "0"
"""Below every position."""

_SHARDS = table.status_shards(Filing.ROUTINE)

_PIECE = 20_000
"""Entries looked at in one call, about; 250 requests. While there is more to do, the reconciler
makes a call every three seconds: about 6,000 tasks/s."""
_REFILING = 10
"""Entries that a refiling counts for."""
_PAGE = 500
"""Entries of a partition looked at together. At least 2: the first one has been seen before."""

_SECOND_LOOK = 30
"""How many times later."""

_TURN = timedelta(seconds=60)
"""For one page of every partition; who takes longer may find that another has gone on."""
_PAUSE = timedelta(seconds=1)
"""Between two pieces: the index is to show the one before the next has an end. See `settled`."""
_SKEW = timedelta(minutes=5)
"""A turn that ends later than any could, and this much, was given by a clock that is wrong."""

_LOOKED_AT = ("id", "status", "status_shard", "finished_at", "started_at", "updated_at", "run_at")


@dataclass(frozen=True, slots=True)
class _Look:
    places: str
    """The attribute that says how far it has come: a position for each partition."""
    lag: timedelta
    every: timedelta
    """It is not worth its requests to come any closer than this."""


@dataclass(slots=True)
class _Turn:
    holder: str
    places: dict[str, list[str]] = field(default_factory=dict)
    """What is to be noted."""


class Sweep:
    """
    Args:
        lag: what a task has from its creation until it is looked at.
        refiled: told how many tasks have been filed elsewhere.
    """

    def __init__(
        self,
        calls: TableCalls,
        writer: Writer,
        *,
        now: Callable[[], datetime],
        lag: timedelta,
        refiled: Callable[[int], None],
    ) -> None:
        self._calls = calls
        self._writer = writer
        self._now = now
        self.lag = lag
        self._refiled = refiled
        self._first = _Look("swept", lag, timedelta())
        self._second = _Look("checked", _SECOND_LOOK * lag, _SECOND_LOOK * lag / 4)

    async def settled(self, purpose: str) -> list[str]:
        """For each partition of ROUTINE, a position below which no entry is unfinished.

        It is where the sweep began its last piece: what it has refiled since then may not have
        arrived in the index.

        Raises:
            BackendUnavailable
        """
        found = await self._calls.get(purpose, [table.SWEEP_ID], consistent=False)
        horizon = self._horizon(self.lag)
        return [min(place, horizon) for place in _places(found.get(table.SWEEP_ID, {}), "settled")]

    async def go_on(self) -> bool:
        """Do a piece of what is to be done, where it is this engine's turn.

        Returns:
            False where more is to be done at once.

        Raises:
            BackendUnavailable: it will be tried again.
        """
        turn = _Turn(secrets.token_hex(6))
        state = await self._take(turn)
        if state is None:
            return True
        began_at = _places(state, self._first.places)
        is_done = await self._look(self._first, state, turn)
        if is_done is None:
            return True
        swept = turn.places[self._first.places]
        turn.places["settled"] = [min(pair) for pair in zip(began_at, swept, strict=True)]
        is_checked = await self._look(self._second, state, turn)
        if is_checked is None:
            return True
        is_done = is_done and is_checked
        await self._note(turn, until=self._now() + (self.lag / 4 if is_done else _PAUSE))
        return is_done

    def refilings(self, found: Sequence[Item]) -> list[writes.Update]:
        """For those of these items that are on the routine and not finished."""
        return [
            writes.refile(item["id"]["S"], items.status_at_of(item))
            for item in found
            if "finished_at" not in item
            and item.get("status_shard", {}).get("S", "").startswith(Filing.ROUTINE)
        ]

    # --- looking ----------------------------------------------------------------------------

    def _horizon(self, lag: timedelta) -> str:
        """Above the positions of what was created before that."""
        return moment_text(self._now() - lag)

    async def _look(self, look: _Look, state: Item, turn: _Turn) -> bool | None:
        """Whether it has come to its horizon; None where the turn has passed to another."""
        horizon = self._horizon(look.lag)
        places = [min(place, horizon) for place in _places(state, look.places)]
        turn.places[look.places] = places
        if look.every and min(places) >= self._horizon(look.lag + look.every):
            return True
        left = _PIECE
        while True:
            behind = [n for n, place in enumerate(places) if place < horizon]
            if not behind:
                return True
            if left <= 0:
                return False
            if left < _PIECE and not await self._note(turn, until=self._now() + _TURN):
                return None
            pieces = await gather(
                [partial(self._look_at, _SHARDS[n], places[n], horizon) for n in behind]
            )
            for n, (place, work) in zip(behind, pieces, strict=True):
                places[n] = place
                left -= work

    async def _look_at(self, shard: str, start: str, end: str) -> tuple[str, int]:
        """Refile what is unfinished of a page of this partition.

        Returns:
            The position up to which all has been seen to, and how much work that was.
        """
        document = await self._calls.query(
            _PURPOSE,
            {
                "IndexName": table.STATUS_INDEX.name,
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
        ids = [id_of_position(entry["position"]["S"]) for entry in document["Items"]]
        # A row that is out of date here looks unfinished, never finished.
        found = await self._calls.get(_PURPOSE, ids, consistent=False, attributes=_LOOKED_AT)
        updates = self.refilings(list(found.values()))
        await self._refile(updates)
        last = document.get("LastEvaluatedKey")
        reached = end if last is None else last["position"]["S"]
        return reached, len(ids) + _REFILING * len(updates)

    async def _refile(self, updates: Sequence[writes.Update]) -> None:
        # One that is refused has been refiled or has ended meanwhile.
        answers = await self._writer.write(_PURPOSE, updates, explain=False)
        done = sum(isinstance(answer.result, Applied) for answer in answers)
        self._refiled(done)
        self._calls.count(_PURPOSE, done)
        for answer in answers:
            if isinstance(answer.result, Unanswered):
                raise answer.result.reason

    # --- taking turns -----------------------------------------------------------------------

    async def _take(self, turn: _Turn) -> Item | None:
        """The noted state, where it is nobody else's turn."""
        now = self._now()
        answer = await self._update(
            "SET #turn = :until, #holder = :me",
            # The holder's name: sent twice by the client, it has been carried out by the first.
            "attribute_not_exists(#turn) OR #turn <= :now OR #turn > :never OR #holder = :me",
            {"#turn": "turn", "#holder": "holder"},
            {
                ":me": {"S": turn.holder},
                ":now": _milliseconds(now),
                ":until": _milliseconds(now + _TURN),
                ":never": _milliseconds(now + _TURN + self.lag / 4 + _SKEW),
            },
        )
        return None if answer is None else answer["Attributes"]

    async def _note(self, turn: _Turn, *, until: datetime) -> bool:
        """False where it is another engine's turn by now: it has gone on from an older place, which
        costs something and harms nobody."""
        names = {f"#{n}": name for n, name in enumerate(turn.places)}
        values = {
            f":{n}": {"L": [{"S": place} for place in places]}
            for n, places in enumerate(turn.places.values())
        }
        assignments = ", ".join(f"#{n} = :{n}" for n in range(len(turn.places)))
        answer = await self._update(
            f"SET #turn = :until, {assignments}",
            "#holder = :me",
            names | {"#turn": "turn", "#holder": "holder"},
            values | {":me": {"S": turn.holder}, ":until": _milliseconds(until)},
        )
        return answer is not None

    async def _update(
        self, update: str, condition: str, names: dict[str, str], values: Item
    ) -> dict[str, Any] | None:
        """None where the condition does not hold."""
        parameters = {
            "TableName": self._calls.table,
            "Key": {"id": {"S": table.SWEEP_ID}},
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ReturnValues": "ALL_NEW",
        }
        try:
            return await self._calls.write(_PURPOSE, "UpdateItem", parameters)
        except AwsRequestFailed as error:
            if error.code == "ConditionalCheckFailedException":
                return None
            raise BackendUnavailable(f"the sweep of {self._calls.table}: {error}") from error


def _places(state: Item, name: str) -> list[str]:
    """From the start where nothing (or nothing that fits) has been noted."""
    found = [place.get("S", START) for place in state.get(name, {}).get("L", ())]
    return found if len(found) == len(_SHARDS) else [START] * len(_SHARDS)


def _milliseconds(moment: datetime) -> dict[str, str]:
    return {"N": str(int(moment.timestamp() * 1000))}

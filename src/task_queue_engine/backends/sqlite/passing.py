"""Finding what can start behind messages that cannot: their types have no place to run now.

The queue's index knows no types, and a queue may begin with any number of such messages. They are
looked through once, by reads of a bounded size and without the lock, and it is remembered up to
where there is nothing else. A column and an index of types would find the same at once, and cost
every send, receive and delete of every queue two entries more.
"""

from __future__ import annotations

import math

import msgspec

from task_queue_engine.backends.sqlite.clock_watch import TOLERANCE
from task_queue_engine.backends.sqlite.queue import LOOK_AGAIN, SqliteQueue
from task_queue_engine.backends.sqlite.transaction import Transaction

# Messages that one read passes: 2 to 3 ms, which other reads may have to wait.
_STEP = 1000
# Messages among which one take chooses, with the lock held: a batch.
_REACH = 256
# Microseconds. A message is seen later than its time says by as long as its sender waited for the
# lock, and a step back of the clock that is waited out may be as long: what is younger than both is
# looked through again.
_LATE = 2 * TOLERANCE
# Microseconds until then: as often as is looked for what was missed otherwise.
_AGAIN = 10**6
# Sets of types for which it is remembered: threads and processes may be full, or both.
_KEPT = 8

FIRST = "SELECT * FROM messages WHERE queue = ? AND visible_at <= ? ORDER BY visible_at, id LIMIT ?"
# In two halves: a seek by both columns at once is one by the first alone, and whole batches are
# visible since the same microsecond.
_BEHIND = (
    "SELECT * FROM (SELECT * FROM messages WHERE queue = :queue AND visible_at = :visible_at "
    "AND id > :id ORDER BY visible_at, id LIMIT {number}) UNION ALL "
    "SELECT * FROM (SELECT * FROM messages WHERE queue = :queue AND visible_at > :visible_at "
    "ORDER BY visible_at, id LIMIT {number}) ORDER BY visible_at, id LIMIT {number}"
)
PASSING = (
    f"SELECT near.* FROM ({_BEHIND.format(number=_REACH)}) AS near "
    "LEFT JOIN tasks AS its ON its.id = near.task_id WHERE near.visible_at <= :now "
    "AND ifnull(its.type, '') NOT IN (SELECT value FROM json_each(:types)) "
    "ORDER BY near.visible_at, near.id LIMIT :limit"
)
"""Of what is visible behind a place in the queue, the first that are not of these types."""


def place_behind(
    transaction: Transaction,
    message_id: int,
    *,
    queue: str,
    now: int,
    types: frozenset[str],
    limit: int,
) -> dict[str, str | int]:
    """What `PASSING` asks for, behind a message of this queue."""
    ((visible_at,),) = transaction.execute(
        "SELECT visible_at FROM messages WHERE id = ?", (message_id,)
    )
    return {
        "queue": queue,
        "visible_at": visible_at,
        "id": message_id,
        "now": now,
        "types": msgspec.json.encode(sorted(types)).decode(),
        "limit": limit,
    }


_STRETCH = (
    "SELECT m.visible_at, m.id, ifnull(tasks.type, '') "
    f"FROM ({_BEHIND.format(number=_STEP)}) AS m "
    "LEFT JOIN tasks ON tasks.id = m.task_id ORDER BY m.visible_at, m.id"
)

_START = (-(2**63), 0)


class Passing:
    """Past messages of some types, in one queue. Used in the threads of reader and writer: a
    position that the other has just moved is as good."""

    def __init__(self, queue: SqliteQueue, types: frozenset[str]) -> None:
        self._name = queue.name
        self._types = types
        self._as_json = msgspec.json.encode(sorted(types)).decode()
        # Up to here nothing else is visible.
        self._passed = self._surely = _START
        self._since = 0

    def place(self, now: int, limit: int) -> dict[str, str | int]:
        """What `PASSING` asks for."""
        return self._behind() | {"now": now, "types": self._as_json, "limit": limit}

    def _behind(self) -> dict[str, str | int]:
        visible_at, number = self._passed
        return {"queue": self._name, "visible_at": visible_at, "id": number}

    def look(self, transaction: Transaction, now: int) -> float:
        """When the first message that is not passed is visible; `LOOK_AGAIN` where that is still to
        be found out. A read."""
        if not 0 <= now - self._since < _AGAIN:
            self._since, self._passed = now, self._surely
        rows = transaction.execute(_STRETCH, self._behind()).fetchall()
        for visible_at, number, task_type in rows:
            if visible_at > now or task_type not in self._types:
                return float(visible_at)
            self._passed = (visible_at, number)
            if visible_at < now - _LATE:
                self._surely = self._passed
        return LOOK_AGAIN if len(rows) == _STEP else math.inf


class AllPassing:
    """For whatever set of types is to be passed."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._queue = queue
        self._by_types: dict[frozenset[str], Passing] = {}
        self._times_set_back = 0

    def of(self, types: frozenset[str]) -> Passing | None:
        """None: there is nothing to be passed."""
        if not types:
            return None
        if self._times_set_back != self._queue.times_set_back or len(self._by_types) > _KEPT:
            # What is sent from now on may stand before what was passed.
            self._times_set_back = self._queue.times_set_back
            self._by_types.clear()
        if types not in self._by_types:
            self._by_types[types] = Passing(self._queue, types)
        return self._by_types[types]

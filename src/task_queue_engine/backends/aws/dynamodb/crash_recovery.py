"""What a killed process had done and not counted, found out and counted by another one.

A process that has unflushed changes has a mark in the counters, and writes it anew every few
seconds: the number up to which its tokens are counted. One that is idle takes its mark away. So a
mark that stands still is that of a dead process, and no clock has a part in that.

What such a process had not counted can be read off the rows, which say who wrote what:

- `create_token`: the task was created, and is PENDING since then;
- `claim_token`: it was last started;
- `taken_token`: it was started before that, by one from which it was taken over;
- `token`: it ended, or its attempt did and it waits for the next one.

Each of the dead process with a number above its mark's was not counted. They are looked for among
the tasks created since the oldest that the process may have written, which its mark says (a
quarter of an hour before the last flush at most), by their place in
`status-index`: that takes half a read unit for each of these, whatever the size of the table.
Changes of older tasks, and other changes than these, are flushed at once (`Counters.move`):
of those a crash may lose what was done in the last tenth of a second, until the next repair.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import trio

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.item_format import Item, MalformedItem, status_of
from task_queue_engine.backends.aws.dynamodb.process_marks import (
    ProcessMark,
    count_for,
    milliseconds,
    read_marks,
)
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition
from task_queue_engine.backends.aws.dynamodb.sort_keys import (
    id_of_sort_key,
    moment_text,
    sort_key_of,
)
from task_queue_engine.backends.aws.dynamodb.status_index import of_shard, page
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.totals import MOVES
from task_queue_engine.backends.aws.dynamodb.write_tokens import read_token
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")

_PURPOSE = "crash_recovery"

# Seconds between two looks at the marks, which take 2 read units.
_LOOK_EVERY = 5.0
DEAD_AFTER = 20.0
"""Seconds for which a mark has stood still when its process counts as dead: twice what an idle one
takes to remove its own, and above what lies between two flushes of a large fleet's."""
# For a clock that is behind the one of a task's creator.
_SKEW = timedelta(minutes=1)
# The attribute of the first counter item that says until when one process is at it.
_TAKEN = "recovery_until"
_LEASE = timedelta(seconds=30)
# Seconds: a third of the lease, which leaves time for two more tries.
_RENEW_EVERY = 10.0
# Entries read together, and so many of these pages at a time: no more is in memory, and half of the
# store's reads are left to others.
_PAGE = 500
_PAGES_AT_ONCE = 8

_TOKENS = ("create_token", "taken_token", "claim_token", "token")
_ATTRIBUTES = ("id", "status", "started_at", *_TOKENS)

Changes = Mapping[str, int]


class CrashRecovery:
    """
    Args:
        process: this one, which is alive: of `write_tokens.new_process`.
        dead_after: seconds for which the mark of a dead process has stood still.
    """

    def __init__(
        self,
        table: TableClient,
        *,
        process: str,
        now: Callable[[], datetime],
        rng: random.Random,
        dead_after: float = DEAD_AFTER,
    ) -> None:
        self._table = table
        self._process = process
        self._now = now
        self._rng = rng
        self._dead_after = dead_after
        # Since when a mark is as it is, by this process's own monotonic clock.
        self._seen: dict[ProcessMark, float] = {}
        # Of this process's lease: when it ends, by the attribute, and when it was taken.
        self._until = 0
        self._taken_at = 0.0

    async def run(self) -> None:
        """Look for dead processes; until cancelled."""
        while True:
            await trio.sleep(min(_LOOK_EVERY, self._dead_after / 4) * self._rng.uniform(0.8, 1.2))
            try:
                dead = await self._find_dead()
                if dead and await self._takes_it():
                    await self.recover(dead)
            except BackendUnavailable as error:
                logger.warning("what a killed process did was not counted yet: %s", error)

    async def _find_dead(self) -> list[ProcessMark]:
        now = trio.current_time()
        # Those of older versions do not say what is counted: they are left to the repair.
        # This process's own stands still while it cannot flush.
        marks = [
            mark
            for mark in await read_marks(self._table)
            if mark.settled is not None and mark.process != self._process
        ]
        self._seen = {mark: self._seen.get(mark, now) for mark in marks}
        return [mark for mark, since in self._seen.items() if now - since >= self._dead_after]

    async def recover(self, dead: Sequence[ProcessMark]) -> None:
        """Count what these had not.

        Raises:
            BackendUnavailable: nothing is counted twice by another try.
        """
        uncounted = await uncounted_changes(
            self._table,
            {mark.process: mark.settled or 0 for mark in dead},
            min(mark.oldest for mark in dead) - _SKEW,
            before_page=self._keep_lease,
        )
        for mark in dead:
            changes = uncounted.get(mark.process, Counter())
            if await count_for(self._table, mark, changes) and changes:
                logger.info("counted what a killed process had not: %s", dict(changes))

    async def _takes_it(self) -> bool:
        """One process of all that share the table."""
        now = self._now()
        return await self._lease(
            "attribute_not_exists(#taken) OR #taken <= :now OR #taken > :never",
            {
                ":now": {"N": str(milliseconds(now))},
                # Of a clock that is wrong.
                ":never": {"N": str(milliseconds(now + 10 * _LEASE))},
            },
        )

    async def _keep_lease(self) -> None:
        """Renew it where it is time.

        Raises:
            BackendUnavailable: also where another process has it by now.
        """
        if trio.current_time() < self._taken_at + _RENEW_EVERY:
            return
        if not await self._lease("#taken = :mine", {":mine": {"N": str(self._until)}}):
            raise BackendUnavailable("another process has gone on with it")

    async def _lease(self, condition: str, values: Item) -> bool:
        # Before the answer: the pages that are read side by side ask once.
        self._taken_at = trio.current_time()
        until = milliseconds(self._now() + _LEASE)
        taken = await self._table.update(
            "counters",
            schema.counter_ids()[0],
            "SET #taken = :until",
            condition=condition,
            names={"#taken": _TAKEN},
            values=values | {":until": {"N": str(until)}},
        )
        if taken is not None:
            self._until = until
        return taken is not None


async def uncounted_changes(
    table: TableClient,
    settled: Mapping[str, int],
    since: datetime,
    *,
    before_page: Callable[[], Awaitable[None]],
) -> dict[str, Counter[str]]:
    """
    Args:
        settled: by process, the number up to which its tokens are counted.
        since: tasks created before are not looked at.
        before_page: called before each page that is read.

    Raises:
        BackendUnavailable
        Whatever `before_page` raises.
    """
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    shards = [shard for part in IndexPartition for shard in schema.status_shards(part)]
    at_once = trio.CapacityLimiter(_PAGES_AT_ONCE)
    # Moved in the index meanwhile, a task may be met twice. Of those of which something was counted
    # only: what a process did between two flushes.
    counted: set[str] = set()

    async def look_at(shard: str) -> None:
        condition, names, values = of_shard(shard)
        query = {
            "KeyConditionExpression": condition + " AND #position >= :since",
            "ExpressionAttributeNames": names | {"#position": "position"},
            "ExpressionAttributeValues": values | {":since": {"S": moment_text(since)}},
            "ProjectionExpression": "#position",
            "Limit": _PAGE,
        }
        start: Item | None = None
        while True:
            async with at_once:
                await before_page()
                document = await page(table, _PURPOSE, query, start)
                ids = [id_of_sort_key(sort_key_of(entry)) for entry in document["Items"]]
                rows = await table.get(_PURPOSE, ids, consistent=False, attributes=_ATTRIBUTES)
            for task_id, item in rows.items():
                if task_id not in counted and _add_uncounted(item, settled, found):
                    counted.add(task_id)
            start = document.get("LastEvaluatedKey")
            if start is None:
                return

    await gather([partial(look_at, shard) for shard in shards])
    return dict(found)


def _add_uncounted(
    item: Item, settled: Mapping[str, int], found: Mapping[str, Counter[str]]
) -> bool:
    """Whether there was something."""
    try:
        status = status_of(item)
    except MalformedItem:
        return False
    is_uncounted = False
    created, taken, claimed, last = (item.get(name, {}).get("S", "") for name in _TOKENS)

    def count(token: str, old: TaskStatus | None, new: TaskStatus) -> None:
        nonlocal is_uncounted
        process, number = read_token(token)
        if process in settled and number > settled[process]:
            if old is not None:
                found[process][old.value.lower()] -= 1
            found[process][new.value.lower()] += 1
            found[process][MOVES] += 1
            is_uncounted = True

    count(created, None, TaskStatus.PENDING)
    for start in {taken, claimed}:
        count(start, TaskStatus.PENDING, TaskStatus.PROCESSING)
    if last in (created, taken, claimed):
        return is_uncounted
    if status.is_terminal:
        count(last, TaskStatus.PROCESSING if claimed else TaskStatus.PENDING, status)
    elif status is TaskStatus.PENDING and "started_at" in item:  # one reopened has not started
        count(last, TaskStatus.PROCESSING, status)
    return is_uncounted

"""Counting the tasks, and correcting the counters.

A repair reads the whole of `status-index`: about 0.04 read units a task, and 0.5 for the row of
each one that the index does not tell apart.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import trio

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.counters import JITTER, Counters
from task_queue_engine.backends.aws.dynamodb.item_format import MalformedItem, status_of
from task_queue_engine.backends.aws.dynamodb.process_marks import (
    forget_old_marks,
    milliseconds,
    read_marks,
    settle_mark,
)
from task_queue_engine.backends.aws.dynamodb.schema import IndexPartition
from task_queue_engine.backends.aws.dynamodb.sort_keys import (
    LOWEST_SORT_KEY,
    id_of_sort_key,
    sort_key_of,
)
from task_queue_engine.backends.aws.dynamodb.status_index import of_shard, pages
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.totals import MOVES, counts_of
from task_queue_engine.backends.aws.wire.concurrently import gather
from task_queue_engine.backends.base import Counts
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")

_PURPOSE = "repair_counts"

# The attribute of the first counter item that says when the next repair is due.
_REPAIR_DUE = "repair_due"
# Flush intervals before the index is counted, so that it shows what has just changed.
_SETTLING = 5
# Seconds between repairs of a small table.
_SHORTEST_REPAIR = 300.0
# And for each task that it holds: counting one takes about 0.04 read units, so that repairs read up
# to 80,000 units a day, a cent's worth.
_REPAIR_PER_TASK = 0.043

Numbers = Mapping[TaskStatus, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRepair:
    """What a repair found and did."""

    before: Counts
    counted: Counts
    """In the index, and in the rows of those that it does not tell apart."""
    corrected: Numbers
    """Added to the counters."""
    uncertainty: int
    """Changes of status and moves in the index while it counted; a smaller difference was left
    alone."""


class CounterRepair:
    """
    Args:
        interval: the most seconds between repairs, whichever process makes them; small tables are
            repaired more often, as a repair costs less there.
        flush_interval: the counters'.
        count_rows: counts the tasks.
    """

    def __init__(
        self,
        table: TableClient,
        counters: Counters,
        *,
        now: Callable[[], datetime],
        count_rows: Callable[[], Awaitable[Numbers]],
        interval: float,
        flush_interval: float,
        rng: random.Random,
    ) -> None:
        self._table = table
        self._counters = counters
        self._now = now
        self._count_rows = count_rows
        self._interval = interval
        self._flush_interval = flush_interval
        self._rng = rng

    async def run(self) -> None:
        """Repair now and then; until cancelled."""
        pause = min(_SHORTEST_REPAIR, self._interval)
        # Not at the start: a short-lived process has better things to do.
        await trio.sleep(self._rng.uniform(0, pause))
        while True:
            try:
                totals = await self._counters.totals()
                tasks = sum(totals[status.value.lower()] for status in TaskStatus)
                pause = between_repairs(tasks, at_most=self._interval)
                if await self._takes_it(pause):
                    repair = await self.repair()
                    level = logging.INFO if repair.corrected else logging.DEBUG
                    logger.log(level, "counters repaired: %s", repair)
            except BackendUnavailable as error:
                logger.warning("the repair of the counters was put off: %s", error)
            await trio.sleep(pause * self._rng.uniform(0.5, 1.0))

    async def repair(self) -> CountRepair:
        """Count the tasks, and correct the counters where they are off by more than what changed
        meanwhile. Takes some flush intervals longer than the counting.

        Raises:
            BackendUnavailable
        """
        await self._counters.flush()
        busy = await read_marks(self._table)
        first = await self._counters.totals()
        # What has just changed may not show in the index yet: it counts as changed meanwhile.
        await trio.sleep(_SETTLING * self._flush_interval)
        counted = await self._count_rows()
        # What other processes did before the counting ended is in their items by then.
        await trio.sleep(self._counters.slowest_interval * (1 + JITTER))
        last = await self._counters.totals()
        uncertainty = last[MOVES] - first[MOVES]
        corrected = {
            status: difference
            for status in TaskStatus
            if abs(difference := counted[status] - last[status.value.lower()]) > uncertainty
        }
        self._counters.correct(corrected)
        await self._counters.flush()
        if corrected:
            # What the dead among them had not counted is in by now: `crash_recovery` is not to
            # count it once more. One that is alive has another mark by now, or soon.
            await gather([partial(settle_mark, self._table, mark) for mark in busy])
        await forget_old_marks(self._table, self._now())
        return CountRepair(
            before=counts_of(last),
            counted=Counts(**{status.value.lower(): counted[status] for status in TaskStatus}),
            corrected=corrected,
            uncertainty=uncertainty,
        )

    async def _takes_it(self, pause: float) -> bool:
        """One process of all that share the table, once in that time."""
        now = milliseconds(self._now())
        taken = await self._table.update(
            "counters",
            schema.counter_ids()[0],
            "SET #due = :next",
            condition="attribute_not_exists(#due) OR #due <= :now",
            names={"#due": _REPAIR_DUE},
            values={
                ":now": {"N": str(now)},
                ":next": {"N": str(now + int(pause * 1000))},
            },
        )
        return taken is not None


def between_repairs(tasks: int, *, at_most: float) -> float:
    """Seconds, for a table with so many tasks."""
    return min(at_most, max(_SHORTEST_REPAIR, tasks * _REPAIR_PER_TASK))


# --- counting -------------------------------------------------------------------------------


async def count_rows(table: TableClient, settled: Sequence[str]) -> Numbers:
    """By the index where it tells the status, else by the rows.

    Args:
        settled: of `Sweep.settled`; what is in the default partition below is COMPLETED.

    Raises:
        BackendUnavailable
    """
    default = list(zip(schema.status_shards(IndexPartition.DEFAULT), settled, strict=True))
    # In this order: what the sweep moves meanwhile is rather seen twice than not at all.
    by_rows = [
        *await gather([partial(_count_by_rows, table, shard, above) for shard, above in default]),
        *await gather(
            [
                partial(_count_by_rows, table, shard, LOWEST_SORT_KEY)
                for shard in schema.status_shards(IndexPartition.OPEN)
            ]
        ),
    ]
    counted: Counter[TaskStatus] = Counter()
    for each in by_rows:
        counted.update(each)
    counted[TaskStatus.COMPLETED] += sum(
        await gather(
            [
                partial(_count_shard, table, shard, up_to)
                for shard, up_to in default
                if up_to != LOWEST_SORT_KEY
            ]
        )
    )
    for partition, status in (
        (IndexPartition.FAILED, TaskStatus.FAILED),
        (IndexPartition.CANCELLED, TaskStatus.CANCELLED),
    ):
        counted[status] += sum(
            await gather(
                [partial(_count_shard, table, shard) for shard in schema.status_shards(partition)]
            )
        )
    return {status: counted[status] for status in TaskStatus}


async def _count_shard(table: TableClient, shard: str, up_to: str | None = None) -> int:
    condition, names, values = of_shard(shard)
    if up_to is not None:
        condition += " AND #position <= :up_to"
        names["#position"] = "position"
        values[":up_to"] = {"S": up_to}
    query = {
        "KeyConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "Select": "COUNT",
    }
    return sum([int(document["Count"]) async for document in pages(table, _PURPOSE, query)])


async def _count_by_rows(table: TableClient, shard: str, above: str) -> Counter[TaskStatus]:
    condition, names, values = of_shard(shard)
    query = {
        "KeyConditionExpression": condition + " AND #position > :above",
        "ExpressionAttributeNames": names | {"#position": "position"},
        "ExpressionAttributeValues": values | {":above": {"S": above}},
    }
    counted: Counter[TaskStatus] = Counter()
    async with aclosing(pages(table, _PURPOSE, query)) as documents:
        async for document in documents:
            ids = [id_of_sort_key(sort_key_of(entry)) for entry in document["Items"]]
            found = await table.get(_PURPOSE, ids, consistent=False, attributes=("id", "status"))
            for item in found.values():
                with suppress(MalformedItem):
                    counted[status_of(item)] += 1
    return counted

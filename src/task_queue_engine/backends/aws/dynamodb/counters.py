"""How many tasks there are of each status, read in O(1).

Items of their own hold the numbers, spread over a few by process. A process sums up what its
writes change and adds it to its item every few seconds, exactly once: the same update notes the
batch's number under the process's name and is refused where it has been noted before.

`read` adds what this process has not written yet, so its own view is exact. It is off by

- what other processes did since their last flush (`flush_interval` at most), until they flush;
- what a process did since its last flush when it is killed;
- writes whose answer was lost and which nobody repeated;
- finished tasks that DynamoDB's TTL has deleted.

The last three stay until a repair, which counts the tasks.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import trio

from task_queue_engine.backends.aws.dynamodb import schema as table
from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.dynamodb.table_client import TableCalls
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.backends.base import Counts
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")

_FIELDS = tuple(status.value.lower() for status in TaskStatus)
_MOVES = "moves"
"""All changes of status and refilings there ever were: what a count of the index may be off by is
measured in it."""
_FLUSHED = "flushed_"
_REPAIR_DUE = "repair_due"
_FORGET_PROCESS_AFTER = timedelta(days=1)
_LAST_FLUSH_TIMEOUT = 2.0
_SETTLING = 5
"""Flush intervals."""
_SHORTEST_REPAIR = 300.0
"""Seconds between repairs of a small table."""
_REPAIR_PER_TASK = 0.043
"""And for each task that it holds: counting one takes about 0.04 read units, so that repairs read
up to 80,000 units a day, a cent's worth."""

Numbers = Mapping[TaskStatus, int]
CountRows = Callable[[], Awaitable[Numbers]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRepair:
    """What a repair found and did."""

    before: Counts
    counted: Counts
    """In the index, and in the rows of those that it does not tell apart."""
    corrected: Mapping[TaskStatus, int]
    """Added to the counters."""
    uncertainty: int
    """Changes of status and refilings while it counted; a smaller difference was left alone."""


class Counters:
    """
    Args:
        flush_interval: seconds between flushes of a busy process.
        repair_interval: the most seconds between repairs, whichever process makes them; small
            tables are repaired more often, as a repair costs less there. 0: never.
        count_rows: counts the tasks, for repairs.
    """

    def __init__(
        self,
        calls: TableCalls,
        *,
        now: Callable[[], datetime],
        count_rows: CountRows,
        flush_interval: float,
        repair_interval: float,
        rng: random.Random,
    ) -> None:
        self._calls = calls
        self._now = now
        self._count_rows = count_rows
        self._flush_interval = flush_interval
        self._repair_interval = repair_interval
        self._rng = rng
        process = secrets.token_hex(6)
        self._mark = f"{_FLUSHED}{process}"
        self._item_id = table.counter_ids()[table.shard_of(process, table.COUNTER_SHARDS)]
        self._moved: Counter[str] = Counter()
        # Batches by their numbers, from their making until it is certain that a `read` sees them.
        self._batches: dict[int, Counter[str]] = {}
        self._unconfirmed: int | None = None
        self._last_number = 0
        self._reading = 0
        self._marked = False
        self._flushing = trio.Lock()
        self._dirty = trio.Event()

    def move(self, old: TaskStatus | None, new: TaskStatus | None) -> None:
        """A task went from one status to another; None: it was not there, or is no more."""
        if old is new:
            return
        if old is not None:
            self._moved[old.value.lower()] -= 1
        if new is not None:
            self._moved[new.value.lower()] += 1
        self._moved[_MOVES] += 1
        self._dirty.set()

    def refiled(self, number: int) -> None:
        """So many tasks went from one filing of the index to another, and kept their status: who
        counts the index just now may see them twice, or not at all."""
        if number:
            self._moved[_MOVES] += number
            self._dirty.set()

    # --- reading ----------------------------------------------------------------------------

    async def read(self) -> Counts:
        """
        Raises:
            BackendUnavailable
        """
        return _counts(await self._read())

    async def _read(self) -> Counter[str]:
        self._reading += 1
        try:
            found = await self._calls.get("counts", table.counter_ids())
            totals: Counter[str] = Counter()
            for item in found.values():
                for name in (*_FIELDS, _MOVES):
                    totals[name] += _number(item, name)
            flushed = _number(found.get(self._item_id, {}), self._mark)
            for number, batch in self._batches.items():
                if number > flushed:
                    totals.update(batch)
            totals.update(self._moved)
            return totals
        finally:
            self._reading -= 1
            if not self._reading:
                self._forget_confirmed()

    # --- writing ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Flush while there is something to flush, and see to the repairs; until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._repair_interval:
                nursery.start_soon(self._repair_now_and_then)
            while True:
                await self._dirty.wait()
                # The first change of an idle process shows up at once, not after the interval.
                await self._flush_calmly()
                await trio.sleep(self._flush_interval)

    async def close(self) -> None:
        """The last flush, within two seconds; the process's mark goes with it."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _LAST_FLUSH_TIMEOUT):
            await self._flush_calmly()
            if self._marked and self._unconfirmed is None:
                await self._remove_mark()

    async def _flush_calmly(self) -> None:
        try:
            await self.flush()
        except BackendUnavailable as error:
            logger.warning("counters could not be written, to be tried again: %s", error)

    async def flush(self) -> None:
        """
        Raises:
            BackendUnavailable: nothing is lost, the next flush tries again.
        """
        async with self._flushing:
            if self._unconfirmed is not None:
                await self._write(self._unconfirmed)
            self._dirty = trio.Event() if self._dirty.is_set() else self._dirty
            if not self._moved:
                return
            # Larger than the last one even where the clock was set back.
            self._last_number = max(self._last_number + 1, _milliseconds(self._now()))
            self._batches[self._last_number] = self._moved
            self._moved = Counter()
            await self._write(self._last_number)

    async def _write(self, number: int) -> None:
        self._unconfirmed = number
        changes = {name: change for name, change in self._batches[number].items() if change}
        names = {"#mark": self._mark} | {f"#{name}": name for name in changes}
        values = {":number": {"N": str(number)}}
        values |= {f":{name}": {"N": str(change)} for name, change in changes.items()}
        added = ", ".join(f"#{name} :{name}" for name in changes)
        try:
            await self._calls.write(
                "counters",
                "UpdateItem",
                {
                    "TableName": self._calls.table,
                    "Key": {"id": {"S": self._item_id}},
                    "UpdateExpression": f"SET #mark = :number ADD {added}",
                    "ConditionExpression": "attribute_not_exists(#mark) OR #mark < :number",
                    "ExpressionAttributeNames": names,
                    "ExpressionAttributeValues": values,
                },
            )
        except BackendUnavailable:
            self._dirty.set()
            raise
        except AwsRequestFailed as error:
            if error.code != "ConditionalCheckFailedException":
                self._dirty.set()
                raise BackendUnavailable(f"counters of {self._calls.table}: {error}") from error
            # Written by a try whose answer was lost.
        self._marked = True
        self._unconfirmed = None
        if not self._reading:
            self._forget_confirmed()

    def _forget_confirmed(self) -> None:
        self._batches = {
            number: batch for number, batch in self._batches.items() if number == self._unconfirmed
        }

    async def _remove_mark(self) -> None:
        try:
            await self._calls.write(
                "counters", "UpdateItem", self._removal(self._item_id, [self._mark])
            )
        except (BackendUnavailable, AwsRequestFailed) as error:
            logger.info("the counters keep this process's mark until a repair: %s", error)
        else:
            self._marked = False

    def _removal(self, item_id: str, marks: list[str]) -> dict[str, object]:
        names = {f"#{i}": mark for i, mark in enumerate(marks)}
        return {
            "TableName": self._calls.table,
            "Key": {"id": {"S": item_id}},
            "UpdateExpression": "REMOVE " + ", ".join(names),
            "ExpressionAttributeNames": names,
        }

    # --- repairing --------------------------------------------------------------------------

    async def repair(self) -> CountRepair:
        """Count the tasks, and correct the counters where they are off by more than what changed
        meanwhile. Takes six flush intervals longer than the counting.

        Raises:
            BackendUnavailable
        """
        await self.flush()
        first = await self._read()
        # What has just changed may not show in the index yet: it counts as changed meanwhile.
        await trio.sleep(_SETTLING * self._flush_interval)
        counted = await self._count_rows()
        # What other processes did before the counting ended is in their items by then.
        await trio.sleep(self._flush_interval)
        last = await self._read()
        uncertainty = last[_MOVES] - first[_MOVES]
        corrected = {
            status: difference
            for status in TaskStatus
            if abs(difference := counted[status] - last[status.value.lower()]) > uncertainty
        }
        for status, difference in corrected.items():
            self._moved[status.value.lower()] += difference
        await self.flush()
        await self._forget_processes()
        return CountRepair(
            before=_counts(last),
            counted=Counts(**{status.value.lower(): counted[status] for status in TaskStatus}),
            corrected=corrected,
            uncertainty=uncertainty,
        )

    async def _forget_processes(self) -> None:
        """Remove the marks of processes that have not flushed for a day: they were killed. (One
        that comes back has nothing unconfirmed that old.)"""
        oldest = _milliseconds(self._now() - _FORGET_PROCESS_AFTER)
        for item_id, item in (await self._calls.get("counters", table.counter_ids())).items():
            old = [
                name for name in item if name.startswith(_FLUSHED) and _number(item, name) < oldest
            ]
            # A few hundred names fit into one expression.
            for start in range(0, len(old), 100):
                await self._calls.write(
                    "counters", "UpdateItem", self._removal(item_id, old[start : start + 100])
                )

    async def _repair_now_and_then(self) -> None:
        pause = min(_SHORTEST_REPAIR, self._repair_interval)
        # Not at the start: a short-lived process has better things to do.
        await trio.sleep(self._rng.uniform(0, pause))
        while True:
            try:
                totals = await self._read()
                tasks = sum(totals[name] for name in _FIELDS)
                pause = between_repairs(tasks, at_most=self._repair_interval)
                if await self._takes_the_repair(pause):
                    repair = await self.repair()
                    level = logging.INFO if repair.corrected else logging.DEBUG
                    logger.log(level, "counters repaired: %s", repair)
            except BackendUnavailable as error:
                logger.warning("the repair of the counters was put off: %s", error)
            await trio.sleep(pause * self._rng.uniform(0.5, 1.0))

    async def _takes_the_repair(self, pause: float) -> bool:
        """One process of all that share the table, once in that time."""
        now = _milliseconds(self._now())
        try:
            await self._calls.write(
                "counters",
                "UpdateItem",
                {
                    "TableName": self._calls.table,
                    "Key": {"id": {"S": table.counter_ids()[0]}},
                    "UpdateExpression": "SET #due = :next",
                    "ConditionExpression": "attribute_not_exists(#due) OR #due <= :now",
                    "ExpressionAttributeNames": {"#due": _REPAIR_DUE},
                    "ExpressionAttributeValues": {
                        ":now": {"N": str(now)},
                        ":next": {"N": str(now + int(pause * 1000))},
                    },
                },
            )
        except AwsRequestFailed as error:
            if error.code != "ConditionalCheckFailedException":
                raise BackendUnavailable(f"counters of {self._calls.table}: {error}") from error
            return False
        return True


def between_repairs(tasks: int, *, at_most: float) -> float:
    """Seconds, for a table with so many tasks."""
    return min(at_most, max(_SHORTEST_REPAIR, tasks * _REPAIR_PER_TASK))


def _counts(totals: Mapping[str, int]) -> Counts:
    return Counts(**{name: max(0, totals[name]) for name in _FIELDS})


def _number(item: Item, name: str) -> int:
    value = item.get(name)
    return 0 if value is None else int(value["N"])


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)

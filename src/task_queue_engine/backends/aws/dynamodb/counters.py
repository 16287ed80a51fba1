"""How many tasks there are of each status, read in O(1).

Items of their own hold the numbers, spread over a few by process. A process sums up what its
writes change and adds it to its item, every `flush_interval` seconds while it is busy and exactly
once: the same update notes the batch's number under the process's name and is refused where it has
been noted before.

`read` adds what this process has not written yet, so its own view is exact. It is off by

- what other processes did since their last flush (`flush_interval` at most), until they flush;
- what a process did since its last flush when it is killed;
- writes whose answer was lost and which were not repeated;
- finished tasks that DynamoDB's TTL has deleted.

The last three stay until a repair, which counts the tasks: see `counter_repair`.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import trio

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.base import Counts
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")

MOVES: Final = "moves"
"""In the totals beside the statuses: all changes of status and moves in the index there ever were.
What a count of the index may be off by is measured in it."""

_FIELDS = tuple(status.value.lower() for status in TaskStatus)
_FLUSHED = "flushed_"
# A process that is alive flushes within seconds of a change, and has nothing unconfirmed that old.
_FORGET_PROCESS_AFTER = timedelta(days=1)
# Seconds. The end of a process waits for it, and what it fails to write a repair finds.
_LAST_FLUSH_TIMEOUT = 2.0
# A few hundred names fit into one expression.
_MARKS_A_REQUEST = 100


class Counters:
    """
    Args:
        flush_interval: seconds between flushes of a busy process.
    """

    def __init__(
        self, table: TableClient, *, now: Callable[[], datetime], flush_interval: float
    ) -> None:
        self._table = table
        self._now = now
        self._flush_interval = flush_interval
        process = secrets.token_hex(6)
        self._mark = f"{_FLUSHED}{process}"
        self._item_id = schema.counter_ids()[schema.shard_of(process, schema.COUNTER_SHARDS)]
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
        self._moved[MOVES] += 1
        self._dirty.set()

    def reindexed(self, number: int) -> None:
        """So many tasks went from one partition of the index to another, and kept their status: a
        count of the index just now may see them twice, or not at all."""
        if number:
            self._moved[MOVES] += number
            self._dirty.set()

    # --- reading ----------------------------------------------------------------------------

    async def read(self) -> Counts:
        """
        Raises:
            BackendUnavailable
        """
        return counts_of(await self.totals())

    async def totals(self) -> Counter[str]:
        """By status in lower case, and `MOVES`. A number may be negative.

        Raises:
            BackendUnavailable
        """
        self._reading += 1
        try:
            found = await self._table.get("counts", schema.counter_ids())
            totals: Counter[str] = Counter()
            for item in found.values():
                for name in (*_FIELDS, MOVES):
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
        """Flush while there is something to flush; until cancelled."""
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
            self._last_number = max(self._last_number + 1, milliseconds(self._now()))
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
            # Where it is refused, it was written by a try whose answer was lost.
            await self._table.update(
                "counters",
                self._item_id,
                f"SET #mark = :number ADD {added}",
                condition="attribute_not_exists(#mark) OR #mark < :number",
                names=names,
                values=values,
            )
        except BackendUnavailable:
            self._dirty.set()
            raise
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
            await self._remove(self._item_id, [self._mark])
        except BackendUnavailable as error:
            logger.info("the counters keep this process's mark until a repair: %s", error)
        else:
            self._marked = False

    async def _remove(self, item_id: str, marks: list[str]) -> None:
        names = {f"#{i}": mark for i, mark in enumerate(marks)}
        await self._table.update("counters", item_id, "REMOVE " + ", ".join(names), names=names)

    # --- for a repair -----------------------------------------------------------------------

    def correct(self, differences: Mapping[TaskStatus, int]) -> None:
        """Add these to the counters, with the next flush."""
        for status, difference in differences.items():
            self._moved[status.value.lower()] += difference

    async def forget_processes(self) -> None:
        """Remove the marks of processes that have not flushed for a day: they were killed.

        Raises:
            BackendUnavailable
        """
        oldest = milliseconds(self._now() - _FORGET_PROCESS_AFTER)
        for item_id, item in (await self._table.get("counters", schema.counter_ids())).items():
            old = [
                name for name in item if name.startswith(_FLUSHED) and _number(item, name) < oldest
            ]
            for start in range(0, len(old), _MARKS_A_REQUEST):
                await self._remove(item_id, old[start : start + _MARKS_A_REQUEST])


def counts_of(totals: Mapping[str, int]) -> Counts:
    """Never negative: a process may have been killed before it could count what others go on
    with."""
    return Counts(**{name: max(0, totals[name]) for name in _FIELDS})


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _number(item: Item, name: str) -> int:
    value = item.get(name)
    return 0 if value is None else int(value["N"])

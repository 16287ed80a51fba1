"""How many tasks there are of each status, read in O(1).

Items of their own hold the numbers, spread over a few by process. A process sums up what its
writes change and adds it to its item, now and then while it is busy and exactly
once: the same update notes the batch's number under the process's name and is refused where it has
been noted before.

Every process has a mark in its item, and a flush is paid by the item's size. So the seconds between
two flushes are as many as the units that the last one took, up to eight: a process's flushes cost
a unit a second, however many processes there are.

`read` adds what this process has not written yet, so its own view is exact. It is off by

- what other processes did since their last flush, until they flush;
- what a process did since its last flush when it is killed, until another finds out what that was:
  see `crash_recovery`;
- writes whose answer was lost and which were not repeated;
- finished tasks that DynamoDB's TTL has deleted.

The last two stay until a repair, which counts the tasks: see `counter_repair`.

A flush says up to which of its process's tokens all is counted, and how old the oldest task is that
the process may write before the next. What others cannot find by that is flushed at once: see
`move`.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import trio

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.dynamodb.item_size import item_size
from task_queue_engine.backends.aws.dynamodb.process_marks import (
    mark_names,
    milliseconds,
    number_of,
    remove_marks,
)
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.aws.dynamodb.task_ages import TaskAges
from task_queue_engine.backends.aws.dynamodb.totals import FIELDS, MOVES, add, changes_of, counts_of
from task_queue_engine.backends.base import Counts
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")

# Seconds after a flush after which a process without a change takes its mark away: one that stays
# is that of a dead one.
_IDLE_AFTER = 10.0
# Flush intervals between two flushes, at most. With a tenth more by chance, and two tries that fail
# (4 s each) before one that does not, a mark stands still for less than
# `crash_recovery.DEAD_AFTER`, by which processes of older versions go, too.
LONGEST: Final = 8.0
# Of the interval between flushes: processes that began together do not write together.
JITTER: Final = 0.1
# Seconds, for each unit, between flushes of what others could not find: 10 write units a second at
# most.
_URGENT_INTERVAL = 0.1
# Seconds. The end of a process waits for it, and what it fails to write a repair finds.
_LAST_FLUSH_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class _Move:
    number: int
    """Of the token; 0: without one."""
    changes: Mapping[str, int]
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Flush:
    number: int
    """Of the batch."""
    settled: int
    since: datetime


class Counters:
    """
    Args:
        process: of `write_tokens.new_process`.
        settled: the number up to which this process's tokens are not in use.
        flush_interval: seconds between flushes of a busy process, for each unit that one takes.
    """

    def __init__(
        self,
        table: TableClient,
        *,
        process: str,
        settled: Callable[[], int],
        now: Callable[[], datetime],
        flush_interval: float,
    ) -> None:
        self._table = table
        self._settled = settled
        self._now = now
        self._flush_interval = flush_interval
        self._process = process
        self._mark, self._upto, self._age = mark_names(process)
        # Other processes draw other numbers.
        self._rng = random.Random(process)  # noqa: S311  # jitter, not a secret
        self._item_id = schema.counter_ids()[schema.shard_of(process, schema.COUNTER_SHARDS)]
        self._moves: list[_Move] = []
        # Batches by their numbers, from their making until it is certain that a `read` sees them.
        self._batches: dict[int, Counter[str]] = {}
        self._unconfirmed: _Flush | None = None
        """Sent and not answered."""
        self._last_number = 0
        self._reading = 0
        self._marked = False
        self._announced = False
        self._flushing = trio.Lock()
        self._dirty = trio.Event()
        self._urgent = trio.Event()
        self._ages = TaskAges(now)
        self._units = 1.0
        """Of the last flush."""
        self._flushed_at = -math.inf
        self.slowest_interval = flush_interval
        """Seconds between the flushes of the slowest process, as of the last `totals`."""

    # --- what happens -----------------------------------------------------------------------

    def about_to_write(self) -> None:
        """Rows are going to be written: a process without a mark gets one meanwhile, since without
        it none would look for what a crash loses."""
        if not self._marked:
            self._announced = True
            self._dirty.set()

    def started(self, task_id: str, created_at: datetime | None) -> None:
        """It runs here from now on: its end is told by `ended`."""
        self._ages.started(task_id, created_at)

    def ended(self, task_id: str) -> datetime | None:
        """When it was created, where that is remembered."""
        return self._ages.ended(task_id)

    def move(
        self,
        old: TaskStatus | None,
        new: TaskStatus | None,
        *,
        number: int = 0,
        created_at: datetime | None = None,
    ) -> None:
        """A task went from one status to another; None: it was not there, or is no more.

        Args:
            number: of the token that the row has from it.
            created_at: the task's, for a step on its ordinary way (created, started, ended). Where
                it is older than this process has said, or not given, the change would not be found
                after a crash, and is flushed at once.
        """
        if old is new:
            return
        self._moves.append(_Move(number, changes_of(old, new), created_at))
        self._dirty.set()
        if created_at is None or not self._ages.is_found(created_at):
            self._urgent.set()

    def reindexed(self, number: int) -> None:
        """So many tasks went from one partition of the index to another, and kept their status: a
        count of the index just now may see them twice, or not at all."""
        if number:
            self._moves.append(_Move(0, {MOVES: number}, None))
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
            self.slowest_interval = self._interval(max(map(_units_of, found.values()), default=1.0))
            totals: Counter[str] = Counter()
            for item in found.values():
                for name in (*FIELDS, MOVES):
                    totals[name] += number_of(item, name)
            flushed = number_of(found.get(self._item_id, {}), self._mark)
            for number, batch in self._batches.items():
                if number > flushed:
                    totals.update(batch)
            add(totals, (move.changes for move in self._moves))
            return totals
        finally:
            self._reading -= 1
            if not self._reading:
                self._forget_confirmed()

    # --- writing ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Flush while there is something to flush; until cancelled."""
        while True:
            if self._marked:
                idle_at = self._flushed_at + _IDLE_AFTER
                with trio.move_on_at(max(idle_at, trio.current_time())) as idle:
                    await self._dirty.wait()
                if idle.cancelled_caught:
                    await self._retire()
            await self._dirty.wait()
            announced = self._announced
            had_changes = await self._flush_calmly()
            if announced and self._marked and not had_changes:
                # The first change of an idle process shows up at once, not after the interval.
                continue
            # One that failed is tried again soon: the mark must not stand still.
            interval = self._interval(self._units if self._unconfirmed is None else 1.0)
            interval *= self._rng.uniform(1 - JITTER, 1 + JITTER)
            soon = min(_URGENT_INTERVAL * self._units, interval)
            await trio.sleep(soon)
            with trio.move_on_after(interval - soon):
                await self._urgent.wait()

    def _interval(self, units: float) -> float:
        return self._flush_interval * min(units, LONGEST)

    async def close(self) -> None:
        """The last flush, within two seconds; the process's mark goes with it."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _LAST_FLUSH_TIMEOUT):
            await self._flush_calmly()
            if self._marked:
                await self._retire()

    async def _flush_calmly(self) -> bool:
        try:
            return await self.flush()
        except BackendUnavailable as error:
            logger.warning("counters could not be written, to be tried again: %s", error)
            return False

    async def flush(self) -> bool:
        """
        Returns:
            Whether there was a change to write.

        Raises:
            BackendUnavailable: nothing is lost, the next flush tries again.
        """
        async with self._flushing:
            if self._unconfirmed is not None:
                await self._write(self._unconfirmed)
            self._dirty = trio.Event() if self._dirty.is_set() else self._dirty
            self._urgent = trio.Event() if self._urgent.is_set() else self._urgent
            settled = self._settled()
            batch: Counter[str] = Counter()
            early: list[_Move] = []
            for move in self._moves:
                if move.number > settled:
                    early.append(move)
                else:
                    add(batch, [move.changes])
            self._moves = early
            if early:
                # Counted before their turn: a flush says "up to here", and for that they are to
                # wait for those that are still under way.
                self._dirty.set()
            if not batch and (self._marked or not self._announced):
                return False
            self._announced = False
            # Larger than the last one even where the clock was set back.
            self._last_number = max(self._last_number + 1, milliseconds(self._now()))
            self._batches[self._last_number] = batch
            since = self._ages.announce([move.created_at for move in early])
            await self._write(_Flush(self._last_number, settled, since))
            return bool(batch)

    async def _write(self, flush: _Flush) -> None:
        self._unconfirmed = flush
        number = flush.number
        changes = {name: change for name, change in self._batches[number].items() if change}
        names = {"#mark": self._mark, "#upto": self._upto, "#age": self._age}
        names |= {f"#{name}": name for name in changes}
        age = math.ceil(number / 1000 - flush.since.timestamp())
        values = {
            ":number": {"N": str(number)},
            ":settled": {"N": str(flush.settled)},
            ":age": {"N": str(age)},
        }
        values |= {f":{name}": {"N": str(change)} for name, change in changes.items()}
        added = " ADD " + ", ".join(f"#{name} :{name}" for name in changes) if changes else ""
        first = "" if self._marked else "attribute_not_exists(#mark) OR "
        try:
            done = await self._table.update(
                "counters",
                self._item_id,
                f"SET #mark = :number, #upto = :settled, #age = :age{added}",
                condition=f"{first}#mark < :number",
                names=names,
                values=values,
                consumed=self._has_consumed,
            )
            if done is None and self._marked and not await self._is_marked():
                # Not written by a try whose answer was lost, but counted by another process, which
                # took this one for dead.
                del self._batches[number]
                logger.warning(
                    "this process was silent for so long that another has counted for it: the "
                    "counters may be off by a little until their next repair"
                )
                self._marked = False
            else:
                self._marked = True
        except BackendUnavailable:
            self._dirty.set()
            raise
        self._unconfirmed = None
        self._ages.announced(flush.since)
        self._flushed_at = trio.current_time()
        if not self._reading:
            self._forget_confirmed()

    def _has_consumed(self, units: float) -> None:
        self._units = units

    async def _is_marked(self) -> bool:
        found = await self._table.get("counters", [self._item_id])
        return self._mark in found.get(self._item_id, {})

    def _forget_confirmed(self) -> None:
        unconfirmed = None if self._unconfirmed is None else self._unconfirmed.number
        self._batches = {
            number: batch for number, batch in self._batches.items() if number == unconfirmed
        }

    async def _retire(self) -> None:
        """Take the mark away: there is nothing that others would have to look for."""
        async with self._flushing:
            if self._unconfirmed is not None or self._moves or self._reading:
                return
            # Whatever becomes of it: the next flush may find the mark or not.
            self._marked = False
            try:
                await remove_marks(self._table, self._item_id, [self._process])
            except BackendUnavailable as error:
                logger.info("the counters keep this process's mark for now: %s", error)

    # --- for a repair -----------------------------------------------------------------------

    def correct(self, differences: Mapping[TaskStatus, int]) -> None:
        """Add these to the counters, with the next flush."""
        changes = {status.value.lower(): number for status, number in differences.items()}
        if changes:
            self._moves.append(_Move(0, changes, None))
            # Whoever flushes it: `run` is to see that the process has a mark, and take it away.
            self._dirty.set()


def _units_of(item: Item) -> float:
    """What a write to it takes."""
    return math.ceil(item_size(item) / 1024)

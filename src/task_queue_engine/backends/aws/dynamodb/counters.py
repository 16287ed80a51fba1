"""How many tasks there are of each status, read in O(1).

Items of their own hold the numbers, spread over a few by process. A process sums up what its
writes change and adds it to its item, every `flush_interval` seconds while it is busy and exactly
once: the same update notes the batch's number under the process's name and is refused where it has
been noted before.

`read` adds what this process has not written yet, so its own view is exact. It is off by

- what other processes did since their last flush (`flush_interval` at most), until they flush;
- what a process did since its last flush when it is killed, until another finds out what that was:
  see `crash_recovery`;
- writes whose answer was lost and which were not repeated;
- finished tasks that DynamoDB's TTL has deleted.

The last two stay until a repair, which counts the tasks: see `counter_repair`.

A flush says up to which of its process's tokens all is counted. What others cannot find by that is
flushed at once: see `move`.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import trio

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.process_marks import (
    mark_names,
    milliseconds,
    number_of,
    remove_marks,
)
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.backends.base import Counts
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")

MOVES: Final = "moves"
"""In the totals beside the statuses: all changes of status and moves in the index there ever were.
What a count of the index may be off by is measured in it."""

_FIELDS = tuple(status.value.lower() for status in TaskStatus)
_FIELD_OF = dict(zip(TaskStatus, _FIELDS, strict=True))

_Step = tuple[TaskStatus | None, TaskStatus | None]


def _changes(old: TaskStatus | None, new: TaskStatus | None) -> dict[str, int]:
    changes = {MOVES: 1}
    if old is not None:
        changes[_FIELD_OF[old]] = -1
    if new is not None:
        changes[_FIELD_OF[new]] = 1
    return changes


# A task makes three of them, so they are put together once.
_CHANGES: dict[_Step, dict[str, int]] = {
    (old, new): _changes(old, new)
    for old in (None, *TaskStatus)
    for new in (None, *TaskStatus)
    if old is not new
}
FOUND_UP_TO_AGE = timedelta(minutes=15)
"""How long after a task's creation `crash_recovery` finds what was done to it. Looking for it takes
half a read unit for each task created in that time."""
# Seconds without a change after which a process takes its mark away: one that stays is that of a
# dead one.
_IDLE_AFTER = 10.0
# Seconds between flushes of what nobody could find: 10 write units a second at most.
_URGENT_INTERVAL = 0.1
# Tasks that run here whose creation is remembered; of others a change counts as one of an old task.
_REMEMBERED = 10_000
# Seconds. The end of a process waits for it, and what it fails to write a repair finds.
_LAST_FLUSH_TIMEOUT = 2.0


class Counters:
    """
    Args:
        process: of `write_tokens.new_process`.
        settled: the number up to which this process's tokens are not in use.
        flush_interval: seconds between flushes of a busy process.
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
        self._mark, self._upto = mark_names(process)
        self._item_id = schema.counter_ids()[schema.shard_of(process, schema.COUNTER_SHARDS)]
        # By the number of the token they were written with; 0: without one.
        self._moves: list[tuple[int, Mapping[str, int]]] = []
        # Batches by their numbers, from their making until it is certain that a `read` sees them.
        self._batches: dict[int, Counter[str]] = {}
        self._unconfirmed: tuple[int, int] | None = None
        """Number and settled token of the batch that was sent and not answered."""
        self._last_number = 0
        self._reading = 0
        self._marked = False
        self._announced = False
        self._flushing = trio.Lock()
        self._dirty = trio.Event()
        self._urgent = trio.Event()
        self._running: OrderedDict[str, datetime] = OrderedDict()

    # --- what happens -----------------------------------------------------------------------

    def about_to_write(self) -> None:
        """Rows are going to be written: a process without a mark gets one meanwhile, since without
        it none would look for what a crash loses."""
        if not self._marked:
            self._announced = True
            self._dirty.set()

    def started(self, task_id: str, created_at: datetime | None) -> None:
        """It runs here from now on: its end is told by `ended`."""
        if created_at is not None:
            self._running[task_id] = created_at
            while len(self._running) > _REMEMBERED:
                self._running.popitem(last=False)

    def ended(self, task_id: str) -> datetime | None:
        """When it was created, where that is remembered."""
        return self._running.pop(task_id, None)

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
                it is old or not given, the change would not be found after a crash, and is flushed
                at once.
        """
        if old is new:
            return
        self._moves.append((number, _CHANGES[old, new]))
        if not self._dirty.is_set():
            self._dirty.set()
        if created_at is None or self._now() - created_at > FOUND_UP_TO_AGE:
            self._urgent.set()

    def reindexed(self, number: int) -> None:
        """So many tasks went from one partition of the index to another, and kept their status: a
        count of the index just now may see them twice, or not at all."""
        if number:
            self._moves.append((0, {MOVES: number}))
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
                    totals[name] += number_of(item, name)
            flushed = number_of(found.get(self._item_id, {}), self._mark)
            for number, batch in self._batches.items():
                if number > flushed:
                    totals.update(batch)
            _add(totals, (changes for _, changes in self._moves))
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
                with trio.move_on_after(_IDLE_AFTER) as idle:
                    await self._dirty.wait()
                if idle.cancelled_caught:
                    await self._retire()
            await self._dirty.wait()
            announced = self._announced
            had_changes = await self._flush_calmly()
            if announced and self._marked and not had_changes:
                # The first change of an idle process shows up at once, not after the interval.
                continue
            soon = min(_URGENT_INTERVAL, self._flush_interval)
            await trio.sleep(soon)
            with trio.move_on_after(self._flush_interval - soon):
                await self._urgent.wait()

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
                await self._write(*self._unconfirmed)
            self._dirty = trio.Event() if self._dirty.is_set() else self._dirty
            self._urgent = trio.Event() if self._urgent.is_set() else self._urgent
            settled = self._settled()
            early = [move for move in self._moves if move[0] > settled]
            batch: Counter[str] = Counter()
            _add(batch, (changes for number, changes in self._moves if number <= settled))
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
            await self._write(self._last_number, settled)
            return bool(batch)

    async def _write(self, number: int, settled: int) -> None:
        self._unconfirmed = number, settled
        changes = {name: change for name, change in self._batches[number].items() if change}
        names = {"#mark": self._mark, "#upto": self._upto} | {f"#{name}": name for name in changes}
        values = {":number": {"N": str(number)}, ":settled": {"N": str(settled)}}
        values |= {f":{name}": {"N": str(change)} for name, change in changes.items()}
        added = " ADD " + ", ".join(f"#{name} :{name}" for name in changes) if changes else ""
        first = "" if self._marked else "attribute_not_exists(#mark) OR "
        try:
            done = await self._table.update(
                "counters",
                self._item_id,
                f"SET #mark = :number, #upto = :settled{added}",
                condition=f"{first}#mark < :number",
                names=names,
                values=values,
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
        if not self._reading:
            self._forget_confirmed()

    async def _is_marked(self) -> bool:
        found = await self._table.get("counters", [self._item_id])
        return self._mark in found.get(self._item_id, {})

    def _forget_confirmed(self) -> None:
        unconfirmed = None if self._unconfirmed is None else self._unconfirmed[0]
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
            self._moves.append((0, changes))


def _add(totals: Counter[str], moves: Iterable[Mapping[str, int]]) -> None:
    for changes in moves:  # not `Counter.update`: it looks at what it is given for longer
        for name, change in changes.items():
            totals[name] += change


def counts_of(totals: Mapping[str, int]) -> Counts:
    """Never negative: a process may have been killed before it could count what others go on
    with."""
    return Counts(**{name: max(0, totals[name]) for name in _FIELDS})

"""What a task writes, when, and under which keys: with the engine's own functions.

Items come from `item_format.new_item`, changes from `conditional_writes`, keys from `schema`; a
change is carried out on the item as DynamoDB would, and `benchmarks.aws.cost.units` says what AWS
bills of the item and of each index entry. Nothing here knows a key or a number of units by itself.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from benchmarks.aws.cost import units
from benchmarks.aws.cost.units import Index
from task_queue_engine._version import __version__
from task_queue_engine.attempt_record import AttemptOutcome, AttemptRecord
from task_queue_engine.backends.aws.dynamodb import conditional_writes, schema
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Update
from task_queue_engine.backends.aws.dynamodb.item_format import Item, new_item, status_at_of
from task_queue_engine.backends.base import DueChange
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Cancel,
    ClaimRequest,
    Complete,
    Fail,
    Row,
    ScheduleRetry,
)
from task_queue_engine.task import Task, TaskError

TABLE = "table"

INDEXES = tuple(
    Index(name=index.name, keys=index.keys, table_keys=(schema.KEY,), projected=index.include)
    for index in schema.INDEXES
)

# The day on which virtual time begins: of no meaning, and the same in every run.
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

_WORKER = "host-0123456789abcdef"
_MESSAGE = "0d5e0d2c-6c0f-4d2e-9d0e-0123456789ab"
_TOKEN = "0123456789ab1"  # a write's mark
_ERROR = TaskError(type="builtins.ValueError", message="x" * 60)


@dataclass(frozen=True, slots=True)
class Touch:
    """One entry written: of the table or of an index."""

    store: str
    """TABLE, or the index's name."""
    partition_key: str
    sort_key: str
    units: int


@dataclass(frozen=True, slots=True)
class Step:
    """One write of one item, all or nothing: a table that throttles one part throttles all."""

    name: str
    at: float
    """Seconds after the task's creation."""
    touches: tuple[Touch, ...]


class Life:
    """A task as it is written."""

    def __init__(
        self,
        *,
        created: float,
        rng: random.Random,
        parts_of_steps: list[tuple[Part, ...]],
        payload_bytes: int = 100,
    ) -> None:
        """
        Args:
            created: seconds of virtual time.
            parts_of_steps: what its steps write, for as many as have been looked at: items of the
                same kind of task have the same sizes. Added to.
        """
        self._begin = BEGIN + timedelta(seconds=created)
        self.id = task_id_at(self._begin, rng)
        self.steps: list[Step] = []
        self._payload = b'"' + b"x" * payload_bytes + b'"'
        self._item: Item | None = None
        self._parts = parts_of_steps

    def create(self, *, waits: float = 0.0) -> None:
        """
        Args:
            waits: seconds; from a quarter of an hour on the scheduler sends it.
        """
        run_at = self._begin + timedelta(seconds=waits) if waits else None
        task = Task(
            id=self.id,
            type="email",
            payload=None,
            created_at=self._begin,
            updated_at=self._begin,
            run_at=run_at,
        )
        item = new_item(
            Row(task=task, due_at=run_at),
            payload_json=self._payload,
            token=_TOKEN,
            retention=0,
            in_default_partition=not waits,
        )
        self._write("create", 0.0, item)

    def sweep(self, at: float) -> None:
        self._update("sweep", at, conditional_writes.reindex(self.id, status_at_of(self._held())))

    def send_due(self, at: float) -> None:
        """The scheduler's two writes: it takes the mark for itself, sends, and clears it."""
        due = datetime.fromisoformat(self._held()["due_at"]["S"])
        until = due + timedelta(seconds=45)
        for name, old, new in (("take due", due, until), ("clear due", until, None)):
            change = conditional_writes.change_due(DueChange(self.id, old, new))
            self._update(name, at, change)

    def start(self, at: float) -> None:
        request = ClaimRequest(
            task_id=self.id, message_id=_MESSAGE, receive_count=1, worker=_WORKER
        )
        self._update("start", at, conditional_writes.start(request, self._time(at), _TOKEN))

    def complete(self, at: float) -> None:
        self._record("complete", at, Complete(task_id=self.id, attempt=self._attempt, result=None))

    def fail(self, at: float) -> None:
        self._record("fail", at, Fail(task_id=self.id, attempt=self._attempt, error=_ERROR))

    def retry(self, at: float, *, delay: float = 1.0) -> None:
        write = ScheduleRetry(
            task_id=self.id,
            attempt=self._attempt,
            error=_ERROR,
            run_at=self._time(at + delay),
            scheduled=False,
            record=AttemptRecord(
                number=self._attempt,
                outcome=AttemptOutcome.RUNNING,
                worker=_WORKER,
                version=__version__,
                started_at=self._time(at),
            ),
        )
        self._record("retry", at, write)

    def cancel(self, at: float) -> None:
        self._record("cancelled", at, Cancel(task_id=self.id, attempt=self._attempt))

    def ask_to_cancel(self, at: float) -> None:
        item = self._held()
        asked = {"cancel_requested": {"BOOL": True}, "cancel_shard": {"S": schema.CANCEL_SHARD}}
        self._write("cancel request", at, item | asked)

    # --- writing ----------------------------------------------------------------------------

    @property
    def _attempt(self) -> int:
        return int(self._held()["attempt"]["N"])

    def _held(self) -> Item:
        if self._item is None:
            raise ValueError("the task has not been created")
        return self._item

    def _time(self, at: float) -> datetime:
        return self._begin + timedelta(seconds=at)

    def _record(self, name: str, at: float, write: AttemptWrite) -> None:
        update = conditional_writes.record(write, self._time(at), _TOKEN, retention=0)
        self._update(name, at, update)

    def _update(self, name: str, at: float, update: Update) -> None:
        item = {**self._held(), **update.sets}
        for attribute in update.increments:
            item[attribute] = {"N": str(int(item[attribute]["N"]) + 1)}
        for attribute in update.removes:
            item.pop(attribute, None)
        self._write(name, at, item)

    def _write(self, name: str, at: float, item: Item) -> None:
        old, self._item = self._item, item
        number = len(self.steps)
        if number == len(self._parts):
            self._parts.append(parts(old, item))
        self.steps.append(
            Step(
                name,
                at,
                tuple(
                    Touch(
                        TABLE if part.index is None else part.index.name,
                        *_key(part.index, old if part.of_old and old else item),
                        part.units,
                    )
                    for part in self._parts[number]
                ),
            )
        )


@dataclass(frozen=True, slots=True)
class Part:
    """What a write asks of the table (`index` is None) or of an index."""

    index: Index | None
    of_old: bool
    """The entry that was there before, which is taken out."""
    units: int


def parts(old: Item | None, new: Item) -> tuple[Part, ...]:
    """Of a write that made `old` into `new`."""
    found = [Part(None, False, units.table_write(old, new))]
    for index in INDEXES:
        before, after = index.entry(old), index.entry(new)
        if before is not None and after is not None and _key(index, before) == _key(index, after):
            if cost := units.index_write(index, old, new):
                found.append(Part(index, False, cost))
            continue
        for entry in (before, after):
            if entry is not None:
                cost = units.write_units(units.item_size(entry))
                found.append(Part(index, entry is before, cost))
    return tuple(found)


def _key(index: Index | None, entry: units.Item) -> tuple[str, str]:
    if index is None:
        return str(entry[schema.KEY]["S"]), ""
    values = [str(entry[key]["S"]) for key in index.keys]
    # An index without a sort key keeps entries of one key in the order of the table's own.
    return values[0], values[1] if len(values) > 1 else str(entry[schema.KEY]["S"])


def task_id_at(moment: datetime, rng: random.Random) -> str:
    """A UUIDv7 as `task.new_task_id` makes them, of a time and of chance that can be repeated."""
    milliseconds = int(moment.timestamp() * 1000)
    number = milliseconds << 80 | 0x7 << 76 | rng.getrandbits(12) << 64
    return str(uuid.UUID(int=number | 0b10 << 62 | rng.getrandbits(62)))


# --- lives ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    live: Callable[[Life], None]
    measured: str | None = None
    """The shape of `benchmarks.aws.cost` that counts the same on real servers."""

    parts: list[tuple[Part, ...]] = field(default_factory=list, repr=False, compare=False)

    def steps(self, *, created: float, rng: random.Random) -> list[Step]:
        life = Life(created=created, rng=rng, parts_of_steps=self.parts)
        self.live(life)
        return life.steps


# Seconds: what `store.DynamoStore` gives a task before the sweep looks at it.
SWEEP_LAG = 120.0


def _runs_once(life: Life) -> None:
    life.create()
    life.start(0.2)
    life.complete(0.4)


def _retried(life: Life) -> None:
    life.create()
    life.start(0.2)
    life.retry(0.4)
    life.start(1.5)
    life.complete(1.7)


def _waits(life: Life) -> None:
    life.create()
    life.sweep(SWEEP_LAG)
    life.start(SWEEP_LAG + 60)
    life.complete(SWEEP_LAG + 60.2)


def _scheduled(life: Life) -> None:
    # As long as it takes the simulation to get there and no longer: any delay writes the same.
    life.create(waits=960.0)
    life.send_due(945.0)
    life.start(960.0)
    life.complete(960.2)


def _failed(life: Life) -> None:
    life.create()
    life.start(0.2)
    life.fail(0.4)


def _cancelled(life: Life) -> None:
    life.create()
    life.start(0.2)
    life.ask_to_cancel(5.0)
    life.cancel(5.5)


SHAPES = (
    Shape("runs once, soon", _runs_once, "100 B"),
    Shape("retried once", _retried, "one retry"),
    Shape("waits or runs for over 2 minutes", _waits),
    Shape("delayed by over 15 minutes", _scheduled, "in an hour"),
    Shape("failed, dead-lettered", _failed, "dead letter"),
    Shape("cancelled while it runs", _cancelled),
)
ONCE, RETRIED, WAITS, SCHEDULED, FAILED, CANCELLED = SHAPES

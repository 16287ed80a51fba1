"""All that a `MemoryBackend` keeps, and how an operation on it is carried out.

The backend makes one `MemoryState`; its queues, their dead letters and its store are given it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

import trio

from task_queue_engine.attempt_record import AttemptRecord
from task_queue_engine.backends.base import DeadLetter, Delivery, QueueVerdict, Rejected, TryAgain
from task_queue_engine.backends.memory.faults import Faults
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import BrokerDeadLetter, Row, slot_of, supersedes
from task_queue_engine.worker import Worker

T = TypeVar("T")


@dataclass(slots=True)
class StoredMessage:
    """A message as the queue keeps it."""

    id: str
    task_id: str
    visible_at: datetime
    receipt: str | None = None
    """Of the latest receive; None while no receiver has it."""
    receive_count: int = 0


@dataclass(slots=True, eq=False)
class QueueState:
    """One queue."""

    messages: dict[str, StoredMessage] = field(default_factory=dict)
    dead_letters: dict[str, DeadLetter] = field(default_factory=dict)
    moved_by_broker: dict[str, BrokerDeadLetter] = field(default_factory=dict)
    """Of the dead letters: those that no engine wrote."""
    duplicates: deque[Delivery] = field(default_factory=deque)
    """To be handed out once more."""
    changed: trio.Event = field(default_factory=trio.Event)
    """Wakes the receivers that wait."""


@dataclass(slots=True, eq=False)
class MemoryState:
    """Rows, queues, and what governs the operations on them."""

    clock: Clock
    is_one_transaction: bool = False
    """Else queues and store are as two services, which do not know each other."""
    faults: Faults = field(default_factory=Faults)
    rows: dict[str, Row] = field(default_factory=dict)
    attempts: dict[str, dict[int, AttemptRecord]] = field(default_factory=dict)
    """Those that were put away, of each task by their slots."""
    queues: dict[str, QueueState] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    times_open: int = 0
    last_id: int = 0

    def save(self, row: Row) -> None:
        """What `lifecycle` says a row is to be, and the attempt that is put away with it."""
        over = row.put_away
        if over is not None:
            slots = self.attempts.setdefault(row.task.id, {})
            slot = slot_of(over.number)
            if supersedes(over, slots.get(slot)):
                slots[slot] = over
            row = replace(row, put_away=None)
        self.rows[row.task.id] = row

    def forget(self, task_ids: Collection[str]) -> None:
        """Rows, with what is kept beside them and their dead letters."""
        for task_id in task_ids:
            del self.rows[task_id]
            self.attempts.pop(task_id, None)
        self.forget_dead_letters(task_ids)

    def forget_dead_letters(self, task_ids: Collection[str]) -> None:
        """Those of these tasks."""
        for queue in self.queues.values():
            for dead_letter in tuple(queue.dead_letters.values()):
                if dead_letter.task_id in task_ids:
                    del queue.dead_letters[dead_letter.id]
                    queue.moved_by_broker.pop(dead_letter.id, None)

    def queue(self, name: str) -> QueueState:
        return self.queues.setdefault(name, QueueState())

    def next_id(self) -> str:
        """Of a message or a dead letter; no two queues share one."""
        self.last_id += 1
        return str(self.last_id)

    def check_open(self) -> None:
        if not self.times_open:
            raise BackendUnavailable("the backend is not open")

    async def call(self, operation: str, carry_out: Callable[[], T]) -> T:
        """Run one operation: a checkpoint first, then no way to be cancelled halfway."""
        self.check_open()
        await self.faults.enter(operation)
        self.check_open()
        answer = carry_out()
        self.faults.leave(operation)
        return answer

    async def write(
        self,
        queue: QueueState,
        operation: str,
        items: Sequence[T],
        one: Callable[[T], QueueVerdict],
    ) -> list[QueueVerdict]:
        """The same, item by item, for what changes a queue: its receivers look again."""

        def all_items() -> list[QueueVerdict]:
            verdicts = [judge(item) for item in items]
            queue.changed.set()
            return verdicts

        def judge(item: T) -> QueueVerdict:
            if self.faults.hits_item(operation):
                return TryAgain("made to fail by a test")
            if self.faults.rejects_item(operation):
                return Rejected("refused by a test")
            return one(item)

        return await self.call(operation, all_items)


def sort_key(row: Row) -> tuple[datetime, str]:
    """Where a task stands in a listing."""
    return row.task.created_at, row.task.id


def id_key(row: Row) -> tuple[str]:
    """The same in a listing by the beginning of an id."""
    return (row.task.id,)

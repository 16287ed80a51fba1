"""New rows: statements of their own, where nothing needs to be read first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from task_queue_engine.backends.base import (
    AlreadyExists,
    Created,
    CreateVerdict,
    NewTask,
    TooLarge,
)
from task_queue_engine.backends.sqlite.batches import Batch, JsonRows
from task_queue_engine.backends.sqlite.rows import (
    NUMBER_OF,
    encode,
    load,
    to_us,
    to_us_or_none,
)
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.task import TaskStatus

MAX_INLINE_BYTES = 2_000
"""Of a payload in the task's own row: half a page. SQLite writes a row anew, whole, whenever it
changes; a larger payload is written once, to a table of its own, and not at every step of its
task's life (measured for 100 kB: a third of the bytes)."""

_COLUMNS = (
    "id, queue, type, max_attempts, timeout_seconds, created_at, updated_at, run_at, due_at, "
    "payload, trace_context"
)
_CREATE = Batch(
    f"WITH new ({_COLUMNS}) AS (VALUES {{rows}}) "
    f"INSERT INTO tasks ({_COLUMNS}, status, retry_count, attempt, cancel_requested, "
    f"receive_count) SELECT *, {NUMBER_OF[TaskStatus.PENDING]}, 0, 0, 0, 0 FROM new "
    "WHERE id IS NOT NULL ON CONFLICT (id) DO NOTHING",
    width=11,
)
_CREATE_LARGE = Batch(
    "WITH new (task_id, payload) AS (VALUES {rows}) "
    "INSERT INTO large_payloads SELECT * FROM new WHERE task_id IS NOT NULL",
    width=2,
)
_ids = JsonRows(str)


class Creation:
    """A batch of new tasks; made outside of the writer's thread, carried out in it."""

    def __init__(self, tasks: Sequence[NewTask], *, max_item_bytes: int) -> None:
        self._verdicts: list[CreateVerdict] = [
            Created()
            if len(new.payload_json) <= max_item_bytes
            else TooLarge(len(new.payload_json), max_item_bytes)
            for new in tasks
        ]
        self._fitting = [i for i, each in enumerate(self._verdicts) if isinstance(each, Created)]
        self._columns = [_to_columns(tasks[i]) for i in self._fitting]
        self._large = [
            (n, (tasks[i].task.id, tasks[i].payload_json))
            for n, i in enumerate(self._fitting)
            if len(tasks[i].payload_json) > MAX_INLINE_BYTES
        ]

    def carry_out(self, transaction: Transaction) -> list[CreateVerdict]:
        known = _insert(transaction, self._columns)
        large = [row for n, row in self._large if n not in known]
        _CREATE_LARGE.run(transaction.execute, large)
        transaction.counters[TaskStatus.PENDING] += len(self._columns) - len(known)
        verdicts = list(self._verdicts)
        rows = load(transaction.execute, [self._columns[n][0] for n in known])
        for n in known:
            verdicts[self._fitting[n]] = AlreadyExists(rows[self._columns[n][0]].task)
        return verdicts


def _to_columns(new: NewTask) -> tuple[Any, ...]:
    task, payload = new.task, new.payload_json
    return (
        task.id,
        task.queue,
        task.type,
        task.max_attempts,
        task.timeout_seconds,
        to_us(task.created_at),
        to_us(task.updated_at),
        to_us_or_none(task.run_at),
        to_us_or_none(new.due_at),
        payload if len(payload) <= MAX_INLINE_BYTES else None,
        None if task.trace_context is UNSET else encode(task.trace_context),
    )


def _insert(transaction: Transaction, columns: Sequence[tuple[Any, ...]]) -> list[int]:
    """Insert what is not there yet; returns which were, by their place in `columns`."""
    (last_before,) = transaction.execute("SELECT ifnull(max(rowid), 0) FROM tasks").fetchone()
    before = transaction.changes()
    _CREATE.run(transaction.execute, columns)
    if transaction.changes() - before == len(columns):
        return []
    # New rows come after all others: SQLite gives out the largest rowid plus one.
    new = set(
        _ids.of(
            transaction.execute(
                "SELECT json_group_array(id) FROM tasks WHERE rowid > ?", (last_before,)
            ).fetchall()
        )
    )
    known = []
    for n, (task_id, *_) in enumerate(columns):
        if task_id in new:
            new.remove(task_id)  # the same id once more in this batch was there before
        else:
            known.append(n)
    return known

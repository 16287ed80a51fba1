"""The store: rows of tasks, changed by conditional writes.

A batch is read in one step, the pure functions of `lifecycle` decide, and what they changed is
written in one step, all in one transaction. Only creating and completing, where nothing needs to
be read first, are statements of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from task_queue_engine import lifecycle
from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import (
    Counts,
    CreateVerdict,
    DueChange,
    DueTask,
    ListQuery,
    NewTask,
    TaskChange,
    TaskCount,
    TaskPage,
)
from task_queue_engine.backends.sqlite import attempts, listing
from task_queue_engine.backends.sqlite.batches import Batch, JsonRows
from task_queue_engine.backends.sqlite.creation import Creation
from task_queue_engine.backends.sqlite.database_file import DatabaseFile
from task_queue_engine.backends.sqlite.rows import (
    NUMBER_OF,
    STATUSES,
    encode_or_none,
    from_us,
    load,
    save,
    to_us,
    to_us_or_none,
)
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.clock import Clock
from task_queue_engine.lifecycle import (
    AttemptWrite,
    BrokerDeadLetter,
    CancelVerdict,
    ClaimRequest,
    ClaimVerdict,
    Complete,
    Deleted,
    DeleteVerdict,
    PendingFailure,
    Recorded,
    RecordVerdict,
    Reopened,
    ReopenVerdict,
    Row,
)
from task_queue_engine.task import Task, TaskStatus

ENDED, CANCEL_ASKED = TaskChange.ENDED.value, TaskChange.CANCEL_ASKED.value

T = TypeVar("T")
Decide = Callable[[Row | None, datetime], tuple[T, Row | None]]

MAX_ITEM_BYTES = 2**20
"""Of a payload's JSON. SQLite holds more; but rows are read and written whole, one transaction at a
time, and what is so large belongs into a file that the payload names."""

_PENDING = NUMBER_OF[TaskStatus.PENDING]
_PROCESSING = NUMBER_OF[TaskStatus.PROCESSING]
_COMPLETED = NUMBER_OF[TaskStatus.COMPLETED]
_COMPLETED_NOW = Recorded(TaskStatus.COMPLETED)

_COMPLETE = Batch(
    "WITH done (id, attempt, result) AS (VALUES {rows}) "
    f"UPDATE tasks SET status = {_COMPLETED}, result = done.result, error = NULL, run_at = NULL, "
    "finished_at = ?, updated_at = ?, message_id = NULL, receive_count = 0 FROM done "
    f"WHERE tasks.id = done.id AND tasks.attempt = done.attempt AND status = {_PROCESSING}",
    width=3,
)
_SCHEDULE = Batch(
    "WITH new (id, due_at) AS (VALUES {rows}) "
    "UPDATE tasks SET due_at = new.due_at FROM new "
    f"WHERE tasks.id = new.id AND status = {_PENDING}",
    width=2,
)
_CHANGE_DUE = Batch(
    "WITH new (id, expected, due_at) AS (VALUES {rows}) "
    "UPDATE tasks SET due_at = new.due_at FROM new "
    f"WHERE tasks.id = new.id AND tasks.due_at IS new.expected AND status = {_PENDING} "
    "RETURNING tasks.id",
    width=3,
)
_CANCEL_REQUESTED = Batch(
    "SELECT json_group_array(id) FROM tasks WHERE id IN (VALUES {rows}) AND cancel_requested",
    width=1,
)
# Told which index: SQLite would rather look through all that are PENDING. By rowid, as that index
# has it: however many come due at once, nothing is to be sorted. It passes over what is due on
# other queues, which is much only where no engine serves them (measured: 100,000 rows, 100 ms).
_DUE = (
    "SELECT json_group_array(json_array(id, due_at) ORDER BY due_at, number) FROM ("
    "SELECT id, due_at, rowid AS number FROM tasks INDEXED BY tasks_due "
    f"WHERE due_at <= ? AND status = {_PENDING} AND queue = ? ORDER BY due_at, number LIMIT ?)"
)
_due = JsonRows(tuple[str, int])
_EXPIRED = "FROM tasks WHERE finished_at < ? ORDER BY finished_at, id LIMIT ?"
_EXPIRE_DEAD_LETTERS = (
    f"DELETE FROM dead_letters WHERE task_id IN (SELECT id {_EXPIRED}) RETURNING queue"
)
_EXPIRE = (
    f"DELETE FROM large_payloads WHERE task_id IN (SELECT id {_EXPIRED})",
    f"DELETE FROM tasks WHERE id IN (SELECT id {_EXPIRED})",
)
_DELETE_MESSAGES, _DELETE_DEAD_LETTERS, _DELETE_PAYLOADS, _DELETE = (
    Batch(statement, width=1)
    for statement in (
        "DELETE FROM messages WHERE task_id IN (VALUES {rows}) RETURNING queue, leased",
        "DELETE FROM dead_letters WHERE task_id IN (VALUES {rows}) RETURNING queue",
        "DELETE FROM large_payloads WHERE task_id IN (VALUES {rows})",
        "DELETE FROM tasks WHERE id IN (VALUES {rows})",
    )
)
_ids = JsonRows(str)


class SqliteStore:
    """All queues' tasks in the file."""

    max_batch = 256

    def __init__(
        self, *, file: DatabaseFile, clock: Clock, max_item_bytes: int = MAX_ITEM_BYTES
    ) -> None:
        self._file = file
        self._clock = clock
        self._max_item_bytes = max_item_bytes

    # --- writes -----------------------------------------------------------------------------

    async def create(self, tasks: Sequence[NewTask]) -> list[CreateVerdict]:
        return await self._file.write(self.creation(tasks).carry_out)

    def creation(self, tasks: Sequence[NewTask]) -> Creation:
        return Creation(tasks, max_item_bytes=self._max_item_bytes)

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[ClaimVerdict]:
        return await self._decide([_claiming(request) for request in requests])

    async def record(self, writes: Sequence[AttemptWrite]) -> list[RecordVerdict]:
        return await self._file.write(self.recording(writes))

    def recording(
        self, writes: Sequence[AttemptWrite]
    ) -> Callable[[Transaction], list[RecordVerdict]]:
        now = self._clock.now()
        now_us = to_us(now)
        times = Counter(write.task_id for write in writes)
        completing = [
            write for write in writes if isinstance(write, Complete) and times[write.task_id] == 1
        ]
        completed = [
            (write.task_id, write.attempt, encode_or_none(write.result)) for write in completing
        ]
        over = [
            (write.task_id, ended)
            for write in completing
            # Few have: looked at first, as this is for every task.
            if write.record is not None and (ended := lifecycle.ended_by(write, now)) is not None
        ]

        def record(write: AttemptWrite) -> tuple[str, Decide[RecordVerdict]]:
            return write.task_id, lambda row, now: lifecycle.decide_record(row, write, now)

        def work(transaction: Transaction) -> list[RecordVerdict]:
            attempts.put_away_processing(transaction.execute, over)
            before = transaction.changes()
            _COMPLETE.run(transaction.execute, completed, after=(now_us, now_us))
            done = transaction.changes() - before
            transaction.counters[TaskStatus.PROCESSING] -= done
            transaction.counters[TaskStatus.COMPLETED] += done
            if done:
                transaction.tell(ENDED, [task_id for task_id, *_ in completed])
            if done == len(writes):
                return [_COMPLETED_NOW] * done
            # Those just completed are decided upon too: as a write that comes a second time.
            return _decide_all(transaction, [record(write) for write in writes], now)

        return work

    async def cancel(self, task_ids: Sequence[str]) -> list[CancelVerdict]:
        return await self._decide([(task_id, lifecycle.decide_cancel) for task_id in task_ids])

    async def reopen(self, task_ids: Sequence[str]) -> list[ReopenVerdict]:
        now = self._clock.now()

        def work(transaction: Transaction) -> list[ReopenVerdict]:
            items = [(task_id, lifecycle.decide_reopen) for task_id in task_ids]
            verdicts: list[ReopenVerdict] = _decide_all(transaction, items, now)
            # A dead letter is there for as long as its task is FAILED.
            reopened = [(each.task.id,) for each in verdicts if isinstance(each, Reopened)]
            _delete_dead_letters(transaction, reopened)
            return verdicts

        return await self._file.write(work)

    async def delete(self, task_ids: Sequence[str]) -> list[DeleteVerdict]:
        now = self._clock.now()

        def work(transaction: Transaction) -> list[DeleteVerdict]:
            rows = load(transaction.execute, task_ids)
            verdicts = []
            for task_id in task_ids:  # gone, where it is named a second time
                row = rows.pop(task_id, None)
                verdicts.append(lifecycle.decide_delete(row, now))
            gone = [each.task for each in verdicts if isinstance(each, Deleted)]
            _forget(transaction, gone)
            return verdicts

        return await self._file.write(work)

    async def reclaim(self, items: Sequence[tuple[str, int]]) -> list[RecordVerdict]:
        def reclaim(attempt: int) -> Decide[RecordVerdict]:
            return lambda row, now: lifecycle.decide_reclaim(row, attempt, now)

        return await self._decide([(task_id, reclaim(attempt)) for task_id, attempt in items])

    async def fail_dead_lettered(self, items: Sequence[BrokerDeadLetter]) -> list[RecordVerdict]:
        def fail(dead_letter: BrokerDeadLetter) -> Decide[RecordVerdict]:
            return lambda row, now: lifecycle.decide_fail_dead_lettered(row, dead_letter, now)

        return await self._decide([(item.task_id, fail(item)) for item in items])

    async def fail_pending(self, items: Sequence[PendingFailure]) -> list[RecordVerdict]:
        def fail(failure: PendingFailure) -> Decide[RecordVerdict]:
            return lambda row, now: lifecycle.decide_fail_pending(row, failure, now)

        return await self._decide([(item.task_id, fail(item)) for item in items])

    async def schedule(self, items: Sequence[tuple[str, datetime]]) -> None:
        # The last one counts where a task is named twice.
        rows = [(task_id, to_us(due_at)) for task_id, due_at in dict(items).items()]
        await self._file.write(lambda t: _SCHEDULE.run(t.execute, rows))

    async def change_due(self, items: Sequence[DueChange]) -> list[bool]:
        rows = [
            (item.task_id, to_us_or_none(item.expected), to_us_or_none(item.due_at))
            for item in items
        ]
        changed = {
            task_id
            for (task_id,) in await self._file.write(lambda t: _CHANGE_DUE.run(t.execute, rows))
        }
        return [item.task_id in changed for item in items]

    async def expire(self, *, finished_before: datetime, limit: int) -> int:
        which = (to_us(finished_before), limit)

        def work(transaction: Transaction) -> int:
            counted = transaction.execute(
                f"SELECT status, count(*) FROM (SELECT status {_EXPIRED}) GROUP BY status", which
            ).fetchall()
            # A dead letter without its task could not be redriven any more.
            for (queue,) in transaction.execute(_EXPIRE_DEAD_LETTERS, which).fetchall():
                transaction.counters[f"dead:{queue}"] -= 1
            for statement in _EXPIRE:
                transaction.execute(statement, which)
            for status, number in counted:
                transaction.counters[STATUSES[status]] -= number
            return sum(number for _, number in counted)

        return await self._file.write(work)

    async def _decide(self, items: Sequence[tuple[str, Decide[T]]]) -> list[T]:
        now = self._clock.now()
        return await self._file.write(lambda t: _decide_all(t, items, now))

    # --- reads ------------------------------------------------------------------------------

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        rows = await self._file.read(lambda t: load(t.execute, task_ids))
        return [rows[task_id].task if task_id in rows else None for task_id in task_ids]

    async def history(self, task_id: str) -> AttemptHistory | None:
        def look(transaction: Transaction) -> AttemptHistory | None:
            with transaction.connection:  # one snapshot
                row = load(transaction.execute, [task_id]).get(task_id)
                put_away = attempts.read(transaction.execute, task_id)
            return None if row is None else lifecycle.history_of(row, put_away)

        return await self._file.read(look)

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        search = listing.TaskSearch(query)
        return await self._file.read(lambda t: search.run(t))

    async def count_tasks(self, query: ListQuery) -> TaskCount:
        counting = listing.TaskCounting(query)
        return await self._file.read(lambda t: counting.count(t))

    async def counts(self) -> Counts:
        found = dict(
            await self._file.read(
                lambda t: t.execute(
                    "SELECT name, n FROM counters WHERE name IN (?, ?, ?, ?, ?)", tuple(STATUSES)
                ).fetchall()
            )
        )
        return Counts(**{status.lower(): found.get(status, 0) for status in STATUSES})

    async def cancel_requested(self, task_ids: Sequence[str]) -> list[bool]:
        rows = [(task_id,) for task_id in task_ids]
        asked = set(
            await self._file.read(lambda t: _ids.of(_CANCEL_REQUESTED.run(t.execute, rows)))
        )
        return [task_id in asked for task_id in task_ids]

    async def due(self, queue: str, *, before: datetime, limit: int) -> list[DueTask]:
        which = (to_us(before), queue, limit)

        def look(transaction: Transaction) -> list[DueTask]:
            with transaction.connection:  # one snapshot
                found = _due.of(transaction.execute(_DUE, which).fetchall())
                rows = load(transaction.execute, [task_id for task_id, _ in found])
            return [DueTask(rows[task_id].task, from_us(due_at)) for task_id, due_at in found]

        return await self._file.read(look)


def _forget(transaction: Transaction, tasks: Sequence[Task]) -> None:
    """Delete their rows, with all that is in other tables. (Their attempts go by a trigger.)"""
    ids = [(task.id,) for task in tasks]
    for queue, leased in _DELETE_MESSAGES.run(transaction.execute, ids):
        transaction.counters[f"messages:{queue}"] -= 1
        transaction.counters[f"leased:{queue}"] -= leased
    # A dead letter without its task could not be redriven any more.
    _delete_dead_letters(transaction, ids)
    _DELETE_PAYLOADS.run(transaction.execute, ids)
    _DELETE.run(transaction.execute, ids)
    for task in tasks:
        transaction.counters[task.status] -= 1


def _delete_dead_letters(transaction: Transaction, ids: Sequence[tuple[str]]) -> None:
    """Of tasks with these ids."""
    for (queue,) in _DELETE_DEAD_LETTERS.run(transaction.execute, ids):
        transaction.counters[f"dead:{queue}"] -= 1


def _claiming(request: ClaimRequest) -> tuple[str, Decide[ClaimVerdict]]:
    """For `_decide_all`."""
    return request.task_id, lambda row, now: lifecycle.decide_claim(row, request, now)


def _decide_all(
    transaction: Transaction, items: Iterable[tuple[str, Decide[T]]], now: datetime
) -> list[T]:
    """Load, decide one after the other, save what changed."""
    items = list(items)
    before = load(transaction.execute, {task_id for task_id, _ in items})
    after: dict[str, Row] = {}
    over: list[attempts.PutAway] = []
    verdicts: list[T] = []
    for task_id, decide in items:
        verdict, changed = decide(after.get(task_id) or before.get(task_id), now)
        if changed is not None:
            after[task_id] = changed
            if changed.put_away is not None:
                over.append((task_id, changed.put_away))
        verdicts.append(verdict)
    save(transaction.execute, after.values())
    attempts.put_away(transaction.execute, over)
    for task_id, row in after.items():
        transaction.counters[before[task_id].task.status] -= 1
        transaction.counters[row.task.status] += 1
        if row.task.status.is_terminal:
            transaction.tell(ENDED, [task_id])
        elif row.task.cancel_requested:
            transaction.tell(CANCEL_ASKED, [task_id])
    return verdicts

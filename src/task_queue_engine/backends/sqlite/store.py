"""The store: rows of tasks, changed by conditional writes.

What every task goes through (create, start, complete) is one statement. Everything else loads the
row, asks the pure functions of `lifecycle` and writes what they say, inside the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from task_queue_engine import lifecycle
from task_queue_engine.backends.base import (
    AlreadyExists,
    Counts,
    Created,
    CreateVerdict,
    ListQuery,
    NewTask,
    TaskPage,
    TooLarge,
)
from task_queue_engine.backends.cursors import Int64, check_limit, decode_cursor, encode_cursor
from task_queue_engine.backends.sqlite.rows import (
    COLUMNS,
    NUMBER_OF,
    STATUSES,
    encode,
    encode_or_none,
    load,
    save,
    to_task,
    to_us,
    to_us_or_none,
)
from task_queue_engine.backends.sqlite.threads import ReaderThread, Transaction, WriterThread
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Burial,
    CancelVerdict,
    ClaimRequest,
    ClaimVerdict,
    Complete,
    Recorded,
    RecordVerdict,
    ReopenVerdict,
    Row,
    Started,
)
from task_queue_engine.task import Task, TaskStatus

T = TypeVar("T")

MAX_ITEM_BYTES = 2**20

_INSERT = (
    "INSERT INTO tasks (id, queue, type, status, retry_count, attempt, max_attempts, "
    "timeout_seconds, created_at, updated_at, run_at, due_at, cancel_requested, receive_count, "
    "payload) VALUES (?, ?, ?, ?, 0, 0, ?, ?, ?, ?, ?, ?, 0, 0, ?) "
    "ON CONFLICT (id) DO NOTHING RETURNING 1"
)
_START = (
    "UPDATE tasks SET status = ?, attempt = attempt + 1, started_at = ?, updated_at = ?, "
    "progress = NULL, worker = ?, message_id = ?, receive_count = ?, due_at = NULL "
    "WHERE id = ? AND status = ? AND (run_at IS NULL OR run_at <= ?) RETURNING " + COLUMNS
)
_COMPLETE = (
    "UPDATE tasks SET status = ?, result = ?, error = NULL, run_at = NULL, finished_at = ?, "
    "updated_at = ?, message_id = NULL, receive_count = 0 "
    "WHERE id = ? AND attempt = ? AND status = ? RETURNING 1"
)
_PENDING = NUMBER_OF[TaskStatus.PENDING]
_PROCESSING = NUMBER_OF[TaskStatus.PROCESSING]
_COMPLETED = NUMBER_OF[TaskStatus.COMPLETED]


class SqliteStore:
    """All queues' tasks in the file."""

    max_batch = 256

    def __init__(self, *, clock: Clock, max_item_bytes: int = MAX_ITEM_BYTES) -> None:
        self._clock = clock
        self._max_item_bytes = max_item_bytes
        self._writer: WriterThread | None = None
        self._reader: ReaderThread | None = None

    def attach(self, writer: WriterThread | None, reader: ReaderThread | None) -> None:
        self._writer, self._reader = writer, reader

    # --- writes -----------------------------------------------------------------------------

    async def create(self, tasks: Sequence[NewTask]) -> list[CreateVerdict]:
        payloads = [encode(new.task.payload) for new in tasks]

        def work(transaction: Transaction) -> list[CreateVerdict]:
            return [
                self._create(transaction, new, payload)
                for new, payload in zip(tasks, payloads, strict=True)
            ]

        return await self._write(work)

    def _create(self, transaction: Transaction, new: NewTask, payload: bytes) -> CreateVerdict:
        if len(payload) > self._max_item_bytes:
            return TooLarge(len(payload), self._max_item_bytes)
        task = new.task
        created = transaction.execute(
            _INSERT,
            (
                task.id,
                task.queue,
                task.type,
                _PENDING,
                task.max_attempts,
                task.timeout_seconds,
                to_us(task.created_at),
                to_us(task.updated_at),
                to_us_or_none(task.run_at),
                to_us_or_none(new.due_at),
                payload,
            ),
        ).fetchone()
        if created is None:
            existing = load(transaction, task.id)
            if existing is None:
                raise BackendUnavailable(f"task {task.id} was neither created nor found")
            return AlreadyExists(existing.task)
        transaction.counters[TaskStatus.PENDING] += 1
        return Created()

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[ClaimVerdict]:
        def work(transaction: Transaction) -> list[ClaimVerdict]:
            now = self._clock.now()
            now_us = to_us(now)
            return [self._claim(transaction, request, now, now_us) for request in requests]

        return await self._write(work)

    def _claim(
        self, transaction: Transaction, request: ClaimRequest, now: datetime, now_us: int
    ) -> ClaimVerdict:
        started = transaction.execute(
            _START,
            (
                _PROCESSING,
                now_us,
                now_us,
                request.worker,
                request.message_id,
                request.receive_count,
                request.task_id,
                _PENDING,
                now_us,
            ),
        ).fetchone()
        if started is not None:
            transaction.counters[TaskStatus.PENDING] -= 1
            transaction.counters[TaskStatus.PROCESSING] += 1
            return Started(to_task(started))
        return self._decide(
            transaction, request.task_id, lambda row: lifecycle.decide_claim(row, request, now)
        )

    async def record(self, writes: Sequence[AttemptWrite]) -> list[RecordVerdict]:
        def work(transaction: Transaction) -> list[RecordVerdict]:
            now = self._clock.now()
            return [self._record(transaction, write, now) for write in writes]

        return await self._write(work)

    def _record(
        self, transaction: Transaction, write: AttemptWrite, now: datetime
    ) -> RecordVerdict:
        if isinstance(write, Complete):
            now_us = to_us(now)
            done = transaction.execute(
                _COMPLETE,
                (
                    _COMPLETED,
                    encode_or_none(write.result),
                    now_us,
                    now_us,
                    write.task_id,
                    write.attempt,
                    _PROCESSING,
                ),
            ).fetchone()
            if done is not None:
                transaction.counters[TaskStatus.PROCESSING] -= 1
                transaction.counters[TaskStatus.COMPLETED] += 1
                return Recorded(TaskStatus.COMPLETED)
        return self._decide(
            transaction, write.task_id, lambda row: lifecycle.decide_record(row, write, now)
        )

    async def cancel(self, task_ids: Sequence[str]) -> list[CancelVerdict]:
        return await self._decide_all([(task_id, lifecycle.decide_cancel) for task_id in task_ids])

    async def reopen(self, task_ids: Sequence[str]) -> list[ReopenVerdict]:
        return await self._decide_all([(task_id, lifecycle.decide_reopen) for task_id in task_ids])

    async def reclaim(self, items: Sequence[tuple[str, int]]) -> list[RecordVerdict]:
        def reclaim(attempt: int) -> Callable[..., tuple[RecordVerdict, Row | None]]:
            return lambda row, now: lifecycle.decide_reclaim(row, attempt, now)

        return await self._decide_all([(task_id, reclaim(attempt)) for task_id, attempt in items])

    async def bury(self, items: Sequence[Burial]) -> list[RecordVerdict]:
        def bury(burial: Burial) -> Callable[..., tuple[RecordVerdict, Row | None]]:
            return lambda row, now: lifecycle.decide_bury(row, burial, now)

        return await self._decide_all([(item.task_id, bury(item)) for item in items])

    async def schedule(self, items: Sequence[tuple[str, datetime | None]]) -> None:
        rows = [(to_us_or_none(due_at), task_id, _PENDING) for task_id, due_at in items]
        await self._write(
            lambda t: t.executemany(
                "UPDATE tasks SET due_at = ? WHERE id = ? AND status = ?", rows
            ).fetchall()
        )

    async def expire(self, *, finished_before: datetime, limit: int) -> int:
        def work(transaction: Transaction) -> int:
            gone = transaction.execute(
                "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE finished_at < ? "
                "ORDER BY finished_at LIMIT ?) RETURNING status",
                (to_us(finished_before), limit),
            ).fetchall()
            for (status,) in gone:
                transaction.counters[STATUSES[status]] -= 1
            return len(gone)

        return await self._write(work)

    async def _decide_all(
        self,
        items: Sequence[tuple[str, Callable[[Row | None, datetime], tuple[T, Row | None]]]],
    ) -> list[T]:
        def work(transaction: Transaction) -> list[T]:
            now = self._clock.now()
            verdicts: list[T] = []
            for task_id, decide in items:

                def decide_now(
                    row: Row | None,
                    decide: Callable[[Row | None, datetime], tuple[T, Row | None]] = decide,
                ) -> tuple[T, Row | None]:
                    return decide(row, now)

                verdicts.append(self._decide(transaction, task_id, decide_now))
            return verdicts

        return await self._write(work)

    def _decide(
        self,
        transaction: Transaction,
        task_id: str,
        decide: Callable[[Row | None], tuple[T, Row | None]],
    ) -> T:
        before = load(transaction, task_id)
        verdict, after = decide(before)
        if before is not None and after is not None:
            save(transaction, after)
            transaction.counters[before.task.status] -= 1
            transaction.counters[after.task.status] += 1
        return verdict

    # --- reads ------------------------------------------------------------------------------

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        def work(transaction: Transaction) -> list[Task | None]:
            rows = [load(transaction, task_id) for task_id in task_ids]
            return [None if row is None else row.task for row in rows]

        return await self._read(work)

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        check_limit(query.limit)
        conditions = ["1"]
        bindings: list[Any] = []
        if query.status is not None:
            conditions.append("status = ?")
            bindings.append(NUMBER_OF[query.status])
        if query.type is not None:
            conditions.append("type = ?")
            bindings.append(query.type)
        if query.cursor is not None:
            conditions.append("(created_at, id) < (?, ?)")
            bindings += decode_cursor(query.cursor, "tasks", tuple[Int64, str])
        rows = await self._read(
            lambda t: t.execute(
                f"SELECT {COLUMNS} FROM tasks WHERE {' AND '.join(conditions)} "
                "ORDER BY created_at DESC, id DESC LIMIT ?",
                (*bindings, query.limit + 1),
            ).fetchall()
        )
        tasks = tuple(to_task(row) for row in rows[: query.limit])
        more = len(rows) > query.limit
        last = (to_us(tasks[-1].created_at), tasks[-1].id) if more else None
        return TaskPage(tasks=tasks, next_cursor=encode_cursor("tasks", last) if last else None)

    async def counts(self) -> Counts:
        found = dict(
            await self._read(
                lambda t: t.execute(
                    "SELECT name, n FROM counters WHERE name IN (?, ?, ?, ?, ?)", tuple(STATUSES)
                ).fetchall()
            )
        )
        return Counts(**{status.lower(): found.get(status, 0) for status in STATUSES})

    async def cancel_requested(self, task_ids: Sequence[str]) -> list[bool]:
        wanted = encode(list(task_ids)).decode()
        rows = await self._read(
            lambda t: t.execute(
                "SELECT id FROM tasks WHERE id IN (SELECT value FROM json_each(?)) "
                "AND cancel_requested",
                (wanted,),
            ).fetchall()
        )
        asked = {task_id for (task_id,) in rows}
        return [task_id in asked for task_id in task_ids]

    async def due(self, *, before: datetime, limit: int) -> list[Task]:
        # "+status": the index of due times is to be walked, not the one of all that is PENDING. By
        # rowid, as that index has it: however many come due at once, nothing is to be sorted.
        rows = await self._read(
            lambda t: t.execute(
                f"SELECT {COLUMNS} FROM tasks WHERE due_at <= ? AND +status = ? "
                "ORDER BY due_at, rowid LIMIT ?",
                (to_us(before), _PENDING, limit),
            ).fetchall()
        )
        return [to_task(row) for row in rows]

    async def _write(self, work: Callable[[Transaction], T]) -> T:
        if self._writer is None:
            raise BackendUnavailable("the backend is not open")
        return await self._writer.run(work)

    async def _read(self, work: Callable[[Transaction], T]) -> T:
        if self._reader is None:
            raise BackendUnavailable("the backend is not open")
        return await self._reader.run(work)

"""Rows by task id, changed by the functions of `lifecycle` alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from task_queue_engine import lifecycle
from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import (
    AlreadyExists,
    Counts,
    Created,
    CreateVerdict,
    DueChange,
    DueTask,
    ListQuery,
    NewTask,
    TaskCount,
    TaskPage,
    TooLarge,
    TryAgain,
)
from task_queue_engine.backends.cursors import Moment, check_limit, decode_cursor, encode_cursor
from task_queue_engine.backends.memory.state import MemoryState, id_key, sort_key
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
    Progress,
    RecordVerdict,
    ReopenVerdict,
    Row,
)
from task_queue_engine.task import Task, TaskStatus

T = TypeVar("T")

MAX_ITEM_BYTES = 2**20
"""As the embedded backend's."""


class MemoryStore:
    """Rows by task id, changed by the functions of `lifecycle` alone."""

    max_batch = 100

    def __init__(self, state: MemoryState, *, max_item_bytes: int) -> None:
        self._state = state
        self._max_item_bytes = max_item_bytes

    def row(self, task_id: str) -> Row | None:
        """For tests: the row as it is stored."""
        return self._state.rows.get(task_id)

    async def create(self, tasks: Sequence[NewTask]) -> list[CreateVerdict]:
        return await self._each("create", tasks, self.add)

    def add(self, new: NewTask) -> CreateVerdict:
        if self._state.faults.hits_item("create"):
            return TryAgain("made to fail by a test")
        size = len(new.payload_json)
        if size > self._max_item_bytes:
            return TooLarge(size, self._max_item_bytes)
        existing = self._state.rows.get(new.task.id)
        if existing is not None:
            return AlreadyExists(existing.task)
        task = msgspec.structs.replace(new.task, payload=msgspec.json.decode(new.payload_json))
        self._state.rows[task.id] = Row(task=task, due_at=new.due_at)
        return Created()

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        def look(task_id: str) -> Task | None:
            row = self._state.rows.get(task_id)
            return None if row is None else row.task

        return await self._each("get", task_ids, look)

    async def history(self, task_id: str) -> AttemptHistory | None:
        def look() -> AttemptHistory | None:
            row, slots = self._state.rows.get(task_id), self._state.attempts.get(task_id, {})
            return None if row is None else lifecycle.history_of(row, slots.values())

        return await self._state.call("history", look)

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        def page() -> TaskPage:
            rows, cursor = self._find(query)
            return TaskPage(tasks=tuple(row.task for row in rows), next_cursor=cursor)

        return await self._state.call("list_tasks", page)

    async def count_tasks(self, query: ListQuery) -> TaskCount:
        def count() -> TaskCount:
            rows, cursor = self._find(query)
            return TaskCount(number=len(rows), next_cursor=cursor)

        return await self._state.call("count_tasks", count)

    def _find(self, query: ListQuery) -> tuple[list[Row], str | None]:
        check_limit(query.limit)
        query.check()
        by_id = query.id is not None
        kind, key = ("task-ids", id_key) if by_id else ("tasks", sort_key)
        shape: Any = tuple[str] if by_id else tuple[Moment, str]
        below = None if query.cursor is None else decode_cursor(query.cursor, kind, shape)
        rows = sorted(
            (
                row
                for row in self._state.rows.values()
                if row.task.status in query.statuses
                and query.passes(row.task)
                and (below is None or key(row) < below)
            ),
            key=key,
            reverse=True,
        )
        more = len(rows) > query.limit
        cursor = encode_cursor(kind, key(rows[query.limit - 1])) if more else None
        return rows[: query.limit], cursor

    async def counts(self) -> Counts:
        def count() -> Counts:
            by_status = dict.fromkeys(TaskStatus, 0)
            for row in self._state.rows.values():
                by_status[row.task.status] += 1
            return Counts(**{status.lower(): number for status, number in by_status.items()})

        return await self._state.call("counts", count)

    async def claim(self, requests: Sequence[ClaimRequest]) -> list[ClaimVerdict]:
        return await self._decide(
            "claim",
            requests,
            lambda request, now: (
                request.task_id,
                lifecycle.decide_claim(self._state.rows.get(request.task_id), request, now),
            ),
        )

    async def record(self, writes: Sequence[AttemptWrite]) -> list[RecordVerdict]:
        return await self._each("record", writes, self.record_one)

    def record_one(self, write: AttemptWrite) -> RecordVerdict:
        if isinstance(write, Complete):
            write = msgspec.structs.replace(write, result=_through_json(write.result))
        elif isinstance(write, Progress):
            write = msgspec.structs.replace(write, value=_through_json(write.value))
        row = self._state.rows.get(write.task_id)
        verdict, changed = lifecycle.decide_record(row, write, self._state.clock.now())
        if changed is not None:
            self._state.save(changed)
        return verdict

    async def cancel(self, task_ids: Sequence[str]) -> list[CancelVerdict]:
        return await self._decide(
            "cancel",
            task_ids,
            lambda task_id, now: (
                task_id,
                lifecycle.decide_cancel(self._state.rows.get(task_id), now),
            ),
        )

    async def cancel_requested(self, task_ids: Sequence[str]) -> list[bool]:
        def look(task_id: str) -> bool:
            row = self._state.rows.get(task_id)
            return row is not None and row.task.cancel_requested

        return await self._each("cancel_requested", task_ids, look)

    async def reopen(self, task_ids: Sequence[str]) -> list[ReopenVerdict]:
        def reopen(task_id: str) -> ReopenVerdict:
            row = self._state.rows.get(task_id)
            verdict, changed = lifecycle.decide_reopen(row, self._state.clock.now())
            if changed is not None:
                self._state.save(changed)
                if self._state.is_one_transaction:
                    self._state.forget_dead_letters({task_id})
            return verdict

        return await self._each("reopen", task_ids, reopen)

    async def delete(self, task_ids: Sequence[str]) -> list[DeleteVerdict]:
        def remove(task_id: str) -> DeleteVerdict:
            row = self._state.rows.get(task_id)
            verdict = lifecycle.decide_delete(row, self._state.clock.now())
            if isinstance(verdict, Deleted):
                self._state.forget({task_id})
                for queue in self._state.queues.values():
                    for message in tuple(queue.messages.values()):
                        if message.task_id == task_id:
                            del queue.messages[message.id]
            return verdict

        return await self._each("delete", task_ids, remove)

    async def due(self, queue: str, *, before: datetime, limit: int) -> list[DueTask]:
        def look() -> list[DueTask]:
            # A stable sort: those due at one moment stay in the order of their creation.
            found = sorted(
                (
                    DueTask(row.task, row.due_at)
                    for row in self._state.rows.values()
                    if row.due_at is not None
                    and row.due_at <= before
                    and row.task.status is TaskStatus.PENDING
                    and row.task.queue == queue
                ),
                key=attrgetter("due_at"),
            )
            return found[:limit]

        return await self._state.call("due", look)

    async def schedule(self, items: Sequence[tuple[str, datetime]]) -> None:
        def write() -> None:
            for task_id, due_at in items:
                row = self._state.rows.get(task_id)
                if row is not None and row.task.status is TaskStatus.PENDING:
                    self._state.rows[task_id] = replace(row, due_at=due_at)

        await self._state.call("schedule", write)

    async def change_due(self, items: Sequence[DueChange]) -> list[bool]:
        def change(item: DueChange) -> bool:
            row = self._state.rows.get(item.task_id)
            if (
                row is None
                or row.task.status is not TaskStatus.PENDING
                or row.due_at != item.expected
            ):
                return False
            self._state.rows[item.task_id] = replace(row, due_at=item.due_at)
            return True

        return await self._each("change_due", items, change)

    async def fail_pending(self, items: Sequence[PendingFailure]) -> list[RecordVerdict]:
        return await self._decide(
            "fail_pending",
            items,
            lambda item, now: (
                item.task_id,
                lifecycle.decide_fail_pending(self._state.rows.get(item.task_id), item, now),
            ),
        )

    async def reclaim(self, items: Sequence[tuple[str, int]]) -> list[RecordVerdict]:
        return await self._decide(
            "reclaim",
            items,
            lambda item, now: (
                item[0],
                lifecycle.decide_reclaim(self._state.rows.get(item[0]), item[1], now),
            ),
        )

    async def fail_dead_lettered(self, items: Sequence[BrokerDeadLetter]) -> list[RecordVerdict]:
        return await self._decide(
            "fail_dead_lettered",
            items,
            lambda item, now: (
                item.task_id,
                lifecycle.decide_fail_dead_lettered(self._state.rows.get(item.task_id), item, now),
            ),
        )

    async def expire(self, *, finished_before: datetime, limit: int) -> int:
        def remove() -> int:
            old = [
                task_id
                for task_id, row in self._state.rows.items()
                if row.task.finished_at is not None and row.task.finished_at < finished_before
            ][:limit]
            self._state.forget(set(old))
            return len(old)

        return await self._state.call("expire", remove)

    async def _each(self, operation: str, items: Sequence[Any], one: Callable[[Any], T]) -> list[T]:
        return await self._state.call(operation, lambda: [one(item) for item in items])

    async def _decide(
        self,
        operation: str,
        items: Iterable[Any],
        one: Callable[[Any, datetime], tuple[str, tuple[T, Row | None]]],
    ) -> list[T]:
        def all_items() -> list[T]:
            now = self._state.clock.now()
            verdicts = []
            for item in items:
                _, (verdict, row) = one(item, now)
                if row is not None:
                    self._state.save(row)
                verdicts.append(verdict)
            return verdicts

        return await self._state.call(operation, all_items)


def _through_json(value: Any) -> Any:
    """As a real store would keep it: an object of its own, and only what JSON can say."""
    return msgspec.json.decode(msgspec.json.encode(value))

"""Creating tasks: new items, each inserted where its id is free.

Which partition of the index a task goes to depends on when it will have ended: see `sweep`, which
has to find it there in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import trio

from task_queue_engine.backends.aws.dynamodb.conditional_writes import Insert
from task_queue_engine.backends.aws.dynamodb.item_format import (
    Item,
    MalformedItem,
    new_item,
    to_task,
    token_of,
)
from task_queue_engine.backends.aws.dynamodb.item_size import item_size
from task_queue_engine.backends.aws.dynamodb.schema import MAX_ITEM_BYTES, RESERVED_BYTES
from task_queue_engine.backends.aws.dynamodb.sweep import Sweep
from task_queue_engine.backends.aws.dynamodb.write_context import WriteContext
from task_queue_engine.backends.aws.dynamodb.write_tokens import WriteToken
from task_queue_engine.backends.aws.dynamodb.writers import (
    Applied,
    ConditionFailed,
    Invalid,
    Unanswered,
)
from task_queue_engine.backends.base import (
    AlreadyExists,
    Created,
    CreateVerdict,
    NewTask,
    TooLarge,
    TryAgain,
)
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import Task, TaskStatus

# Bytes, more than all attributes of a new item take together, but payload and type.
_MAX_FIELDS = 4_096
# What tells one submission under an id from another.
_SUBMITTED = ("type", "payload", "payload_encoding", "created_at")


class _PendingInsert(msgspec.Struct):
    task: Task
    token: WriteToken
    item: Item
    stored: Item | None = None
    """What lies in the table under its id, where that is known."""


@dataclass(slots=True)
class _CreateBatch:
    verdicts: dict[int, CreateVerdict] = field(default_factory=dict)
    """By the index of the task. One without a verdict has not been answered for."""
    failures: list[BackendUnavailable] = field(default_factory=list)
    waves: list[dict[int, _PendingInsert]] = field(default_factory=list)
    """Each id once in a wave."""


class Creator:
    def __init__(self, context: WriteContext, sweep: Sweep) -> None:
        self._context = context
        self._sweep = sweep

    async def create(self, tasks: Sequence[NewTask]) -> list[CreateVerdict]:
        """As `TaskStore.create`.

        Raises:
            BackendUnavailable: none is known to have been created; the call may be repeated.
        """
        context = self._context
        context.table.count("create", len(tasks))
        await trio.lowlevel.checkpoint_if_cancelled()
        batch = self._begin(tasks)
        context.counters.about_to_write()
        # The writer sees to it that the call is not cancelled before, and is over then.
        deadline = trio.current_time() + context.timeout
        try:
            for wave in batch.waves:
                await self._insert(wave, batch, deadline)
                await self._reindex_late(wave, batch, deadline)
        finally:
            for wave in batch.waves:
                context.tokens.release([pending.token for pending in wave.values()])
        for wave in batch.waves:
            for index, pending in wave.items():
                if index not in batch.verdicts:
                    context.tokens.remember(_request_key(pending.task), pending.token)
        if len(batch.verdicts) == len(tasks):
            return [batch.verdicts[index] for index in range(len(tasks))]
        reason = [*batch.failures, BackendUnavailable("DynamoDB did not answer")][0]
        if not any(isinstance(verdict, Created) for verdict in batch.verdicts.values()):
            raise reason
        return [batch.verdicts.get(index, TryAgain(str(reason))) for index in range(len(tasks))]

    def _begin(self, tasks: Sequence[NewTask]) -> _CreateBatch:
        batch = _CreateBatch()
        seen: dict[str, int] = {}
        for index, new in enumerate(tasks):
            pending = self._prepare(new)
            if isinstance(pending, TooLarge):
                batch.verdicts[index] = pending
                continue
            wave = seen[new.task.id] = seen.get(new.task.id, -1) + 1
            if wave == len(batch.waves):
                batch.waves.append({})
            batch.waves[wave][index] = pending
        return batch

    def _prepare(self, new: NewTask) -> _PendingInsert | TooLarge:
        token = self._context.tokens.take(_request_key(new.task))
        item = new_item(
            Row(task=new.task, due_at=new.due_at),
            payload_json=new.payload_json,
            token=token.text,
            retention=self._context.retention,
            in_default_partition=self._ends_soon(new),
        )
        limit = MAX_ITEM_BYTES - RESERVED_BYTES
        # Most are far from the limit: then nothing needs to be measured to say so.
        is_small = len(new.payload_json) + 12 * len(new.task.type) + _MAX_FIELDS <= limit
        if not is_small and (size := item_size(item)) > limit:
            # In terms of what the user can change.
            payload = item_size({"payload": item["payload"]})
            self._context.tokens.release([token])
            return TooLarge(payload, max(0, limit - (size - payload)))
        return _PendingInsert(new.task, token, item)

    def _ends_soon(self, new: NewTask) -> bool:
        """Whether it may have ended before the sweep comes by, and is sure to be there by then."""
        task, lag = new.task, self._sweep.lag
        waits = task.run_at is not None and task.run_at - task.created_at >= lag
        is_new = self._context.now() - task.created_at <= lag / 4
        return is_new and not waits and new.due_at is None

    async def _insert(
        self, wave: dict[int, _PendingInsert], batch: _CreateBatch, deadline: float
    ) -> None:
        answers = await self._context.writer.write(
            "create",
            [Insert(item=pending.item) for pending in wave.values()],
            deadline=deadline,
        )
        for (index, pending), answer in zip(wave.items(), answers, strict=True):
            task = pending.task
            self._context.costs.charge(task.id, answer, task_type=task.type)
            match answer.result:
                case Applied():
                    self._count_once(pending)
                    pending.stored = pending.item
                    batch.verdicts[index] = Created()
                case ConditionFailed(item):
                    pending.stored = item
                    batch.verdicts[index] = self._judge_existing(pending, item)
                case Invalid(message):
                    batch.verdicts[index] = TryAgain(message)
                case Unanswered(reason):
                    batch.failures.append(reason)

    def _judge_existing(self, pending: _PendingInsert, item: Item | None) -> CreateVerdict:
        if item is None:
            return TryAgain(f"task {pending.task.id} existed and was deleted meanwhile")
        if token_of(item) == pending.token.text:
            # Written by a try whose answer was lost; perhaps for an earlier submission with the
            # same idempotency key.
            self._count_once(pending)
            if all(item.get(name) == pending.item.get(name) for name in _SUBMITTED):
                return Created()
        try:
            return AlreadyExists(to_task(item))
        except MalformedItem as error:
            return TryAgain(f"the item of task {pending.task.id} is malformed: {error}")

    def _count_once(self, pending: _PendingInsert) -> None:
        if not pending.token.counted:
            self._context.counters.move(
                None,
                TaskStatus.PENDING,
                number=pending.token.number,
                created_at=pending.task.created_at,
            )
            pending.token.counted = True

    async def _reindex_late(
        self, wave: dict[int, _PendingInsert], batch: _CreateBatch, deadline: float
    ) -> None:
        """Move to OPEN what was so long on its way that the sweep may have passed its sort key
        already. It is answered for only then: until it is, the caller's repetition comes by
        here."""
        oldest = self._context.now() - self._sweep.lag / 2
        late = {
            pending.task.id: (index, update)
            for index, pending in wave.items()
            if isinstance(batch.verdicts.get(index), Created)
            and pending.task.created_at < oldest
            and pending.stored is not None
            for update in self._sweep.moves_of([pending.stored])
        }
        if not late:
            return
        for index, _ in late.values():
            del batch.verdicts[index]
        answers = await self._context.writer.write(
            "create",
            [update for _, update in late.values()],
            explain=False,
            deadline=deadline,
        )
        for (index, _), answer in zip(late.values(), answers, strict=True):
            if isinstance(answer.result, Unanswered):
                batch.failures.append(answer.result.reason)
            else:
                batch.verdicts[index] = Created()


def _request_key(task: Task) -> tuple[str, str]:
    return ("create", task.id)

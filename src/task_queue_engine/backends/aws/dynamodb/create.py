"""Creating tasks: new items, each inserted where its id is free.

Where a task is filed depends on when it will have ended: see `sweep`, which has to find it there
in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import trio

from task_queue_engine.backends.aws.dynamodb import schema as table
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Insert
from task_queue_engine.backends.aws.dynamodb.item_format import (
    Item,
    MalformedItem,
    item_size,
    new_item,
    to_task,
    token_of,
)
from task_queue_engine.backends.aws.dynamodb.sweep import Sweep
from task_queue_engine.backends.aws.dynamodb.table_client import TableCalls
from task_queue_engine.backends.aws.dynamodb.update import Count, Pay
from task_queue_engine.backends.aws.dynamodb.write_tokens import Token, Tokens
from task_queue_engine.backends.aws.dynamodb.writers import (
    Applied,
    ConditionFailed,
    Invalid,
    Unanswered,
    Writer,
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

_SUBMITTED = ("type", "payload", "payload_encoding", "created_at")


@dataclass(slots=True)
class _Creating:
    task: Task
    token: Token
    item: Item
    stored: Item | None = None
    """What lies in the table under its id, where that is known."""

    @property
    def question(self) -> tuple[str, str]:
        return ("create", self.task.id)


@dataclass(slots=True)
class _Call:
    verdicts: dict[int, CreateVerdict] = field(default_factory=dict)
    """By the index of the task. One without a verdict has not been answered for."""
    unanswered: list[BackendUnavailable] = field(default_factory=list)
    waves: list[dict[int, _Creating]] = field(default_factory=list)
    """Each id once in a wave."""


class Creator:
    """
    Args:
        retention: seconds after its end at which a task expires; 0: never.
        timeout: seconds that a call takes at most; it is not cancelled meanwhile.
    """

    def __init__(
        self,
        *,
        calls: TableCalls,
        writer: Writer,
        tokens: Tokens,
        sweep: Sweep,
        count: Count,
        pay: Pay,
        now: Callable[[], datetime],
        retention: float,
        timeout: float,
    ) -> None:
        self._calls = calls
        self._writer = writer
        self._tokens = tokens
        self._sweep = sweep
        self._count = count
        self._pay = pay
        self._now = now
        self._retention = retention
        self._timeout = timeout

    async def create(self, tasks: Sequence[NewTask]) -> list[CreateVerdict]:
        """As `TaskStore.create`.

        Raises:
            BackendUnavailable: none is known to have been created; the call may be repeated.
        """
        self._calls.count("create", len(tasks))
        await trio.lowlevel.checkpoint_if_cancelled()
        call = self._begin(tasks)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._timeout):
            for wave in call.waves:
                await self._insert(wave, call)
                await self._refile_late(wave, call)
        for wave in call.waves:
            for index, creating in wave.items():
                if index not in call.verdicts:
                    self._tokens.remember(creating.question, creating.token)
        if len(call.verdicts) == len(tasks):
            return [call.verdicts[index] for index in range(len(tasks))]
        reason = [*call.unanswered, BackendUnavailable("DynamoDB did not answer")][0]
        if not any(isinstance(verdict, Created) for verdict in call.verdicts.values()):
            raise reason
        return [call.verdicts.get(index, TryAgain(str(reason))) for index in range(len(tasks))]

    def _begin(self, tasks: Sequence[NewTask]) -> _Call:
        call = _Call()
        seen: dict[str, int] = {}
        for index, new in enumerate(tasks):
            creating = self._prepare(new)
            if isinstance(creating, TooLarge):
                call.verdicts[index] = creating
                continue
            wave = seen[new.task.id] = seen.get(new.task.id, -1) + 1
            if wave == len(call.waves):
                call.waves.append({})
            call.waves[wave][index] = creating
        return call

    def _prepare(self, new: NewTask) -> _Creating | TooLarge:
        token = self._tokens.take(("create", new.task.id))
        item = new_item(
            Row(task=new.task, due_at=new.due_at),
            payload_json=new.payload_json,
            token=token.text,
            retention=self._retention,
            on_routine=self._is_routine(new),
        )
        size = item_size(item)
        limit = table.MAX_ITEM_BYTES - table.RESERVED_BYTES
        if size > limit:
            # In terms of what the user can change.
            payload = item_size({"payload": item["payload"]})
            return TooLarge(payload, max(0, limit - (size - payload)))
        return _Creating(new.task, token, item)

    def _is_routine(self, new: NewTask) -> bool:
        """Whether it may have ended before the sweep comes by, and is sure to be there by then."""
        task, lag = new.task, self._sweep.lag
        waits = task.run_at is not None and task.run_at - task.created_at >= lag
        is_new = self._now() - task.created_at <= lag / 4
        return is_new and not waits and new.due_at is None

    async def _insert(self, wave: dict[int, _Creating], call: _Call) -> None:
        answers = await self._writer.write(
            "create", [Insert(item=creating.item) for creating in wave.values()]
        )
        for (index, creating), answer in zip(wave.items(), answers, strict=True):
            self._pay(creating.task.type, creating.task.id, answer)
            match answer.result:
                case Applied():
                    self._count_once(creating)
                    creating.stored = creating.item
                    call.verdicts[index] = Created()
                case ConditionFailed(item):
                    creating.stored = item
                    call.verdicts[index] = self._judge_existing(creating, item)
                case Invalid(message):
                    call.verdicts[index] = TryAgain(message)
                case Unanswered(reason):
                    call.unanswered.append(reason)

    def _judge_existing(self, creating: _Creating, item: Item | None) -> CreateVerdict:
        if item is None:
            return TryAgain(f"task {creating.task.id} existed and was deleted meanwhile")
        if token_of(item) == creating.token.text:
            # Written by a try whose answer was lost; perhaps for an earlier submission with the
            # same idempotency key.
            self._count_once(creating)
            if all(item.get(name) == creating.item.get(name) for name in _SUBMITTED):
                return Created()
        try:
            return AlreadyExists(to_task(item))
        except MalformedItem as error:
            return TryAgain(f"the item of task {creating.task.id} is malformed: {error}")

    def _count_once(self, creating: _Creating) -> None:
        if not creating.token.counted:
            self._count(None, TaskStatus.PENDING)
            creating.token.counted = True

    async def _refile_late(self, wave: dict[int, _Creating], call: _Call) -> None:
        """What was so long on its way that the sweep may have passed its place already. It is
        answered for only then: until it is, the caller's repetition comes by here."""
        oldest = self._now() - self._sweep.lag / 2
        late = {
            creating.task.id: (index, update)
            for index, creating in wave.items()
            if isinstance(call.verdicts.get(index), Created)
            and creating.task.created_at < oldest
            and creating.stored is not None
            for update in self._sweep.refilings([creating.stored])
        }
        if not late:
            return
        for index, _ in late.values():
            del call.verdicts[index]
        answers = await self._writer.write(
            "create", [update for _, update in late.values()], explain=False
        )
        for (index, _), answer in zip(late.values(), answers, strict=True):
            if isinstance(answer.result, Unanswered):
                call.unanswered.append(answer.result.reason)
            else:
                call.verdicts[index] = Created()

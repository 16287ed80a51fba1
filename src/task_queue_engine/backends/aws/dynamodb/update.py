"""Changing rows by the rules of `lifecycle`: write blindly where one condition says it all, else
read, decide with the pure function, and write conditionally on what was read, until it holds.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

import trio

from task_queue_engine.backends.aws.dynamodb import conditional_writes as writes
from task_queue_engine.backends.aws.dynamodb import item_format as items
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Update
from task_queue_engine.backends.aws.dynamodb.item_format import Item, MalformedItem
from task_queue_engine.backends.aws.dynamodb.table_client import TableCalls
from task_queue_engine.backends.aws.dynamodb.write_tokens import Token, Tokens, Transition
from task_queue_engine.backends.aws.dynamodb.writers import (
    Answer,
    Applied,
    ConditionFailed,
    Invalid,
    Unanswered,
    Writer,
)
from task_queue_engine.errors import BackendRefused, BackendUnavailable
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")

V = TypeVar("V")

_ROUNDS = 10
"""Tries of one change against others that write the same row; then the call fails."""


class Change(ABC, Generic[V]):
    """One row to be changed: what is asked, and how to answer it."""

    @property
    @abstractmethod
    def task_id(self) -> str: ...

    @property
    @abstractmethod
    def question(self) -> Hashable:
        """Equal for a repetition of the same call after its answer was lost."""

    def blind(self, now: datetime, token: str) -> tuple[Update, Transition] | None:
        """The write that needs no look at the row, and what it does to the counters."""
        return None

    def blindly_written(self, item: Item | None) -> V:
        """The verdict once `blind` was applied; `item` where it asked for it. For those that have a
        `blind`, and never asked of others."""
        raise NotImplementedError

    @abstractmethod
    def decide(self, row: Row | None, now: datetime) -> tuple[V, Row | None]:
        """The pure function of `lifecycle`."""

    def recognise(self, row: Row) -> V:
        """The verdict where the row is as an earlier, unanswered try has written it."""
        verdict, _ = self.decide(row, row.task.updated_at)
        return verdict

    def invalid(self, message: str) -> V | None:
        """What `decide` said cannot be stored: the verdict then, or None after asking for
        something smaller, to be tried once more.

        Raises:
            BackendRefused: neither is possible.
        """
        raise BackendRefused(f"task {self.task_id} cannot be written: {message}")


Count = Callable[[TaskStatus | None, TaskStatus | None], None]
Pay = Callable[[str | None, str, Answer], None]
"""(task type if known, task id, answer)"""


@dataclass(slots=True)
class _Doing(Generic[V]):
    change: Change[V]
    token: Token
    question: Hashable
    earlier: tuple[Transition | None, bool]
    """`written` and `counted` of an unanswered try."""
    write: Update | None = None
    transition: Transition = (None, None)
    decided: list[V] = field(default_factory=list)
    """The verdict to give once `write` is applied; empty for a blind one."""
    row: Row | None = None
    verdicts: list[V] = field(default_factory=list)
    trouble: BackendUnavailable | None = None

    @property
    def is_done(self) -> bool:
        return bool(self.verdicts) or self.trouble is not None


class Changer:
    """Carries out changes of many rows at once.

    Once the first write may have been sent, a call is not cancelled any more but takes at most
    `timeout` seconds: what was written is answered for and counted.
    """

    def __init__(
        self,
        *,
        calls: TableCalls,
        writer: Writer,
        tokens: Tokens,
        count: Count,
        pay: Pay,
        now: Callable[[], datetime],
        retention: float,
        timeout: float,
    ) -> None:
        self._calls = calls
        self._writer = writer
        self._tokens = tokens
        self._count = count
        self._pay = pay
        self._now = now
        self._retention = retention
        self._timeout = timeout

    async def carry_out(self, purpose: str, changes: Sequence[Change[V]]) -> list[V]:
        """One verdict each. Changes of the same row take effect in their order.

        Raises:
            BackendUnavailable: some were not answered; the call may be repeated.
        """
        if not changes:
            return []
        self._calls.count(purpose, len(changes))
        await trio.lowlevel.checkpoint_if_cancelled()
        doing = [self._begin(change) for change in changes]
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._timeout):
            in_trouble: dict[str, BackendUnavailable] = {}
            for wave in _waves(doing):
                for each in wave:
                    # Order is kept: nothing overtakes a write that may be on its way.
                    each.trouble = in_trouble.get(each.change.task_id)
                await self._carry_out_wave(purpose, [each for each in wave if not each.is_done])
                in_trouble |= {
                    each.change.task_id: each.trouble for each in wave if each.trouble is not None
                }
        trouble = [each.trouble for each in doing if each.trouble is not None]
        if trouble or not all(each.verdicts for each in doing):
            # Of several equal questions the first is the one that may have been carried out.
            for each in reversed(doing):
                self._tokens.remember(each.question, each.token)
            raise (
                trouble[0]
                if trouble
                else BackendUnavailable(f"DynamoDB did not answer within {self._timeout:g} s")
            )
        return [each.verdicts[0] for each in doing]

    def _begin(self, change: Change[V]) -> _Doing[V]:
        question = change.question
        token = self._tokens.take(question)
        return _Doing(change, token, question, (token.written, token.counted))

    async def _carry_out_wave(self, purpose: str, wave: Sequence[_Doing[V]]) -> None:
        now = self._now()
        unread: list[_Doing[V]] = []
        for each in wave:
            blind = each.change.blind(now, each.token.text)
            if blind is None:
                unread.append(each)
            else:
                each.write, each.transition = blind
        if unread:
            await self._read(purpose, unread, now)
        for _ in range(_ROUNDS):
            left = [each for each in wave if not each.is_done]
            if not left:
                return
            await self._write(purpose, left)
        for each in wave:
            if not each.is_done:
                each.trouble = BackendUnavailable(
                    f"task {each.change.task_id} was changed by others {_ROUNDS} times in a row"
                )

    async def _read(self, purpose: str, unread: Sequence[_Doing[V]], now: datetime) -> None:
        try:
            found = await self._calls.get(purpose, [each.change.task_id for each in unread])
        except BackendUnavailable as error:
            for each in unread:
                each.trouble = error
            return
        for each in unread:
            self._decide(each, found.get(each.change.task_id), now)

    async def _write(self, purpose: str, left: Sequence[_Doing[V]]) -> None:
        prepared = [(each, each.write) for each in left if each.write is not None]
        for each, _ in prepared:
            each.token.written, each.token.counted = each.transition, False
        answers = await self._writer.write(purpose, [write for _, write in prepared])
        now = self._now()
        to_read: list[_Doing[V]] = []
        for (each, _), answer in zip(prepared, answers, strict=True):
            self._pay(None if each.row is None else each.row.task.type, each.change.task_id, answer)
            match answer.result:
                case Applied(item):
                    self._applied(each, item)
                case ConditionFailed(item):
                    self._decide(each, item, now)
                case Unanswered(reason):
                    each.trouble = reason
                case Invalid(message):
                    if self._is_to_be_read(each, message):
                        to_read.append(each)
        if to_read:
            await self._read(purpose, to_read, now)

    def _applied(self, each: _Doing[V], item: Item | None) -> None:
        self._count(*each.transition)
        each.token.counted = True
        if each.decided:
            each.verdicts = each.decided
            return
        try:
            each.verdicts = [each.change.blindly_written(item)]
        except MalformedItem as error:
            self._malformed(each, error)

    def _decide(self, each: _Doing[V], item: Item | None, now: datetime) -> None:
        """What next, the row being as in `item`."""
        try:
            row = None if item is None else items.to_row(item)
        except MalformedItem as error:
            self._malformed(each, error)
            return
        if item is not None and row is not None and items.token_of(item) == each.token.text:
            self._recognised(each, row)
            return
        verdict, wanted = each.change.decide(row, now)
        each.row = row
        if wanted is None or item is None or row is None:
            each.verdicts = [verdict]
            return
        each.write = writes.change(item, wanted, each.token.text, retention=self._retention)
        each.transition = (
            row.task.status if items.is_counted(item) else None,
            wanted.task.status,
        )
        each.decided = [verdict]

    def _recognised(self, each: _Doing[V], row: Row) -> None:
        written, counted = each.earlier
        if written is None or written[1] is not row.task.status:
            written, counted = each.transition, False
        if not counted:
            self._count(*written)
        each.token.written, each.token.counted = written, True
        each.row = row
        each.verdicts = each.decided or [each.change.recognise(row)]

    def _is_to_be_read(self, each: _Doing[V], message: str) -> bool:
        """After a write that can never succeed."""
        if each.decided:
            verdict = each.change.invalid(message)
            if verdict is not None:
                each.verdicts = [verdict]
                return False
        # A blind one may merely have met an item that is not one of ours.
        each.write = None
        each.decided = []
        return True

    def _malformed(self, each: _Doing[V], error: MalformedItem) -> None:
        """As if it were not there: what is asked about it cannot be answered otherwise."""
        logger.error("the item of task %s is malformed: %s", each.change.task_id, error)
        verdict, _ = each.change.decide(None, self._now())
        each.verdicts = [verdict]


def _waves(doing: Sequence[_Doing[V]]) -> list[list[_Doing[V]]]:
    """Each row once in a wave; a row's changes in their order."""
    waves: list[list[_Doing[V]]] = []
    seen: dict[str, int] = {}
    for each in doing:
        number = seen.get(each.change.task_id, 0)
        seen[each.change.task_id] = number + 1
        if number == len(waves):
            waves.append([])
        waves[number].append(each)
    return waves

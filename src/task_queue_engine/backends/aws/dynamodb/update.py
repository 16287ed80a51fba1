"""Changing rows by the rules of `lifecycle`: write blindly where one condition says it all, else
read, decide with the pure function, and write conditionally on what was read, until it holds.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from datetime import datetime
from typing import Generic, TypeVar

import msgspec
import trio

from task_queue_engine.backends.aws.dynamodb import conditional_writes
from task_queue_engine.backends.aws.dynamodb.conditional_writes import Update
from task_queue_engine.backends.aws.dynamodb.item_format import (
    Item,
    MalformedItem,
    created_at_of,
    is_counted,
    to_row,
    token_of,
)
from task_queue_engine.backends.aws.dynamodb.table_client import RETRY_AFTER_REFUSAL
from task_queue_engine.backends.aws.dynamodb.write_context import WriteContext
from task_queue_engine.backends.aws.dynamodb.write_tokens import StatusChange, WriteToken
from task_queue_engine.backends.aws.dynamodb.writers import (
    TRIES,
    Applied,
    ConditionFailed,
    Invalid,
    Unanswered,
)
from task_queue_engine.backends.base import TryAgain
from task_queue_engine.errors import BackendRefused, BackendUnavailable
from task_queue_engine.lifecycle import Row
from task_queue_engine.task import TaskStatus

logger = logging.getLogger("task_queue_engine.dynamodb")

V = TypeVar("V")

# Tries of one update against others that write the same row; then the call fails. In every round
# that is lost another engine has written: ten in a row mean that something else is wrong.
_ROUNDS = 10

# With pauses of 0.1 and 0.2 s at most: others wait for their answers.
_TRIES_BESIDE_OTHERS = 3


class RowUpdate(ABC, Generic[V]):
    """One row to be updated: what is asked, and how to answer it.

    Args:
        request_key: equal for a repetition of the same call after its answer was lost.
    """

    changes_status = True
    """It may; what the counters count."""

    def __init__(self, task_id: str, request_key: Hashable) -> None:
        self.task_id = task_id
        self.request_key = request_key

    def blind(self, now: datetime, token: str) -> tuple[Update, StatusChange] | None:
        """The write that needs no look at the row, and what it does to the counters."""
        return None

    def blindly_written(self, item: Item | None) -> V:
        """The verdict once `blind` was applied; `item` where it asked for it. For those that have a
        `blind`, and never asked of others."""
        raise NotImplementedError

    @abstractmethod
    def decide(self, row: Row | None, now: datetime) -> tuple[V, Row | None]:
        """The pure function of `lifecycle`."""

    @abstractmethod
    def recognise(self, row: Row) -> V:
        """The verdict where the row is as an earlier, unanswered try has written it."""

    def invalid(self, message: str) -> V | None:
        """What `decide` said cannot be stored: the verdict then, or None after asking for
        something smaller, to be tried once more.

        Raises:
            BackendRefused: neither is possible.
        """
        raise BackendRefused(f"task {self.task_id} cannot be written: {message}")


class _PendingUpdate(msgspec.Struct, Generic[V]):
    update: RowUpdate[V]
    token: WriteToken
    earlier: tuple[StatusChange | None, bool]
    """`written` and `counted` of an unanswered try."""
    write: Update | None = None
    status_change: StatusChange = (None, None)
    decided: V | None = None
    """The verdict to give once `write` is applied; None for a blind one."""
    row: Row | None = None
    verdict: V | None = None
    failure: BackendUnavailable | None = None

    @property
    def is_done(self) -> bool:
        return self.verdict is not None or self.failure is not None


class RowUpdater:
    """Carries out updates of many rows at once.

    Once the first write may have been sent, a call is not cancelled any more but takes at most
    `context.timeout` seconds: what was written is answered for and counted.
    """

    def __init__(self, context: WriteContext) -> None:
        self._context = context

    async def carry_out(self, purpose: str, updates: Sequence[RowUpdate[V]]) -> list[V]:
        """One verdict each. Updates of the same row take effect in their order.

        Raises:
            BackendUnavailable: some were not answered; the call may be repeated.
        """
        pending = await self._carry_out(purpose, updates, TRIES)
        verdicts = [each.verdict for each in pending if each.verdict is not None]
        if len(verdicts) < len(pending):
            self._remember(pending)
            raise self._first_failure(pending)
        return verdicts

    async def carry_out_each(
        self, purpose: str, updates: Sequence[RowUpdate[V]]
    ) -> list[V | TryAgain]:
        """The same, where a write that DynamoDB leaves undone is not to hold up the others: it is
        tried again for a moment only, and answered `TryAgain`.

        Raises:
            BackendUnavailable: none was answered, or the table is not to be written to, which
                passes for no row alone; the call may be repeated.
        """
        pending = await self._carry_out(purpose, updates, _TRIES_BESIDE_OTHERS)
        left = [each for each in pending if each.verdict is None]
        if not left:
            return [each.verdict for each in pending if each.verdict is not None]
        failure = self._first_failure(left)
        if len(left) == len(pending) or failure.retry_after >= RETRY_AFTER_REFUSAL:
            self._remember(pending)
            raise failure
        self._remember(left)
        return [
            TryAgain(str(each.failure or failure)) if each.verdict is None else each.verdict
            for each in pending
        ]

    async def _carry_out(
        self, purpose: str, updates: Sequence[RowUpdate[V]], tries: int
    ) -> list[_PendingUpdate[V]]:
        if not updates:
            return []
        context = self._context
        context.table.count(purpose, len(updates))
        await trio.lowlevel.checkpoint_if_cancelled()
        pending = [self._begin(update) for update in updates]
        if any(update.changes_status for update in updates):
            context.counters.about_to_write()
        try:
            await self._carry_out_all(purpose, pending, tries)
        finally:
            context.tokens.release([each.token for each in pending])
        return pending

    def _remember(self, pending: Sequence[_PendingUpdate[V]]) -> None:
        # Of several equal requests the first is the one that may have been carried out.
        for each in reversed(pending):
            self._context.tokens.remember(each.update.request_key, each.token)

    def _first_failure(self, pending: Sequence[_PendingUpdate[V]]) -> BackendUnavailable:
        for each in pending:
            if each.failure is not None:
                return each.failure
        return BackendUnavailable(f"DynamoDB did not answer within {self._context.timeout:g} s")

    async def _carry_out_all(
        self, purpose: str, pending: Sequence[_PendingUpdate[V]], tries: int
    ) -> None:
        # The writer sees to it that the call is not cancelled before, and is over then.
        deadline = trio.current_time() + self._context.timeout
        failed: dict[str, BackendUnavailable] = {}
        for wave in _waves(pending):
            if failed:
                for each in wave:
                    # Order is kept: nothing overtakes a write that may be on its way.
                    each.failure = failed.get(each.update.task_id)
                wave = [each for each in wave if not each.is_done]
            await self._carry_out_wave(purpose, wave, deadline, tries)
            failed |= {
                each.update.task_id: each.failure for each in wave if each.failure is not None
            }

    def _begin(self, update: RowUpdate[V]) -> _PendingUpdate[V]:
        token = self._context.tokens.take(update.request_key)
        return _PendingUpdate(update, token, (token.written, token.counted))

    async def _carry_out_wave(
        self, purpose: str, wave: Sequence[_PendingUpdate[V]], deadline: float, tries: int
    ) -> None:
        now = self._context.now()
        unread: list[_PendingUpdate[V]] = []
        for each in wave:
            blind = each.update.blind(now, each.token.text)
            if blind is None:
                unread.append(each)
            else:
                each.write, each.status_change = blind
        if unread:
            await self._read(purpose, unread, now, deadline)
        left = [each for each in wave if not each.is_done] if unread else wave
        for _ in range(_ROUNDS):
            if not left:
                return
            await self._write(purpose, left, deadline, tries)
            left = [each for each in left if not each.is_done]
        for each in left:
            each.failure = BackendUnavailable(
                f"task {each.update.task_id} was changed by others {_ROUNDS} times in a row"
            )

    async def _read(
        self, purpose: str, unread: Sequence[_PendingUpdate[V]], now: datetime, deadline: float
    ) -> None:
        failure = BackendUnavailable(f"DynamoDB did not answer within {self._context.timeout:g} s")
        with trio.CancelScope(shield=True, deadline=deadline):
            try:
                found = await self._context.table.get(
                    purpose, [each.update.task_id for each in unread]
                )
            except BackendUnavailable as error:
                failure = error
            else:
                for each in unread:
                    self._decide(each, found.get(each.update.task_id), now)
                return
        for each in unread:
            each.failure = failure

    async def _write(
        self, purpose: str, left: Sequence[_PendingUpdate[V]], deadline: float, tries: int
    ) -> None:
        prepared = [(each, each.write) for each in left if each.write is not None]
        for each, _ in prepared:
            # A blind write has not looked at the row: what an earlier try wrote there, and whether
            # that is counted, is still to be known once this one gets no answer.
            if each.decided is not None or each.token.written is None:
                each.token.written, each.token.counted = each.status_change, False
        answers = await self._context.writer.write(
            purpose,
            [write for _, write in prepared],
            deadline=deadline,
            tries=tries,
        )
        now = self._context.now()
        to_read: list[_PendingUpdate[V]] = []
        for (each, _), answer in zip(prepared, answers, strict=True):
            task_type = None if each.row is None else each.row.task.type
            self._context.costs.charge(each.update.task_id, answer, task_type=task_type)
            match answer.result:
                case Applied(item):
                    self._applied(each, item)
                case ConditionFailed(item):
                    self._decide(each, item, now)
                case Unanswered(reason):
                    each.failure = reason
                case Invalid(message):
                    if self._is_to_be_read(each, message):
                        to_read.append(each)
        if to_read:
            await self._read(purpose, to_read, now, deadline)

    def _applied(self, each: _PendingUpdate[V], item: Item | None) -> None:
        self._count(each, item)
        each.token.written, each.token.counted = each.status_change, True
        if each.decided is not None:
            each.verdict = each.decided
            return
        try:
            each.verdict = each.update.blindly_written(item)
        except MalformedItem as error:
            self._malformed(each, error)

    def _count(self, each: _PendingUpdate[V], item: Item | None) -> None:
        """A change that has just been made; `item` where a blind write asked for it."""
        counters = self._context.counters
        old, new = each.status_change
        if new is old:
            return
        task_id = each.update.task_id
        created_at = None if each.row is None else each.row.task.created_at
        if new is TaskStatus.PROCESSING:
            created_at = created_at or created_at_of(item)
            counters.started(task_id, created_at)
        else:
            created_at = counters.ended(task_id) or created_at
        # The row says what it was before: see `crash_recovery`.
        starts = old is TaskStatus.PENDING and new is TaskStatus.PROCESSING
        ends = old is TaskStatus.PROCESSING and new is not None and new.is_terminal
        counters.move(
            old,
            new,
            number=each.token.number,
            created_at=created_at if starts or ends else None,
        )

    def _decide(self, each: _PendingUpdate[V], item: Item | None, now: datetime) -> None:
        """What next, the row being as in `item`."""
        try:
            row = None if item is None else to_row(item)
        except MalformedItem as error:
            self._malformed(each, error)
            return
        if item is not None and row is not None and token_of(item) == each.token.text:
            self._recognised(each, row)
            return
        verdict, wanted = each.update.decide(row, now)
        each.row = row
        if wanted is None or item is None or row is None:
            each.verdict = verdict
            return
        each.write = conditional_writes.change(
            item, wanted, each.token.text, retention=self._context.retention
        )
        each.status_change = (
            row.task.status if is_counted(item) else None,
            wanted.task.status,
        )
        each.decided = verdict

    def _recognised(self, each: _PendingUpdate[V], row: Row) -> None:
        written, counted = each.earlier
        if written is None or written[1] is not row.task.status:
            written, counted = each.status_change, False
        if not counted:
            self._context.counters.move(*written, number=each.token.number)
        each.token.written, each.token.counted = written, True
        each.row = row
        each.verdict = each.update.recognise(row) if each.decided is None else each.decided

    def _is_to_be_read(self, each: _PendingUpdate[V], message: str) -> bool:
        """After a write that can never succeed."""
        if each.decided is not None:
            each.verdict = each.update.invalid(message)
            if each.verdict is not None:
                return False
        # A blind one may merely have met an item that is not one of ours.
        each.write = each.decided = None
        return True

    def _malformed(self, each: _PendingUpdate[V], error: MalformedItem) -> None:
        """As if it were not there: what is asked about it cannot be answered otherwise."""
        logger.error("the item of task %s is malformed: %s", each.update.task_id, error)
        each.verdict, _ = each.update.decide(None, self._context.now())


def _waves(pending: Sequence[_PendingUpdate[V]]) -> list[list[_PendingUpdate[V]]]:
    """Each row once in a wave; a row's updates in their order."""
    if len({each.update.task_id for each in pending}) == len(pending):
        return [list(pending)]
    waves: list[list[_PendingUpdate[V]]] = []
    seen: dict[str, int] = {}
    for each in pending:
        number = seen.get(each.update.task_id, 0)
        seen[each.update.task_id] = number + 1
        if number == len(waves):
            waves.append([])
        waves[number].append(each)
    return waves

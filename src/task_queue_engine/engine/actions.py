"""Actions on many tasks: the handler of the engine's own task type.

It goes over the set in pieces. Which tasks the next piece has is written down, durably and fenced,
before they are touched; an attempt that follows a kill knows what may have been done, does that
again, and goes on. docs/adr/0047 says what the set is.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import trio
from msgspec.structs import replace

from task_queue_engine.attempt_record import AttemptOutcome, AttemptRecord
from task_queue_engine.backends.base import Backend, ListQuery, TryAgain
from task_queue_engine.clock import Clock
from task_queue_engine.context import TaskContext
from task_queue_engine.engine.action_steps import ActionSteps, Outcome
from task_queue_engine.errors import BackendUnavailable, InvalidQuery
from task_queue_engine.lifecycle import Fenced, Progress
from task_queue_engine.limits import MAX_PAGE
from task_queue_engine.registry import OwnTypes
from task_queue_engine.retry import Backoff, Discard, Snooze
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_actions import (
    ACTION_TYPE,
    APPLIES_TO,
    MAX_KEPT_IDS,
    MAX_REFUSALS,
    ActionProgress,
    ActionRequest,
    Matching,
    TaskAction,
)

logger = logging.getLogger("task_queue_engine.actions")

# Tasks of one piece, which is one transaction on SQLite: 5 ms for which other writers wait.
PIECE = 100
# Tasks counted by one call: 15 ms on SQLite, where the index says all; elsewhere the store stops
# earlier.
_COUNTED = 200_000
# Seconds that one attempt goes on for, and that it rests for then. It is taken before all others:
# so a worker that is alone has a quarter of its time for them, and none waits for more than half a
# minute.
_TURN = 30.0
_REST = 10.0
# Seconds of an attempt at the very most: a backend may hold up its last piece.
_TIMEOUT = 300.0
# Times that its worker may die. A backend that is away costs none.
_MAX_ATTEMPTS = 25
# Seconds for which SQS hides what another looks at, about.
_LOOKED_AT_FOR = 2.0
# And what a worker has taken that died: the lease of a redrive's take.
_HIDDEN_FOR = 60.0
# Outcomes of an attempt that gave nothing back.
_DIED = frozenset({AttemptOutcome.CRASHED, AttemptOutcome.LOST_LEASE})

# Seconds until a backend that is away is asked again.
_AWAY = 5.0

# In place of a cursor: the last piece has been found. No cursor of a listing is spelled so.
_END = "end"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Ids of tasks; of dead letters for a redrive."""

    ids: tuple[str, ...]
    cursor: str
    """Where the next one begins, or `_END`."""


@dataclass(slots=True)
class _Place:
    """How far an attempt has come."""

    said: ActionProgress | None = None


class Actions:
    """
    Args:
        queue: whose dead letters are meant where the filter names none.
    """

    def __init__(self, backend: Backend, *, steps: ActionSteps, queue: str, clock: Clock) -> None:
        self._backend = backend
        self._store = backend.store
        self._steps = steps
        self._queue = queue
        self._clock = clock

    def types(self) -> OwnTypes:
        """With this handler."""
        own = OwnTypes()
        own.task(
            ACTION_TYPE,
            max_attempts=_MAX_ATTEMPTS,
            timeout=_TIMEOUT,
            backoff=Backoff(base=1, cap=60),
        )(self.run)
        return own

    async def count(self, request: ActionRequest, *, within: float) -> Matching:
        """How many tasks it would be for now, counted for so many seconds.

        Raises:
            InvalidQuery, BackendUnavailable
        """
        matching = await self._count(request, within)
        if matching.matching or matching.at_least or request.action is not TaskAction.REDRIVE:
            return matching
        # None, as far as could be seen: SQS shows a dead letter to one reader at a time. The action
        # waits for what is hidden; what is there again is counted.
        if await self._are_hidden(request):
            return Matching(matching=0, at_least=True)
        return await self._count(request, within)

    async def _count(self, request: ActionRequest, within: float) -> Matching:
        deadline = trio.current_time() + within
        number, found = 0, 0
        async with aclosing(self._numbers(request, None)) as numbers:
            async for found, is_last in numbers:
                number += found
                if not is_last and trio.current_time() >= deadline:
                    return Matching(matching=number, at_least=True)
        return Matching(matching=number)

    async def run(self, payload: Any, context: TaskContext) -> Any:
        """One attempt: from where the last one was, for half a minute."""
        place = _Place()
        try:
            return await self._go_on(ActionRequest.decode(payload), context, place)
        except InvalidQuery as error:
            raise Discard(str(error)) from error
        except BackendUnavailable as error:
            raise Snooze(_AWAY, str(error)) from error
        finally:
            # For the attempt's record, which the next one reads. Noted even where this attempt is
            # cancelled; of one that is killed the row says it.
            if place.said is not None:
                await context.progress(place.said.encode())

    async def _go_on(self, request: ActionRequest, context: TaskContext, place: _Place) -> Any:
        ends = trio.current_time() + _TURN
        (task,) = await self._store.get([context.task_id])
        if task is None:
            raise Discard("its task is gone")
        began = task.created_at
        history = await self._store.history(context.task_id)
        before = [
            attempt
            for attempt in (history.attempts if history is not None else ())
            if attempt.number < context.attempt
        ]
        if not before and await self._are_hidden(request):
            raise Snooze(_LOOKED_AT_FOR, "another looks at dead letters, which hides them")
        if before and before[-1].outcome in _DIED and await self._are_hidden(request, or_may=True):
            raise Snooze(_HIDDEN_FOR, "dead letters are still with a worker that has died")
        said = _latest(before)
        if said is None:
            said = ActionProgress()
            async with aclosing(self._numbers(request, began)) as numbers:
                async for found, _ in numbers:
                    said = replace(said, of=said.of + found)
        place.said = said
        if said.piece:
            said = place.said = await self._do(
                request, said, said.piece, again_since=said.piece_at or began
            )
        has_begun = False
        async with aclosing(self._pieces(request, began, said.cursor)) as pieces:
            async for piece in pieces:
                if has_begun and trio.current_time() >= ends:
                    raise Snooze(_REST, "other tasks have their turn; it goes on after that")
                has_begun = True
                said = place.said = replace(
                    said, cursor=piece.cursor, piece=piece.ids, piece_at=self._clock.now()
                )
                await self._write(context, said)
                said = place.said = await self._do(request, said, piece.ids)
        come_to = said.done + said.failed + said.skipped
        # What had changed before it was come to. More than were counted are what was hidden then.
        of = max(said.of, come_to)
        missed = said.skipped + of - come_to
        said = place.said = replace(said, skipped=missed, of=of, cursor=None, piece=())
        logger.info(
            "%s by task %s: done=%d failed=%d skipped=%d of=%d",
            request.action, context.task_id, said.done, said.failed, said.skipped, said.of,
        )  # fmt: skip
        return said.encode()

    # --- where it is ------------------------------------------------------------------------

    async def _are_hidden(self, request: ActionRequest, *, or_may: bool = False) -> bool:
        """Whether there are dead letters that a look does not show: they would be left out.
        `or_may`: or so many that it cannot be said."""
        if request.action is not TaskAction.REDRIVE:
            return False
        queue = self._backend.queue(self._queue_of(request))
        seen = len((await queue.dead_letters.page(limit=MAX_PAGE)).dead_letters)
        return (or_may or seen < MAX_PAGE) and (await queue.depth()).dead > seen

    async def _write(self, context: TaskContext, said: ActionProgress) -> None:
        """Durably. Raises where another attempt has taken over, and this one must stop."""
        progress = Progress(
            task_id=context.task_id, attempt=context.attempt, value=said.encode(), record=None
        )
        (verdict,) = await self._store.record([progress])
        if isinstance(verdict, TryAgain):
            raise BackendUnavailable(verdict.reason)
        if isinstance(verdict, Fenced):
            raise Discard("another attempt goes on with this action")

    async def _do(
        self,
        request: ActionRequest,
        said: ActionProgress,
        ids: Sequence[str],
        *,
        again_since: datetime | None = None,
    ) -> ActionProgress:
        """A piece, and what has been done with it.

        Args:
            again_since: it may have been done since then, by an attempt that died.
        """
        outcome = Outcome()
        if request.ids is not None and request.action is not TaskAction.REDRIVE:
            ids = await self._within(request, ids, outcome, again=again_since is not None)
        found = await self._steps.carry_out(
            request.action, ids, queue=self._queue_of(request), again_since=again_since
        )
        skipped = [*outcome.skipped, *found.skipped]
        kept = said.ids
        if request.action is TaskAction.CANCEL:
            kept = (*kept, *found.done)[:MAX_KEPT_IDS]
        return replace(
            said,
            done=said.done + len(found.done),
            failed=said.failed + len(found.failed),
            skipped=said.skipped + len(skipped),
            refusals=(*said.refusals, *found.failed, *skipped)[:MAX_REFUSALS],
            ids=kept,
            piece=(),
            piece_at=None,
        )

    async def _within(
        self, request: ActionRequest, ids: Sequence[str], outcome: Outcome, *, again: bool
    ) -> list[str]:
        """Those that the one who asks may name."""
        if request.types is None:
            return list(ids)
        left: list[str] = []
        for task_id, task in zip(ids, await self._store.get(ids), strict=True):
            if (task is None and again) or (task is not None and request.is_within(task)):
                left.append(task_id)
            else:
                outcome.skip(task_id, "there is no such task")
        return left

    # --- the set ----------------------------------------------------------------------------

    async def _numbers(
        self, request: ActionRequest, began: datetime | None
    ) -> AsyncGenerator[tuple[int, bool], None]:
        """Of tasks in the set, a look at a time; and whether that was the last."""
        if request.action is TaskAction.REDRIVE:
            # Counted in one walk, also for an action that begins.
            async with aclosing(self._dead_letters(request, None)) as letters:
                async for piece in letters:
                    yield len(piece.ids), piece.cursor == _END
            return
        if request.ids is not None:
            yield len(set(request.ids)), True
            return
        query = dataclasses.replace(self._query(request, began), limit=_COUNTED)
        while True:
            count = await self._store.count_tasks(query)
            yield count.number, count.next_cursor is None
            if count.next_cursor is None:
                return
            query = dataclasses.replace(query, cursor=count.next_cursor)

    def _pieces(
        self, request: ActionRequest, began: datetime, cursor: str | None
    ) -> AsyncGenerator[_Piece, None]:
        if request.action is TaskAction.REDRIVE:
            return self._dead_letters(request, began)
        if request.ids is not None:
            return self._named(request.ids, cursor)
        return self._listed(request, began, cursor)

    async def _named(self, ids: Sequence[str], cursor: str | None) -> AsyncGenerator[_Piece, None]:
        await trio.lowlevel.checkpoint()
        wanted = tuple(dict.fromkeys(ids))
        if cursor == _END:
            return
        for start in range(int(cursor or 0), len(wanted), PIECE):
            end = start + PIECE
            yield _Piece(wanted[start:end], str(end) if end < len(wanted) else _END)

    def _query(self, request: ActionRequest, began: datetime | None) -> ListQuery:
        which = request.which
        if began is not None:
            before = min(which.created_before or began, began)
            which = dataclasses.replace(which, created_before=before)
        return ListQuery(**which.members(), among=APPLIES_TO[request.action], limit=PIECE)

    async def _listed(
        self, request: ActionRequest, began: datetime, cursor: str | None
    ) -> AsyncGenerator[_Piece, None]:
        query = dataclasses.replace(self._query(request, began), cursor=cursor)
        # Tasks that are not over go from one status to the other and back all the time.
        by_status = request.which.status is not None or request.which.error is not None
        is_strict = by_status or request.action is not TaskAction.CANCEL
        while query.cursor != _END:
            page = await self._store.list_tasks(query)
            ids = tuple(
                task.id
                for task in page.tasks
                if request.is_within(task)
                and (not is_strict or _since(task) <= began)
                # Whoever means an action says so.
                and (task.type != ACTION_TYPE or request.which.type == ACTION_TYPE)
            )
            if ids:
                yield _Piece(ids, page.next_cursor or _END)
            if page.next_cursor is None:
                return
            query = dataclasses.replace(query, cursor=page.next_cursor)

    def _queue_of(self, request: ActionRequest) -> str:
        return request.which.queue or self._queue

    async def _dead_letters(
        self, request: ActionRequest, began: datetime | None
    ) -> AsyncGenerator[_Piece, None]:
        """Of tasks that pass. Always from the newest: what was redriven is no longer there. A queue
        that shows some of many (SQS) is looked at until it shows nothing new."""
        dead_letters = self._backend.queue(self._queue_of(request)).dead_letters
        seen: set[str] = set()
        while True:
            cursor: str | None = None
            found_before = len(seen)
            while cursor != _END:
                page = await dead_letters.page(limit=PIECE, cursor=cursor)
                cursor = page.next_cursor or _END
                new = [
                    each
                    for each in page.dead_letters
                    if each.id not in seen and (began is None or each.at <= began)
                ]
                tasks = await self._store.get([each.task_id for each in new]) if new else []
                ids = tuple(
                    each.id
                    for each, task in zip(new, tasks, strict=True)
                    if task is not None and self._is_redriven(request, task)
                )
                seen.update(ids)
                if ids:
                    yield _Piece(ids, cursor)
            if began is None or len(seen) == found_before:
                return

    @staticmethod
    def _is_redriven(request: ActionRequest, task: Task) -> bool:
        meant = request.which.passes(task) if request.ids is None else task.id in request.ids
        return meant and request.is_within(task) and task.status is TaskStatus.FAILED


def _latest(attempts: Sequence[AttemptRecord]) -> ActionProgress | None:
    """What the last attempt that wrote something has written. (A new attempt's row begins without a
    progress.)"""
    for attempt in reversed(attempts):
        if attempt.progress is not None:
            return msgspec.convert(attempt.progress, ActionProgress)
    return None


def _since(task: Task) -> datetime:
    """When it came into the status that it has."""
    if task.status.is_terminal:
        return task.finished_at or task.updated_at
    if task.status is TaskStatus.PROCESSING:
        return task.started_at or task.updated_at
    return task.updated_at

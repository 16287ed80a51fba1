"""Redriving: dead letters back to work. Where store and queue are one, a dead letter goes in the
transaction that reopens its task; a crash right after it leaves a task without a message, which the
reconciler finds. Where they are two services the task is on its way again before its dead letter is
deleted: a crash in between leaves it, and doing it again is harmless."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import trio

from task_queue_engine.actors.batching import in_batches
from task_queue_engine.backends.base import (
    Backend,
    DeadLetter,
    DeadLetterPage,
    Done,
    LeaseLost,
    TaskStore,
)
from task_queue_engine.clock import Clock
from task_queue_engine.engine.api import RedriveReport
from task_queue_engine.engine.reopening import is_pending, reopen_and_send
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import Reopened
from task_queue_engine.task import Task


async def without_stale(page: DeadLetterPage, store: TaskStore) -> DeadLetterPage:
    """Without those whose tasks have been retried since. A look by id for each of the page."""
    left: list[DeadLetter] = []
    for batch in in_batches(page.dead_letters, store.max_batch):
        tasks = await store.get([each.task_id for each in batch])
        left += [each for each, task in zip(batch, tasks, strict=True) if not each.is_stale(task)]
    return replace(page, dead_letters=tuple(left))


@dataclass(slots=True)
class _Tally:
    redriven: int = 0
    skipped: int = 0
    refused: int = 0

    def report(self, *, not_found: int = 0, remaining: int = 0) -> RedriveReport:
        return RedriveReport(
            redriven=self.redriven,
            skipped=self.skipped,
            refused=self.refused,
            not_found=not_found,
            remaining=remaining,
        )


class Redriver:
    """Redrives the dead letters of one queue, a batch at a time. Calls that overlap take turns at
    the batches, and what one has done is no longer there for the others; of two engines both may
    send what both have taken, and the one that deletes a dead letter counts it."""

    def __init__(
        self,
        backend: Backend,
        queue: str,
        *,
        clock: Clock,
        changed: Callable[[Task], object],
    ) -> None:
        self._queue = backend.queue(queue)
        self._store = backend.store
        self._go_with_tasks = backend.steps(queue).is_one_transaction
        self._changed = changed
        self._clock = clock
        self._size = min(self._queue.max_batch, self._store.max_batch)
        self._turn = trio.Lock()

    async def some(
        self,
        ids: Sequence[str],
        *,
        within: float = math.inf,
        of_type: Callable[[str], bool] | None = None,
    ) -> RedriveReport:
        """Those with these ids.

        Args:
            of_type: those of tasks of other types are left alone, as if there were none.
            within: seconds after which no further batch is begun; `remaining` are left then.

        Raises:
            BackendUnavailable: part of the work may be done; the rest is still in the dead-letter
                queue.
        """
        deadline = trio.current_time() + within
        wanted = list(dict.fromkeys(ids))
        # One search for all of them, which on SQS is what takes long.
        there = await self._queue.dead_letters.take(limit=len(wanted), ids=wanted)
        found = [each.id for each in there if of_type is None or of_type(each.task_type)]
        tally = _Tally()
        done = 0
        for batch in in_batches(found, self._size):
            if done and trio.current_time() >= deadline:
                break
            async with self._turn:
                dead_letters = await self._queue.dead_letters.take(limit=len(batch), ids=batch)
                await self._redrive(dead_letters, tally)
            tally.skipped += len(batch) - len(dead_letters)  # gone since then
            done += len(batch)
        return tally.report(not_found=len(wanted) - len(found), remaining=len(found) - done)

    async def all(self, *, limit: int | None = None, within: float = math.inf) -> RedriveReport:
        """All there are now, or the first `limit` of them; see `some`. Those that come in meanwhile
        (of what was just redriven, say) are not taken again."""
        deadline = trio.current_time() + within
        left = (await self._queue.depth()).dead
        if limit is not None:
            left = min(left, limit)
        tally = _Tally()
        refused: set[str] = set()
        is_first = True
        while left > 0 and (is_first or trio.current_time() < deadline):
            is_first = False
            async with self._turn:
                # What the queue refuses stays, and is taken once more.
                size = min(self._size, left) + len(refused)
                taken = await self._queue.dead_letters.take(limit=size)
                dead_letters = [each for each in taken if each.id not in refused][: self._size]
                if not dead_letters:
                    left = 0
                    break
                refused |= await self._redrive(dead_letters, tally)
            left -= len(dead_letters)
        return tally.report(remaining=max(0, left))

    async def _redrive(self, dead_letters: Sequence[DeadLetter], tally: _Tally) -> set[str]:
        """One batch. Returns the ids of those that stay, since the queue refuses their messages."""
        if not dead_letters:
            return set()
        verdicts, refused = await reopen_and_send(
            self._store,
            [dead_letter.task_id for dead_letter in dead_letters],
            queue_of=lambda _: self._queue,
            clock=self._clock,
            changed=self._changed,
            # An earlier redrive may have got as far as reopening.
            pending_too=True,
        )
        settled = [
            (dead_letter, verdict)
            for dead_letter, verdict in zip(dead_letters, verdicts, strict=True)
            if dead_letter.task_id not in refused
        ]
        deleted = await self._queue.dead_letters.delete([each for each, _ in settled])
        failed = [each for each in deleted if not isinstance(each, Done | LeaseLost)]
        if failed:
            raise BackendUnavailable(
                f"{len(failed)} dead letters could not be deleted: {failed[0]}"
            )
        for (_, verdict), answer in zip(settled, deleted, strict=True):
            # One that another call has deleted meanwhile is that call's.
            is_mine = isinstance(answer, Done) or (
                self._go_with_tasks and isinstance(verdict, Reopened)
            )
            is_redriven = is_mine and is_pending(verdict)
            tally.redriven += is_redriven
            tally.skipped += not is_redriven
        tally.refused += len(dead_letters) - len(settled)
        return {each.id for each in dead_letters if each.task_id in refused}

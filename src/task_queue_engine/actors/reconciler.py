"""Finds what is stuck: rows without a message, attempts nothing can bring back, messages that the
queue has given up, old rows."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.batching import in_batches
from task_queue_engine.actors.sending import fail_refused, send_batch
from task_queue_engine.backends.base import Backend, Done, Rejected, Stranded, StrandedKind
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import BrokerDeadLetter, Recorded
from task_queue_engine.task import Task, TaskStatus

logger = logging.getLogger("task_queue_engine.reconciler")

# Rows a look: a bounded piece of work, and few of them to a backlog of any size.
_PAGE_SIZE = 1000
# Seconds between two pieces of a walk that is not over, at least (or the interval, where that is
# shorter). More than the one that an older process on DynamoDB leaves between two pieces of its
# sweep: one that asks sooner asks in vain, and is told that there is nothing to do.
_SHORTEST_PAUSE = 1.25

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ReconcilerStatistics:
    resent: int
    reclaimed: int
    broker_dead_lettered: int
    """Ended, since the queue had moved their message to the dead-letter queue by itself."""
    expired: int


class Reconciler:
    """Walks a page of the store every `interval` seconds.

    What it does about a task is harmless when the task was not stuck after all: an extra message is
    sorted out by the claim, and reclaiming is conditional on the attempt.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        queue: str,
        clock: Clock,
        interval: float,
        min_age: float,
        retention: float,
        retry: BackendRetry,
        rng: random.Random,
    ) -> None:
        self._backend = backend
        self._queue = backend.queue(queue)
        self._clock = clock
        self._interval = interval
        # Younger than this a task may simply be between two steps.
        self._min_age = min_age
        self._retention = retention
        self._retry = retry
        self._rng = rng
        self._cursor: str | None = None
        self._seen_to: frozenset[str] = frozenset()
        self._resent = self._reclaimed = self._broker_dead_lettered = self._expired = 0

    def statistics(self) -> ReconcilerStatistics:
        return ReconcilerStatistics(
            resent=self._resent,
            reclaimed=self._reclaimed,
            broker_dead_lettered=self._broker_dead_lettered,
            expired=self._expired,
        )

    async def run(self) -> None:
        while True:
            # Engines that share a backend must not all look at the same moment.
            wait = self._interval * self._rng.uniform(0.8, 1.2)
            next_round = trio.current_time() + wait
            left: list[Step] = [self._walk, self._fail_dead_lettered, self._expire]
            try:
                await self._retry.call(
                    partial(_take, left),
                    give_up=lambda: trio.current_time() >= next_round,  # noqa: B023  # of this round
                )
            except BackendUnavailable:
                continue  # what works is due again
            soon = min(wait, max(wait / 10, _SHORTEST_PAUSE))
            await trio.sleep(wait if self._cursor is None else soon)

    async def _walk(self) -> None:
        before = self._clock.now() - timedelta(seconds=self._min_age)
        page = await self._backend.stranded(
            self._queue.name, before=before, limit=_PAGE_SIZE, cursor=self._cursor
        )
        if page.found:
            await self._bring_back(page.found)
        self._cursor = page.next_cursor

    async def _bring_back(self, found: tuple[Stranded, ...]) -> None:
        to_send = [item.task for item in found if item.kind is StrandedKind.UNSENT]
        orphaned = [item.task for item in found if item.kind is StrandedKind.ORPHANED]
        for batch in in_batches(orphaned, self._backend.store.max_batch):
            to_send += await self._reclaim(batch)
        for task in to_send:
            logger.warning("task %s is PENDING without a message: sending it", task.id)
        for batch in in_batches(to_send, self._queue.max_batch):
            # One that fails is found again at the next round.
            verdicts = await send_batch(self._queue, batch, self._clock)
            self._resent += sum(isinstance(verdict, Done) for verdict in verdicts)
            refused = [
                (task, verdict)
                for task, verdict in zip(batch, verdicts, strict=True)
                if isinstance(verdict, Rejected)
            ]
            if refused:
                await fail_refused(self._backend.store, refused)

    async def _reclaim(self, tasks: Sequence[Task]) -> list[Task]:
        verdicts = await self._backend.store.reclaim([(task.id, task.attempt) for task in tasks])
        pending: list[Task] = []
        for task, verdict in zip(tasks, verdicts, strict=True):
            if isinstance(verdict, Recorded):
                self._reclaimed += 1
                logger.warning("task %s lost its message in mid-run: %s", task.id, verdict.status)
                if verdict.status is TaskStatus.PENDING:
                    pending.append(task)
        return pending

    async def _fail_dead_lettered(self) -> None:
        """End the tasks whose message the queue itself has given up."""
        found = await self._queue.dead_letters.moved_by_broker()
        seen_to = {item.message_id for item in found} & self._seen_to
        new = [item for item in found if item.message_id not in seen_to]
        for batch in in_batches(new, self._backend.store.max_batch):
            seen_to |= await self._fail_batch(batch)
        self._seen_to = frozenset(seen_to)

    async def _fail_batch(self, batch: Sequence[BrokerDeadLetter]) -> set[str]:
        """Returns the messages that need no further look."""
        before = self._clock.now() - timedelta(seconds=self._min_age)
        tasks = await self._backend.store.get([item.task_id for item in batch])
        # What changed just now may be an operator's redrive, whose dead letter is about to go.
        due = [
            item
            for item, task in zip(batch, tasks, strict=True)
            if task and not task.status.is_terminal and task.updated_at < before
        ]
        seen_to = {
            item.message_id
            for item, task in zip(batch, tasks, strict=True)
            if task is None or task.status.is_terminal
        }
        verdicts = await self._backend.store.fail_dead_lettered(due) if due else []
        for item, verdict in zip(due, verdicts, strict=True):
            if isinstance(verdict, Recorded):
                self._broker_dead_lettered += 1
                seen_to.add(item.message_id)
                logger.warning("task %s is %s: %s", item.task_id, verdict.status, item.reason)
        return seen_to

    async def _expire(self) -> None:
        if not self._retention:
            return
        before = self._clock.now() - timedelta(seconds=self._retention)
        while expired := await self._backend.store.expire(finished_before=before, limit=_PAGE_SIZE):
            self._expired += expired
            if expired < _PAGE_SIZE:
                return


async def _take(left: list[Step]) -> None:
    """Take these steps; those that failed stay in the list. None keeps the others from being taken:
    a dead-letter queue that is gone has nothing to do with old rows.

    Raises:
        BackendUnavailable: of the first that failed.
    """
    failures: list[BackendUnavailable] = []
    for step in tuple(left):
        try:
            await step()
        except BackendUnavailable as error:
            failures.append(error)
        else:
            left.remove(step)
    if failures:
        raise failures[0]

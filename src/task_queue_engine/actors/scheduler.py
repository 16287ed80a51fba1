"""Sends tasks whose time has come: delays and backoffs longer than the queue can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.sending import fail_refused, send_batch
from task_queue_engine.backends.base import (
    Done,
    DueChange,
    DueTask,
    QueueVerdict,
    Rejected,
    TaskQueue,
    TaskStore,
    TryAgain,
)
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable

# How long a claim of due tasks holds, beyond the lead: their sender needs a write, a send and a
# write, which on AWS take 20 s at the very most. A sender that died is made up for after that.
_CLAIM = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    sent: int


class Scheduler:
    """Looks into the store's due index every `interval` seconds and sends what comes due on this
    engine's queue within the next `lead` seconds, with the rest of its delay on the message. What
    is due on other queues is left to the engines that serve them.

    Of several engines one sends a task: the one that has moved its due mark, which says from then
    on when the others may try. Once the message is sent the mark is cleared. A crash in between
    sends a task late or twice, which the claim makes harmless, and never loses it.
    """

    def __init__(
        self,
        *,
        store: TaskStore,
        queue: TaskQueue,
        clock: Clock,
        interval: float,
        lead: float,
        retry: BackendRetry,
    ) -> None:
        self._store = store
        self._queue = queue
        self._batch_size = min(store.max_batch, queue.max_batch)
        self._clock = clock
        self._interval = interval
        self._lead = timedelta(seconds=lead)
        self._retry = retry
        self._sent = 0

    def statistics(self) -> SchedulerStatistics:
        return SchedulerStatistics(sent=self._sent)

    async def run(self) -> None:
        while True:
            if not await self._retry.call(self._send_due):
                await trio.sleep(self._interval)

    async def _send_due(self) -> int:
        before = self._clock.now() + self._lead
        due = await self._store.due(self._queue.name, before=before, limit=self._batch_size)
        if due:
            claimed = await self._claim(due)
            if claimed:
                await self._send(claimed)
        return len(due)

    async def _claim(self, due: Sequence[DueTask]) -> list[DueTask]:
        """Those that no other engine is sending."""
        until = self._clock.now() + self._lead + _CLAIM
        claimed = [DueTask(each.task, until) for each in due]
        is_mine = await self._store.change_due(
            [DueChange(each.task.id, each.due_at, until) for each in due]
        )
        return [each for each, mine in zip(claimed, is_mine, strict=True) if mine]

    async def _send(self, claimed: Sequence[DueTask]) -> None:
        try:
            verdicts: Sequence[QueueVerdict] = await send_batch(
                self._queue, [each.task for each in claimed], self._clock
            )
        except BackendUnavailable as error:
            verdicts = [TryAgain(str(error))] * len(claimed)
        sent: list[DueTask] = []
        refused: list[tuple[DueTask, Rejected]] = []
        failed: list[tuple[DueTask, str]] = []
        for each, verdict in zip(claimed, verdicts, strict=True):
            match verdict:
                case Done():
                    sent.append(each)
                case Rejected():
                    refused.append((each, verdict))
                case TryAgain(reason):
                    failed.append((each, reason))
                case _:
                    failed.append((each, f"the queue answered {verdict}"))
        self._sent += len(sent)
        now = self._clock.now()
        changes = [DueChange(each.task.id, each.due_at, None) for each in sent]
        changes += [DueChange(each.task.id, each.due_at, now) for each, _ in failed]
        if changes:
            await self._store.change_due(changes)
        if refused:
            await fail_refused(self._store, [(each.task, verdict) for each, verdict in refused])
        if failed:
            raise BackendUnavailable(failed[0][1])

"""Sends tasks whose time has come: delays and backoffs longer than the queue can hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.batching import in_batches
from task_queue_engine.actors.sending import send_batch
from task_queue_engine.backends.base import TaskQueue, TaskStore, TryAgain
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import Task


@dataclass(frozen=True, slots=True)
class SchedulerStatistics:
    sent: int


class Scheduler:
    """Looks into the store's due index every `interval` seconds and sends what comes due within
    the next `lead` seconds, with the rest of its delay on the message.

    It sends first and clears the mark then: a crash in between sends a task twice, which the claim
    makes harmless, and never loses it.
    """

    def __init__(
        self,
        *,
        store: TaskStore,
        queue_of: Callable[[str], TaskQueue],
        clock: Clock,
        interval: float,
        lead: float,
        retry: BackendRetry,
    ) -> None:
        self._store = store
        self._queue_of = queue_of
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
        due = await self._store.due(
            before=self._clock.now() + self._lead, limit=self._store.max_batch
        )
        by_queue: dict[str, list[Task]] = {}
        for task in due:
            by_queue.setdefault(task.queue, []).append(task)
        for name, tasks in by_queue.items():
            queue = self._queue_of(name)
            for batch in in_batches(tasks, queue.max_batch):
                await self._send(queue, batch)
        return len(due)

    async def _send(self, queue: TaskQueue, tasks: Sequence[Task]) -> None:
        verdicts = await send_batch(queue, tasks, self._clock)
        failed = [verdict for verdict in verdicts if isinstance(verdict, TryAgain)]
        sent = [
            task
            for task, verdict in zip(tasks, verdicts, strict=True)
            if not isinstance(verdict, TryAgain)
        ]
        if sent:
            await self._store.schedule([(task.id, None) for task in sent])
            self._sent += len(sent)
        if failed:
            raise BackendUnavailable(failed[0].reason)

"""Sends tasks whose time has come: delays and backoffs longer than the queue can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import trio

from task_queue_engine.actors.backend_retry import Patience
from task_queue_engine.backends.base import Message, TaskQueue, TaskStore, TryAgain
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import delay_until
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
        patience: Patience,
    ) -> None:
        self._store = store
        self._queue_of = queue_of
        self._clock = clock
        self._interval = interval
        self._lead = timedelta(seconds=lead)
        self._patience = patience
        self._sent = 0

    def statistics(self) -> SchedulerStatistics:
        return SchedulerStatistics(sent=self._sent)

    async def run(self) -> None:
        while True:
            try:
                found = await self._send_due()
            except BackendUnavailable as error:
                await self._patience.pause(error)
                continue
            self._patience.well()
            if not found:
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
            for i in range(0, len(tasks), queue.max_batch):
                await self._send(queue, tasks[i : i + queue.max_batch])
        return len(due)

    async def _send(self, queue: TaskQueue, tasks: list[Task]) -> None:
        now = self._clock.now()
        verdicts = await queue.send(
            [
                Message(task=task, delay=min(delay_until(task.run_at, now), queue.max_delay))
                for task in tasks
            ]
        )
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

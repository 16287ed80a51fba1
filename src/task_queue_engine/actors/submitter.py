"""Batches concurrent submissions: save, then send, then answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.batching import Batcher, in_batches
from task_queue_engine.actors.messages import SubmitRequest, SubmitResult
from task_queue_engine.actors.sending import send_batch
from task_queue_engine.backends.base import (
    AlreadyExists,
    Created,
    NewTask,
    QueueVerdict,
    Rejected,
    TaskQueue,
    TaskStore,
    TryAgain,
)
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import delay_until
from task_queue_engine.task import Task, TaskStatus

logger = logging.getLogger("task_queue_engine.submitter")

# Enough for a connection that was lost; what takes longer is for the scheduler.
_SEND_TRIES = 3


@dataclass(frozen=True, slots=True)
class SubmitterStatistics:
    submitted: int
    replayed: int
    refused: int
    unsent: int
    """Stored, but the queue was down: left to the scheduler."""


class Submitter:
    """Owns the order of a submission: the row first, then the message, then the answer.

    A request it has received is carried out even when its sender is gone. Where the queue
    fails after the row was saved, the task is marked as due and the scheduler sends it later: what
    was stored is answered as accepted, since it will run.
    """

    def __init__(
        self,
        *,
        store: TaskStore,
        queue_of: Callable[[str], TaskQueue],
        clock: Clock,
        retry: BackendRetry,
        submissions: trio.MemoryReceiveChannel[SubmitRequest],
    ) -> None:
        self._store = store
        self._queue_of = queue_of
        self._clock = clock
        self._retry = retry
        self._submissions = submissions
        self._batches = Batcher(submissions, size=store.max_batch, linger=0)
        self._queue_is_down = False
        self._submitted = self._replayed = self._refused = self._unsent = 0

    def statistics(self) -> SubmitterStatistics:
        return SubmitterStatistics(
            submitted=self._submitted,
            replayed=self._replayed,
            refused=self._refused,
            unsent=self._unsent,
        )

    async def run(self) -> None:
        with self._submissions:
            while requests := await self._batches.next():
                tasks = [new for request in requests for new in request.tasks]
                results = await self._submit(tasks)
                start = 0
                for request in requests:
                    end = start + len(request.tasks)
                    request.answer(tuple(results[start:end]))
                    start = end

    async def _submit(self, tasks: Sequence[NewTask]) -> list[SubmitResult]:
        results: list[SubmitResult] = []
        for batch in in_batches(tasks, self._store.max_batch):
            results += await self._create(batch)
        to_send: dict[str, list[NewTask]] = {}
        for new, result in zip(tasks, results, strict=True):
            if isinstance(result, Created):
                self._submitted += 1
                if new.due_at is None:
                    to_send.setdefault(new.task.queue, []).append(new)
            elif isinstance(result, BackendUnavailable | TryAgain):
                self._refused += 1
            else:
                self._replayed += 1
                if isinstance(result, AlreadyExists) and self._may_lack_its_message(result.task):
                    stored = NewTask(task=result.task)
                    to_send.setdefault(result.task.queue, []).append(stored)
        for queue_name, created in to_send.items():
            await self._send(self._queue_of(queue_name), created)
        return results

    def _may_lack_its_message(self, task: Task) -> bool:
        """A caller that submits again had no answer, perhaps since a process died between saving
        and sending. An extra message is harmless; what is due later is the scheduler's."""
        if task.status is not TaskStatus.PENDING or task.attempt:
            return False
        wait = delay_until(task.run_at, self._clock.now())
        return wait <= self._queue_of(task.queue).max_delay

    async def _create(self, tasks: Sequence[NewTask]) -> list[SubmitResult]:
        try:
            verdicts = await self._store.create(tasks)
        except BackendUnavailable as error:
            # Answered at once: a caller can wait better than a queue in memory can.
            return [error] * len(tasks)
        return list(verdicts)

    async def _send(self, queue: TaskQueue, tasks: Sequence[NewTask]) -> None:
        for batch in in_batches(tasks, queue.max_batch):
            unsent = await self._send_batch(queue, batch)
            if unsent:
                await self._leave_to_scheduler(unsent)

    async def _send_batch(self, queue: TaskQueue, tasks: Sequence[NewTask]) -> Sequence[NewTask]:
        """Returns the tasks that could not be sent. While the queue is down one try has to do:
        all later submissions wait behind this one, and the scheduler has more time."""
        tries_left = 1 if self._queue_is_down else _SEND_TRIES
        unsent = tasks

        async def send_unsent() -> None:
            nonlocal tries_left, unsent
            tries_left -= 1
            self._queue_is_down = True  # until it has answered
            verdicts = await send_batch(queue, unsent, self._clock)
            self._queue_is_down = False
            unsent, reason = _still_unsent(unsent, verdicts)
            if unsent:
                raise BackendUnavailable(reason)

        # The scheduler takes on what is left, and says so where it is in trouble too.
        with suppress(BackendUnavailable):
            await self._retry.call(send_unsent, give_up=lambda: not tries_left)
        return unsent

    async def _leave_to_scheduler(self, tasks: Sequence[NewTask]) -> None:
        self._unsent += len(tasks)
        now = self._clock.now()
        try:
            await self._store.schedule([(new.task.id, new.task.run_at or now) for new in tasks])
        except BackendUnavailable as error:
            # The reconciler finds rows without a message; this only takes longer.
            logger.warning("%d stored tasks could not be sent or marked: %s", len(tasks), error)


def _still_unsent(
    tasks: Sequence[NewTask], verdicts: Sequence[QueueVerdict]
) -> tuple[list[NewTask], str]:
    """What is to be tried again, and why."""
    again: list[NewTask] = []
    why = ""
    for new, verdict in zip(tasks, verdicts, strict=True):
        if isinstance(verdict, TryAgain):
            again.append(new)
            why = verdict.reason
        elif isinstance(verdict, Rejected):
            logger.error("the queue refuses the message of task %s: %s", new.task.id, verdict)
    return again, why

"""Batches concurrent submissions: save, then send, then answer."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.batching import Batcher, in_batches
from task_queue_engine.actors.messages import SubmitRequest, SubmitResult
from task_queue_engine.actors.sending import fail_refused, send_batch
from task_queue_engine.backends.base import (
    AlreadyExists,
    Created,
    DueChange,
    Message,
    NewTask,
    QueueVerdict,
    Rejected,
    TaskQueue,
    TaskStore,
    TooLarge,
    TryAgain,
)
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import delay_until
from task_queue_engine.task import Task, TaskStatus

logger = logging.getLogger("task_queue_engine.submitter")

# How long a submission that is made again bars further messages for the same task: all its
# repetitions cause one at once, and one by the scheduler half a minute before this is over if the
# task has not started by then. So two in two minutes at most.
_RESEND_AFTER = timedelta(seconds=150)
# Tasks marked by this process in that time, so that their repetitions cost nothing.
_MAX_REMEMBERED = 10_000

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
        self._queues_down: set[str] = set()
        self._marked: OrderedDict[str, float] = OrderedDict()
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
        to_send: dict[str, list[int]] = {}
        repeated: list[Task] = []
        for index, (new, result) in enumerate(zip(tasks, results, strict=True)):
            if isinstance(result, Created):
                self._submitted += 1
                if new.due_at is None:
                    to_send.setdefault(new.task.queue, []).append(index)
            elif isinstance(result, BackendUnavailable | TryAgain):
                self._refused += 1
            else:
                self._replayed += 1
                if isinstance(result, AlreadyExists) and self._may_lack_its_message(result.task):
                    repeated.append(result.task)
        for queue_name, indexes in to_send.items():
            refused = await self._send(self._queue_of(queue_name), [tasks[i] for i in indexes])
            for index in indexes:
                verdict = refused.get(tasks[index].task.id)
                if verdict is not None:
                    results[index] = verdict
        if repeated:
            await self._send_again(repeated)
        return results

    def _may_lack_its_message(self, task: Task) -> bool:
        """A caller that submits again had no answer, perhaps since a process died between saving
        and sending. What is due later is the scheduler's already."""
        if task.status is not TaskStatus.PENDING or task.attempt:
            return False
        wait = delay_until(task.run_at, self._clock.now())
        return wait <= self._queue_of(task.queue).max_delay

    async def _send_again(self, tasks: Sequence[Task]) -> None:
        """A message for each that bears no mark yet. However often a submission is made again, and
        wherever: a task has one mark, and who sets it sends."""
        now, at = self._clock.now(), trio.current_time()
        while self._marked and (
            len(self._marked) > _MAX_REMEMBERED or next(iter(self._marked.values())) <= at
        ):
            self._marked.popitem(last=False)
        new = {task.id: task for task in tasks if task.id not in self._marked}
        changes = [
            DueChange(task.id, None, max(now, task.run_at or now) + _RESEND_AFTER)
            for task in new.values()
        ]
        won: dict[str, list[NewTask]] = {}
        for batch in in_batches(changes, self._store.max_batch):
            try:
                taken = await self._store.change_due(batch)
            except BackendUnavailable as error:
                # The reconciler finds rows without a message; this only takes longer.
                logger.warning("%d repeated tasks could not be marked: %s", len(batch), error)
            else:
                until = at + _RESEND_AFTER.total_seconds()
                self._marked |= dict.fromkeys((change.task_id for change in batch), until)
                for change, is_ours in zip(batch, taken, strict=True):
                    if is_ours:
                        task = new[change.task_id]
                        won.setdefault(task.queue, []).append(NewTask(task=task))
        for queue_name, unsent in won.items():
            await self._send(self._queue_of(queue_name), unsent)

    async def _create(self, tasks: Sequence[NewTask]) -> list[SubmitResult]:
        results: list[SubmitResult | None] = [self._too_large(new) for new in tasks]
        fitting = [index for index, result in enumerate(results) if result is None]
        verdicts: Sequence[SubmitResult]
        try:
            verdicts = await self._store.create([tasks[i] for i in fitting]) if fitting else []
        except BackendUnavailable as error:
            # Answered at once: a caller can wait better than a queue in memory can.
            verdicts = [error] * len(fitting)
        for index, verdict in zip(fitting, verdicts, strict=True):
            results[index] = verdict
        return [result for result in results if result is not None]

    def _too_large(self, new: NewTask) -> TooLarge | None:
        """What could never be sent is not stored."""
        queue = self._queue_of(new.task.queue)
        return queue.too_large(Message(task=new.task, payload_json=new.payload_json))

    async def _send(self, queue: TaskQueue, tasks: Sequence[NewTask]) -> dict[str, Rejected]:
        """By task id what the queue refuses for good. (Not what is too large for it: that
        was not stored. This is what could not be foreseen.)"""
        refused: dict[str, Rejected] = {}
        for batch in in_batches(tasks, queue.max_batch):
            unsent = await self._send_batch(queue, batch, refused)
            if unsent:
                await self._leave_to_scheduler(unsent)
        if refused:
            try:
                await fail_refused(
                    self._store,
                    [(new.task, refused[new.task.id]) for new in tasks if new.task.id in refused],
                )
            except BackendUnavailable as error:
                # Without a message: the reconciler sends them once more, and is refused too.
                logger.warning("%d refused tasks could not be ended: %s", len(refused), error)
        return refused

    async def _send_batch(
        self, queue: TaskQueue, tasks: Sequence[NewTask], refused: dict[str, Rejected]
    ) -> Sequence[NewTask]:
        """Returns the tasks that could not be sent. While the queue is down one try has to do:
        all later submissions wait behind this one, and the scheduler has more time."""
        tries_left = 1 if queue.name in self._queues_down else _SEND_TRIES
        unsent = tasks

        async def send_unsent() -> None:
            nonlocal tries_left, unsent
            tries_left -= 1
            self._queues_down.add(queue.name)  # until it has answered
            verdicts = await send_batch(queue, unsent, self._clock)
            self._queues_down.discard(queue.name)
            unsent, reason = _still_unsent(unsent, verdicts, refused)
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
    tasks: Sequence[NewTask], verdicts: Sequence[QueueVerdict], refused: dict[str, Rejected]
) -> tuple[list[NewTask], str]:
    """What is to be tried again, and why; `refused` gets what never will be."""
    again: list[NewTask] = []
    why = ""
    for new, verdict in zip(tasks, verdicts, strict=True):
        if isinstance(verdict, TryAgain):
            again.append(new)
            why = verdict.reason
        elif isinstance(verdict, Rejected):
            refused[new.task.id] = verdict
    return again, why

"""Batches concurrent submissions: save, then send, then answer."""

from __future__ import annotations

import logging
import math
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
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
    SubmitVerdict,
    TaskQueue,
    TaskStore,
    TooLarge,
    TryAgain,
    Unsent,
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

# After the first. Enough for a connection that was lost; what takes longer is for the scheduler.
_SEND_TRIES = 2

# Batches on their way at a time: what comes when all are out waits for the next one to come back.
_UNDER_WAY = 8

# Where a batch takes long, on a network, they set out by time instead: each so large a share of a
# round trip after the one before it, so that a submission waits for half of that on average, and
# what comes in between shares its requests. On a machine's own file a wait would be as long as the
# timer is exact, a millisecond.
_SHARE = 1 / 10
_LONG = 0.01
# Seconds: a backend in trouble makes no caller wait longer between two batches.
_LONGEST_GAP = 0.05
# As many as set out in a round trip, and some more for those that take longer than others.
_UNDER_WAY_BY_TIME = 20
# Share of the latest batch in the mean of what they take.
_LATEST = 1 / 8


@dataclass(frozen=True, slots=True)
class SubmitterStatistics:
    submitted: int
    replayed: int
    refused: int
    unsent: int
    """Stored, but the queue was down: left to the scheduler."""


class Submitter:
    """Owns the order of a submission: row and message first, then the answer.

    A request it has received is carried out even when its sender is gone. Where the queue
    fails after the row was saved, the task is marked as due and the scheduler sends it later: what
    was stored is answered as accepted, since it will run.

    While some batches are on their way the next one sets out, so that no caller waits for others'
    round trips: a tenth of one after the last where they are long, else as soon as fewer than
    `_UNDER_WAY` are out. What comes meanwhile gathers.
    """

    def __init__(
        self,
        *,
        submit: Callable[[Sequence[NewTask]], Awaitable[list[SubmitVerdict]]],
        store: TaskStore,
        queue_of: Callable[[str], TaskQueue],
        clock: Clock,
        retry: BackendRetry,
        submissions: trio.MemoryReceiveChannel[SubmitRequest],
    ) -> None:
        """
        Args:
            submit: of the backend.
        """
        self._submit_batch = submit
        self._store = store
        self._queue_of = queue_of
        self._clock = clock
        self._retry = retry
        self._submissions = submissions
        self._batches = Batcher(submissions, size=store.max_batch, linger=0)
        self._queues_down: set[str] = set()
        self._marked: OrderedDict[str, float] = OrderedDict()
        self._under_way: list[frozenset[str]] = []
        self._one_is_back = trio.Event()
        # Seconds that a batch takes, in the mean.
        self._takes = 0.0
        self._last_set_out = -math.inf
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
            async with trio.open_nursery() as nursery:
                while True:
                    await self._until_next()
                    requests = await self._batches.next()
                    if not requests:
                        return
                    self._last_set_out = trio.current_time()
                    ids = frozenset(new.task.id for each in requests for new in each.tasks)
                    self._under_way.append(ids)
                    nursery.start_soon(self._serve, requests, ids)

    async def _until_next(self) -> None:
        """Wait until a further batch may set out."""
        if self._takes >= _LONG:
            gap = min(_LONGEST_GAP, self._takes * _SHARE)
            await trio.sleep_until(self._last_set_out + gap)
        while len(self._under_way) >= (_UNDER_WAY_BY_TIME if self._takes >= _LONG else _UNDER_WAY):
            self._one_is_back = trio.Event()
            await self._one_is_back.wait()

    async def _serve(self, requests: Sequence[SubmitRequest], ids: frozenset[str]) -> None:
        tasks = [new for request in requests for new in request.tasks]
        set_out = trio.current_time()
        results = await self._submit(tasks)
        self._takes += (trio.current_time() - set_out - self._takes) * _LATEST
        self._under_way.remove(ids)
        self._one_is_back.set()
        start = 0
        for request in requests:
            end = start + len(request.tasks)
            request.answer(tuple(results[start:end]))
            start = end

    async def _submit(self, tasks: Sequence[NewTask]) -> list[SubmitResult]:
        verdicts: list[SubmitVerdict | BackendUnavailable] = []
        for batch in in_batches(tasks, self._store.max_batch):
            verdicts += await self._create_and_send(batch)
        results: list[SubmitResult] = []
        unsent: dict[str, list[NewTask]] = {}
        refused: list[tuple[Task, Rejected]] = []
        repeated: list[Task] = []
        for new, verdict in zip(tasks, verdicts, strict=True):
            match verdict:
                case Created():
                    self._submitted += 1
                    if new.due_at is None:
                        self._queues_down.discard(new.task.queue)
                case Unsent():
                    self._submitted += 1
                    unsent.setdefault(new.task.queue, []).append(new)
                    results.append(Created())
                    continue
                case Rejected():
                    self._submitted += 1
                    refused.append((new.task, verdict))
                case BackendUnavailable() | TryAgain():
                    self._refused += 1
                case AlreadyExists(task):
                    self._replayed += 1
                    if self._may_lack_its_message(task):
                        repeated.append(task)
                case TooLarge():
                    self._replayed += 1
            results.append(verdict)
        for queue_name, new_tasks in unsent.items():
            if queue_name in self._queues_down:
                # One try has to do: callers wait, and the scheduler has more time.
                await self._leave_to_scheduler(new_tasks)
                continue
            more = await self._send(self._queue_of(queue_name), new_tasks)
            refused += more
            now_refused = {task.id: verdict for task, verdict in more}
            for index, new in enumerate(tasks):
                if new.task.id in now_refused:
                    results[index] = now_refused[new.task.id]
        if refused:
            await self._fail(refused)
        if repeated:
            await self._send_again(repeated)
        return results

    def _may_lack_its_message(self, task: Task) -> bool:
        """A caller that submits again had no answer, perhaps since a process died between saving
        and sending. What is due later is the scheduler's already."""
        if task.status is not TaskStatus.PENDING or task.attempt:
            return False
        if sum(task.id in ids for ids in self._under_way) > 1:  # the other one sends it right now
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
            DueChange(task.id, None, max(now, task.run_at or now) + _RESEND_AFTER + _some_moment())
            for task in new.values()
        ]
        won: dict[str, list[NewTask]] = {}
        for batch in in_batches(changes, self._store.max_batch):
            try:
                taken = await self._mark(batch)
            except BackendUnavailable as error:
                # They may bear it all the same, and then none but this process would send them.
                logger.warning("%d repeated tasks could not be marked: %s", len(batch), error)
                taken = [True] * len(batch)
            until = at + _RESEND_AFTER.total_seconds()
            self._marked |= dict.fromkeys((change.task_id for change in batch), until)
            for change, is_ours in zip(batch, taken, strict=True):
                if is_ours:
                    task = new[change.task_id]
                    won.setdefault(task.queue, []).append(NewTask(task=task))
        for queue_name, unsent in won.items():
            if refused := await self._send(self._queue_of(queue_name), unsent):
                await self._fail(refused)

    async def _mark(self, changes: Sequence[DueChange]) -> list[bool]:
        """Whose marks are this process's, where the answer was lost and the store made the change
        again, too: then the mark is the very one that was to be set."""
        taken = await self._store.change_due(changes)
        refused = [index for index, is_ours in enumerate(taken) if not is_ours]
        again = [
            DueChange(changes[i].task_id, changes[i].due_at, changes[i].due_at) for i in refused
        ]
        for index, is_ours in zip(
            refused, await self._store.change_due(again) if again else [], strict=True
        ):
            taken[index] = is_ours
        return taken

    async def _create_and_send(
        self, tasks: Sequence[NewTask]
    ) -> list[SubmitVerdict | BackendUnavailable]:
        results: list[SubmitVerdict | BackendUnavailable | None]
        results = [self._too_large(new) for new in tasks]
        fitting = [index for index, result in enumerate(results) if result is None]
        verdicts: Sequence[SubmitVerdict | BackendUnavailable]
        try:
            verdicts = await self._submit_batch([tasks[i] for i in fitting]) if fitting else []
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

    async def _send(
        self, queue: TaskQueue, tasks: Sequence[NewTask]
    ) -> list[tuple[Task, Rejected]]:
        """Returns what the queue refuses for good. (Not what is too large for it: that was not
        stored. This is what could not be foreseen.)"""
        refused: dict[str, Rejected] = {}
        for batch in in_batches(tasks, queue.max_batch):
            unsent = await self._send_batch(queue, batch, refused)
            if unsent:
                await self._leave_to_scheduler(unsent)
        return [(new.task, refused[new.task.id]) for new in tasks if new.task.id in refused]

    async def _fail(self, refused: Sequence[tuple[Task, Rejected]]) -> None:
        try:
            await fail_refused(self._store, refused)
        except BackendUnavailable as error:
            # Without a message: the reconciler sends them once more, and is refused too.
            logger.warning("%d refused tasks could not be ended: %s", len(refused), error)

    async def _send_batch(
        self, queue: TaskQueue, tasks: Sequence[NewTask], refused: dict[str, Rejected]
    ) -> Sequence[NewTask]:
        """Returns the tasks that could not be sent."""
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


def _some_moment() -> timedelta:
    """So that no two processes ever set the same mark."""
    return timedelta(microseconds=random.randrange(1_000_000))  # noqa: S311  # no secret


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

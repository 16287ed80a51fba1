"""What one look at the queue asks for: counts, workers, and pages of what is newest. Each takes as
long at ten tasks as at a million."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

import msgspec
import trio

from task_queue_engine.backends.base import DeadLetter, ListQuery
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.engine.metrics import EngineMetrics
from task_queue_engine.engine.task_numbers import due_at
from task_queue_engine.errors import ApiError
from task_queue_engine.task import Task, TaskError, TaskStatus
from task_queue_engine.worker import WorkerList

T = TypeVar("T")

NEWEST = 50
"""Tasks and dead letters of a page: two screens of them."""

# Seconds after which a page is read again though its count has stood still: what went may have been
# made up for by what came.
_AT_LEAST_EVERY = 30.0


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A task that is FAILED."""

    task_id: str
    type: str
    queue: str
    at: datetime
    failed_attempts: int
    error: TaskError | None
    """Without its traceback."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Of a task that is COMPLETED, in seconds; None where they are not known."""

    type: str
    wait: float | None
    run: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All of it at one moment."""

    at: datetime
    moment: float
    """The same on trio's clock."""
    metrics: EngineMetrics
    workers: WorkerList
    failures: tuple[Failure, ...]
    """The newest by submission, as tasks are listed; the one that failed last first."""
    times: tuple[Times, ...]
    """Of the newest by submission; none where the process that answers measures all tasks."""
    dead_letters: tuple[DeadLetter, ...]


class Looks:
    """Looks at one queue, one after the other.

    Args:
        now: the time of day.
    """

    def __init__(self, api: TaskApi, *, now: Callable[[], datetime]) -> None:
        self._api = api
        self._now = now
        self._failures = _Page[Failure]()
        self._times = _Page[Times]()
        self._dead_letters = _Page[DeadLetter]()

    async def look(self) -> Look:
        """Raises what the queue's methods raise."""
        metrics = await self._api.metrics()
        workers = await self._workers()
        if self._failures.is_old(metrics.counts.failed, _AT_LEAST_EVERY):
            failed = await self._list(TaskStatus.FAILED)
            failures = sorted(map(_failure, failed), key=lambda one: one.at, reverse=True)
            self._failures.set(metrics.counts.failed, failures)
        if measures_all(metrics, workers):
            self._times.set(-1, ())
        elif self._times.is_old(metrics.counts.completed, _AT_LEAST_EVERY):
            completed = await self._list(TaskStatus.COMPLETED)
            self._times.set(metrics.counts.completed, [_times(task) for task in completed])
        # Only where they have changed: on SQS a look at them hides them from all others meanwhile.
        if self._dead_letters.is_old(metrics.depth.dead):
            page = await self._api.list_dead(limit=NEWEST)
            self._dead_letters.set(metrics.depth.dead, page.dead_letters)
        return Look(
            at=self._now(),
            moment=trio.current_time(),
            metrics=metrics,
            workers=workers,
            failures=self._failures.items,
            times=self._times.items,
            dead_letters=self._dead_letters.items,
        )

    def forget(self) -> None:
        """Read all pages at the next look: something has been changed."""
        for page in (self._failures, self._times, self._dead_letters):
            page.read_at = None

    async def _workers(self) -> WorkerList:
        try:
            return await self._api.workers()
        except ApiError as error:
            if error.status != 404:  # a server that knows of no workers
                raise
            return WorkerList()

    async def _list(self, status: TaskStatus) -> Sequence[Task]:
        return (await self._api.list_tasks(ListQuery(status=status, limit=NEWEST))).tasks


def measures_all(metrics: EngineMetrics, workers: WorkerList) -> bool:
    """Whether all that work are processes of the server that answered, so that its measurements are
    of all tasks."""
    return 0 < metrics.workers >= sum(worker.slots for worker in workers.workers)


class _Page(Generic[T]):
    """What was listed last, and how many there were in all at that time."""

    def __init__(self) -> None:
        self.items: tuple[T, ...] = ()
        self.read_at: float | None = None
        self._count = 0

    def is_old(self, count: int, at_least_every: float = math.inf) -> bool:
        if self.read_at is None or count != self._count:
            return True
        return trio.current_time() - self.read_at >= at_least_every

    def set(self, count: int, items: Sequence[T]) -> None:
        self.items, self._count, self.read_at = tuple(items), count, trio.current_time()


# What these leave out may be large, and a minute of them is kept.
def _failure(task: Task) -> Failure:
    error = task.error
    return Failure(
        task_id=task.id,
        type=task.type,
        queue=task.queue,
        at=task.finished_at or task.updated_at,
        failed_attempts=task.retry_count,
        error=None if error is None else msgspec.structs.replace(error, traceback=None),
    )


def _times(task: Task) -> Times:
    due, started, finished = due_at(task), task.started_at, task.finished_at
    return Times(
        type=task.type,
        wait=None if due is None or started is None else max(0.0, (started - due).total_seconds()),
        run=None if started is None or finished is None else (finished - started).total_seconds(),
    )

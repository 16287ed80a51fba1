"""What a worker is: one process that runs an engine, as others see it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from task_queue_engine.task import Task

BEAT = 15.0
"""Seconds between two signs of life: soon enough for a person who looks, and a write unit each on
DynamoDB."""
LIVING_FOR = 60.0
"""Seconds for which a sign of life is good: three beats that come late or fail, and a margin."""
LOST_FOR = 3600.0
"""Seconds for which a worker that died without a word is still counted as lost: long enough to be
seen by an operator who was called, and then it is forgotten."""

MAX_RUNNING = 20
"""Tasks in `Worker.running`: the row is written again and again, and paid for by its size."""
MAX_TYPES = 1000
"""Names in `Worker.types`: about 20 KB of them."""


class WorkerState(StrEnum):
    READY = "ready"
    DRAINING = "draining"
    """It takes no more work, and ends when what it runs has ended."""


class RunningTask(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt whose handler runs."""

    task_id: str
    type: str
    attempt: int
    since: datetime


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """One process that runs an engine, as it last described itself. Encoded with msgspec it is the
    JSON of the HTTP API and of the stores."""

    id: str
    """The one in `worker` of the tasks that it starts."""
    host: str
    pid: int
    version: str
    """Of this package."""
    state: str = WorkerState.READY
    """A `WorkerState`, or what a newer version knows besides."""
    queues: tuple[str, ...] = ()
    """Those that it works on; a process that runs no tasks sends to them."""
    types: tuple[str, ...] = ()
    """The task types that it runs, aliases too, at most MAX_TYPES; none where it runs no tasks."""
    slots: int = 0
    """Tasks that it runs at one time (WORKER_COUNT); 0 where it runs none and serves the API."""
    threads: int = 0
    """Of `slots`, so many at most in threads (TQE_THREADS)."""
    processes: int = 0
    """And so many in worker processes (TQE_PROCESSES)."""
    busy: int = 0
    """Slots that run a task."""
    running: tuple[RunningTask, ...] = ()
    """What runs in them: those that have run the longest, MAX_RUNNING at most."""
    loop_lag_seconds: float = 0.0
    """How late the event loop was at worst, of some looks since the time before."""
    memory_bytes: int = 0
    """Resident, without worker processes."""
    started_at: datetime
    """By the clock of its host."""
    last_seen: datetime
    """By the store's clock."""

    def may_run(self, task_type: str) -> bool:
        """False only where it certainly does not know the type."""
        return task_type in self.types or len(self.types) >= MAX_TYPES

    def says_the_same(self, other: Worker) -> bool:
        """Whether both run nothing, and differ by what goes up and down by itself."""
        return not (self.busy or other.busy) and other == msgspec.structs.replace(
            self,
            loop_lag_seconds=other.loop_lag_seconds,
            memory_bytes=other.memory_bytes,
            last_seen=other.last_seen,
        )


class WorkerList(msgspec.Struct, frozen=True, kw_only=True):
    """The workers that live, those that only serve the API among them."""

    workers: tuple[Worker, ...] = ()
    lost: int = 0
    """Workers that ran tasks, were seen within the last hour, and have died or fallen silent
    without a word. One that ends in order is not counted."""

    def knowing(self, worker: Worker) -> WorkerList:
        """With what is known of this one in place of what was read."""
        others = [one for one in self.workers if one.id != worker.id]
        return msgspec.structs.replace(self, workers=in_order([*others, worker]))

    def running(self, tasks: Sequence[Task]) -> WorkerList:
        """With what the tasks' own rows say, which is newer than what the workers last said.

        Args:
            tasks: all that are PROCESSING. Some may be claimed and not started yet: no more run
                than a worker has slots.
        """
        of_worker: defaultdict[str | None, list[RunningTask]] = defaultdict(list)
        for task in tasks:
            if task.started_at is not None:
                of_worker[task.worker].append(
                    RunningTask(
                        task_id=task.id,
                        type=task.type,
                        attempt=task.attempt,
                        since=task.started_at,
                    )
                )
        workers = []
        for worker in self.workers:
            run = sorted(of_worker[worker.id], key=lambda one: one.since)[: worker.slots]
            workers.append(
                msgspec.structs.replace(worker, busy=len(run), running=tuple(run[:MAX_RUNNING]))
            )
        return msgspec.structs.replace(self, workers=tuple(workers))

    def unknown(self, task_types: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `task_types` that no living worker knows; none where nothing can be said: no
        worker that runs tasks has shown itself, and older versions do not."""
        running = [worker for worker in self.workers if worker.slots]
        if not running and not self.lost:
            return ()
        return tuple(
            name for name in task_types if not any(worker.may_run(name) for worker in running)
        )


# Names of a note; one that is longer is not read.
_NAMED = 10


def no_worker_knows(found: WorkerList, task_types: tuple[str, ...]) -> tuple[str, ...]:
    """What to tell an operator of those of `task_types` that no living worker knows: one sentence,
    or none."""
    unknown = found.unknown(task_types)
    if not unknown:
        return ()
    types = ", ".join(unknown[:_NAMED])
    if len(unknown) > _NAMED:
        types += f" and {len(unknown) - _NAMED} more"
    plural = "s" if len(unknown) > 1 else ""
    note = (
        f"no living worker knows the task type{plural} {types}: such tasks wait until one does "
        "(tqe workers shows them, but for those of older versions)"
    )
    return (note,)


def in_order(workers: list[Worker]) -> tuple[Worker, ...]:
    """By host, then by start."""
    return tuple(sorted(workers, key=lambda one: (one.host, one.started_at, one.id)))

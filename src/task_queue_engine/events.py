"""What happens inside an engine, as frozen data for hooks that log, count or trace it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from task_queue_engine.task import Task, TaskStatus


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A handler is about to run."""

    task: Task


@dataclass(frozen=True, slots=True)
class AttemptRecorded:
    """What an attempt came to is durable. `status` is the task's status from now on: PENDING after
    a retry, a snooze or an interruption. `outcome` says which in one word."""

    task: Task
    """As it was when the attempt started."""
    status: TaskStatus
    outcome: str


Event = AttemptStarted | AttemptRecorded

Hook = Callable[[Event], None]
"""Called in the engine's own task, between two steps of the pipeline: it has to be quick and must
not raise. Whatever it raises is logged, and the hook is not called again. While it runs nothing
else does, so what may wait (a file, a network) belongs into a thread of the host's own."""

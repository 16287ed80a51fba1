"""What happens to tasks, as it is shown while it happens: states, progress and log lines.

Encoded with msgspec an event is the `data` of a message on `GET /events`, and what processes on one
machine tell each other. Members that are not set are left out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Protocol

import msgspec

from task_queue_engine.attempt_record import LogLine
from task_queue_engine.task import Task, TaskStatus


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    id: str = ""
    """Opaque. `events(after=...)` goes on behind it. Empty: the next one has one for both."""


class StateEvent(_Event, frozen=True, kw_only=True, omit_defaults=True, tag="state"):
    """Where the task stands from now on."""

    task_id: str
    type: str
    queue: str
    status: TaskStatus
    attempt: int
    retry_count: int
    at: datetime
    outcome: str | None = None
    """What its attempt came to, as `AttemptOutcome` has it, where one has just ended."""
    worker: str | None = None
    """The process that runs it."""
    run_at: datetime | None = None
    """Not to be started before."""
    cancel_requested: bool = False


class ProgressEvent(_Event, frozen=True, kw_only=True, omit_defaults=True, tag="progress"):
    """What its handler has reported."""

    task_id: str
    type: str
    queue: str
    attempt: int
    at: datetime
    progress: Any


class LogEvent(_Event, frozen=True, kw_only=True, omit_defaults=True, tag="log"):
    """A line that its handler has logged."""

    task_id: str
    type: str
    queue: str
    attempt: int
    line: LogLine


class GapEvent(_Event, frozen=True, kw_only=True, omit_defaults=True, tag="gap"):
    """Something was missed: look again. Of a task that is followed the present state comes next."""

    reason: str
    missed: int | None = None
    """So many events; None: not known."""


class EndEvent(_Event, frozen=True, kw_only=True, omit_defaults=True, tag="end"):
    """The last event of a task that is followed: it has ended."""

    task_id: str
    status: TaskStatus


TaskEvent = StateEvent | ProgressEvent | LogEvent | GapEvent | EndEvent

OfTask = StateEvent | ProgressEvent | LogEvent
"""Those that are about one task, whoever follows it."""


class EventStream(Protocol):
    """Events as they come: ``async for event in stream``. One that is left before its end is to be
    closed, as by ``contextlib.aclosing``."""

    def __aiter__(self) -> AsyncIterator[TaskEvent]: ...

    async def __anext__(self) -> TaskEvent: ...

    async def aclose(self) -> None: ...


def name_of(event: TaskEvent) -> str:
    """state, progress, log, gap or end."""
    return str(event.__struct_config__.tag)


def state_of(task: Task, *, outcome: str | None = None) -> StateEvent:
    """The task as it is in the store."""
    is_running = task.status is TaskStatus.PROCESSING
    return StateEvent(
        task_id=task.id,
        type=task.type,
        queue=task.queue,
        status=task.status,
        attempt=task.attempt,
        retry_count=task.retry_count,
        at=task.updated_at,
        outcome=outcome,
        worker=task.worker if is_running else None,
        run_at=task.run_at if task.status is TaskStatus.PENDING else None,
        cancel_requested=task.cancel_requested and is_running,
    )


def progress_of(task: Task) -> ProgressEvent:
    """As it is in the store."""
    return ProgressEvent(
        task_id=task.id,
        type=task.type,
        queue=task.queue,
        attempt=task.attempt,
        at=task.updated_at,
        progress=task.progress,
    )


def log_of(task: Task, attempt: int, line: LogLine) -> LogEvent:
    return LogEvent(task_id=task.id, type=task.type, queue=task.queue, attempt=attempt, line=line)

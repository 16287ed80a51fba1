"""A backend: a queue and a store that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from task_queue_engine.backends.base.queue import TaskQueue
from task_queue_engine.backends.base.steps import Steps, SubmitVerdict
from task_queue_engine.backends.base.store import NewTask, StrandedPage, TaskStore
from task_queue_engine.backends.base.workers import WorkerStore


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """For the log, and for people who look at a task."""

    name: str
    detail: str
    """Where it lives: a file, a queue URL and a table."""
    actions_first: bool = False
    """An action on many tasks is taken before all that waits (`Steps.take`), not in its turn."""


class Backend(Protocol):
    """A queue and a store that belong together. It may be a `MeteredBackend` and a
    `NotifyingBackend` besides."""

    @property
    def store(self) -> TaskStore: ...

    @property
    def workers(self) -> WorkerStore: ...

    @property
    def info(self) -> BackendInfo: ...

    def queue(self, name: str) -> TaskQueue:
        """The queue of this name; the same object at every call."""
        ...

    def steps(self, name: str) -> Steps:
        """Of the queue of this name."""
        ...

    async def submit(self, tasks: Sequence[NewTask]) -> list[SubmitVerdict]:
        """Create the rows as `TaskStore.create`, at most its `max_batch`, and send a message for
        each that was created and has no `due_at`, to its own queue. The row is durable first."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Connect, check, start what has to run; undo all of it on exit. Raises BackendRefused
        when it cannot be used at all. Opening a second time after closing is allowed."""
        ...

    async def ping(self) -> None:
        """Fit to serve? Raises BackendUnavailable with the reason when not. Asked every few seconds
        by probes that need no key: it reads little, and writes only where a write has failed."""
        ...

    async def stranded(
        self, queue: str, *, before: datetime, limit: int, cursor: str | None = None
    ) -> StrandedPage:
        """Look through tasks of this queue not updated since `before` for those that nothing will
        ever bring on. Reads at most about `limit` rows a call; the cursor walks on from there, so
        that a long backlog costs a bounded piece per call. May find a task that is not stranded
        (its message was just received): what the engine does about it must be harmless."""
        ...

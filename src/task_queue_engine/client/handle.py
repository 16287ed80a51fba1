"""What `Client.submit` gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.retry import Seconds
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_events import TaskEvent

if TYPE_CHECKING:
    from task_queue_engine.client.client import Client

R_co = TypeVar("R_co", covariant=True)


class SyncTaskHandle(Generic[R_co]):
    """One submitted task; `TaskHandle` without `await`."""

    def __init__(self, *, client: Client, task: Task, created: bool) -> None:
        self._client = client
        self.id = task.id
        self.created = created
        """False: the idempotency key had been used before, this is the task of that time."""

    def __repr__(self) -> str:
        return f"<SyncTaskHandle {self.id}>"

    def task(self) -> Task:
        """The task as it is now."""
        return self._client.get(self.id)

    def status(self) -> TaskStatus:
        """The task's status now. Raises TaskNotFound when its retention is over."""
        return self.task().status

    def history(self) -> AttemptHistory:
        """See `TaskApi.history`."""
        return self._client.history(self.id)

    def events(self, *, after: str | None = None) -> Iterator[TaskEvent]:
        """See `Client.events`."""
        return self._client.events(self.id, after=after)

    def result(self, *, timeout: Seconds | None = None) -> R_co:
        """See `TaskApi.result`."""
        return cast("R_co", self._client.result(self.id, timeout=timeout))

    def cancel(self) -> Task:
        """See `TaskApi.cancel`."""
        return self._client.cancel(self.id)

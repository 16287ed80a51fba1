"""What `submit` gives back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast

from task_queue_engine.errors import InvalidTask, ResultTimeout, TaskCancelled, TaskFailed
from task_queue_engine.payloads import Converter
from task_queue_engine.retry import Seconds, to_seconds
from task_queue_engine.task import Task, TaskStatus

if TYPE_CHECKING:
    from task_queue_engine.engine.api import TaskApi

R = TypeVar("R", covariant=True)

# Seconds of one wait where there is no limit: a wait needs one, and this asks seldom enough.
_ONE_WAIT = 3600.0


class TaskHandle(Generic[R]):
    """One submitted task."""

    def __init__(
        self, *, engine: TaskApi, task: Task, created: bool, convert_result: Converter
    ) -> None:
        self._engine = engine
        self._convert_result = convert_result
        self.id = task.id
        self.created = created
        """False: the idempotency key had been used before, this is the task of that time."""

    def __repr__(self) -> str:
        return f"<TaskHandle {self.id}>"

    async def task(self) -> Task:
        """The task as it is now."""
        return await self._engine.get(self.id)

    async def status(self) -> TaskStatus:
        """The task's status now. Raises TaskNotFound when its retention is over."""
        return (await self.task()).status

    async def result(self, *, timeout: Seconds | None = None) -> R:
        """Wait for the end and return what the handler returned, as the type it is annotated with.

        Args:
            timeout: seconds to wait at most; None: as long as it takes.

        Raises:
            TaskFailed, TaskCancelled: how else it ended.
            ResultTimeout: it has not ended yet; the task goes on.
        """
        if timeout is None:
            task = await self._engine.wait(self.id, timeout=_ONE_WAIT)
            while not task.status.is_terminal:
                task = await self._engine.wait(self.id, timeout=_ONE_WAIT)
        else:
            seconds = to_seconds(timeout, name="timeout")
            task = await self._engine.wait(self.id, timeout=seconds)
            if not task.status.is_terminal:
                raise ResultTimeout(self.id, seconds)
        if task.status is TaskStatus.FAILED:
            raise TaskFailed(task)
        if task.status is TaskStatus.CANCELLED:
            raise TaskCancelled(task)
        try:
            return cast("R", self._convert_result(task.result))
        except InvalidTask:
            # A handler may return something else than it is annotated with; what it returned
            # counts.
            return cast("R", task.result)

    async def cancel(self) -> Task:
        """See `TaskApi.cancel`."""
        return await self._engine.cancel(self.id)

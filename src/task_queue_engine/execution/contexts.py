"""What all handler contexts have in common: the facts about the attempt."""

from __future__ import annotations

from datetime import datetime, timedelta

from task_queue_engine.task import Task


class AttemptContext:
    """Base of the contexts; see the Protocols in `task_queue_engine.context`."""

    __slots__ = ("_task", "_waited")

    def __init__(self, task: Task, waited: float = 0.0) -> None:
        """`waited`: seconds that the claimed task waited for a thread or a worker process."""
        self._task = task
        self._waited = waited

    @property
    def task_id(self) -> str:
        return self._task.id

    @property
    def attempt(self) -> int:
        return self._task.attempt

    @property
    def retry_count(self) -> int:
        return self._task.retry_count

    @property
    def max_attempts(self) -> int:
        return self._task.max_attempts

    @property
    def deadline(self) -> datetime | None:
        started_at, timeout = self._task.started_at, self._task.timeout_seconds
        if started_at is None or timeout is None:
            return None
        return started_at + timedelta(seconds=self._waited + timeout)

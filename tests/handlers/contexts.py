"""Contexts as the engine would hand them to a handler, for calling handlers by themselves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from task_queue_engine.task import new_task_id


class _Context:
    deadline: datetime | None = None

    def __init__(
        self,
        *,
        task_id: str | None = None,
        attempt: int = 1,
        retry_count: int | None = None,
        max_attempts: int = 5,
    ) -> None:
        self.task_id = task_id or new_task_id()
        self.attempt = attempt
        self.retry_count = attempt - 1 if retry_count is None else retry_count
        self.max_attempts = max_attempts
        self.reported: list[Any] = []


class SyncContext(_Context):
    """For `def` handlers. `stop` is called by check_cancelled and may raise."""

    def __init__(self, *, stop: Callable[[], None] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._stop = stop

    def progress(self, value: Any) -> None:
        self.reported.append(value)

    def check_cancelled(self) -> None:
        if self._stop is not None:
            self._stop()


class AsyncContext(_Context):
    """For `async def` handlers."""

    async def progress(self, value: Any) -> None:
        self.reported.append(value)

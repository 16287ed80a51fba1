"""What a handler may know and do about its own run."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol


class TaskContext(Protocol):
    """Second argument of an `async def` handler that takes two."""

    @property
    def task_id(self) -> str:
        """Stable over all attempts: the key to be idempotent with."""
        ...

    @property
    def attempt(self) -> int:
        """1 at the first start; +1 at every start, interrupted ones included."""
        ...

    @property
    def retry_count(self) -> int:
        """Earlier attempts that failed."""
        ...

    @property
    def max_attempts(self) -> int:
        """Failed attempts after which the task is FAILED."""
        ...

    @property
    def deadline(self) -> datetime | None:
        """When this attempt times out (UTC), from the handler's start; None without a timeout."""
        ...

    async def progress(self, value: Any) -> None:
        """Store `value` (any JSON) as the task's progress, shown to clients that look the task up.

        Raises InvalidTask when it is not JSON. Frequent calls are coalesced to the latest value.
        """
        ...


class SyncTaskContext(Protocol):
    """The same for `def` handlers, in a thread or (with `process=True`) in a worker process; see
    `TaskContext` for the members without a text."""

    @property
    def task_id(self) -> str: ...

    @property
    def attempt(self) -> int: ...

    @property
    def retry_count(self) -> int: ...

    @property
    def max_attempts(self) -> int: ...

    @property
    def deadline(self) -> datetime | None: ...

    def progress(self, value: Any) -> None: ...

    def check_cancelled(self) -> None:
        """Threads cannot be stopped from outside: a long-running `def` handler calls this now and
        then. Raises when the attempt was cancelled, timed out or lost its lease. A handler that
        does not goes on after that, with all it does, and its task's next attempt starts beside
        it at the latest when `TQE_OVERLAP_WAIT` is over. In a worker process (`process=True`) it
        does nothing, since there the process is killed."""
        ...

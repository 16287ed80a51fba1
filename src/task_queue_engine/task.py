"""What a task is: its fields and its statuses. Its transitions are in `lifecycle`."""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from task_queue_engine.trace_context import TraceContext

with suppress(ModuleNotFoundError):  # a client makes no ids, and is installed without it
    import uuid_utils

DEFAULT_QUEUE = "default"

# Fixed for good: the ids of all idempotent submissions ever made derive from it.
_IDEMPOTENCY_NAMESPACE = uuid.UUID("6f1f3c9e-3f0b-5a53-9d0a-6f1f0a3f8f57")


class TaskStatus(StrEnum):
    """Where a task stands. COMPLETED, FAILED and CANCELLED are terminal."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


_OWN_MODULES = "task_queue_engine."


class TaskError(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt did not succeed. `type` is the exception's qualified name."""

    type: str
    message: str
    traceback: str | None = None

    @property
    def shown_type(self) -> str:
        """For people: the engine's own exceptions, `Discard` among them, are in many modules, and
        which one says nothing."""
        return self.type.rpartition(".")[2] if self.type.startswith(_OWN_MODULES) else self.type

    @property
    def in_words(self) -> str:
        """Type and message, for people."""
        return f"{self.shown_type}: {self.message}"

    def in_one_line(self, longest: int = 300) -> str:
        """Type and message for a log: control characters, line breaks among them, are escaped, and
        what is beyond `longest` characters is cut off."""
        text = "".join(
            char if char.isprintable() else repr(char)[1:-1]
            for char in self.in_words[: longest + 1]
        )
        return text if len(text) <= longest else f"{text[:longest]}..."


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One task as the API, the store and the queue's message show it.

    Encoded with msgspec it is the JSON of the HTTP API. Times are aware datetimes in UTC, encoded
    as RFC 3339.
    """

    id: str
    type: str
    payload: Any
    status: TaskStatus = TaskStatus.PENDING
    queue: str = DEFAULT_QUEUE
    retry_count: int = 0
    """Finished attempts that did not succeed, crashes included."""
    attempt: int = 0
    """Fencing token: +1 at every start. Writes of an attempt are conditional on it."""
    max_attempts: int = 3
    timeout_seconds: float | None = None
    created_at: datetime
    updated_at: datetime
    run_at: datetime | None = None
    """Not to be started before. Set by a delay, a retry's backoff or a snooze."""
    started_at: datetime | None = None
    """Start of the latest attempt."""
    finished_at: datetime | None = None
    result: Any = None
    error: TaskError | None = None
    """Of the latest attempt that did not succeed; kept while the task waits for its retry."""
    progress: Any = None
    worker: str | None = None
    """The engine process that started the latest attempt."""
    cancel_requested: bool = False
    trace_context: TraceContext | UnsetType = UNSET
    """Which trace it belongs to; not there where it was submitted without one."""

    @property
    def trace_id(self) -> str | None:
        """What to look its trace up by, 32 hexadecimal digits."""
        return None if self.trace_context is UNSET else self.trace_context.trace_id


def new_task_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and sorts by time of creation."""
    return str(uuid_utils.uuid7())


def task_id_for_key(idempotency_key: str) -> str:
    """The id of the task an idempotency key stands for (UUIDv5, RFC 9562).

    Deriving the id makes the store's own uniqueness the guard: no second table, no second write.
    """
    return str(uuid.uuid5(_IDEMPOTENCY_NAMESPACE, idempotency_key))


def is_task_id(text: str) -> bool:
    """Whether `text` is spelled as a task id: the canonical, lower-case form of a UUID."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False

"""From a submission to a task that can be stored: every check that refuses it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import UNSET

from task_queue_engine.backends.base import NewTask
from task_queue_engine.clock import Clock
from task_queue_engine.codec import encode_json
from task_queue_engine.config import Settings
from task_queue_engine.engine.api import Submission
from task_queue_engine.engine.longest_attempt import too_long
from task_queue_engine.errors import InvalidTask, PayloadTooLarge
from task_queue_engine.foreign import contained, shown
from task_queue_engine.limits import MAX_ATTEMPTS, MAX_KEY_LENGTH
from task_queue_engine.registry import TaskDefinition, TaskRegistry
from task_queue_engine.retry import MAX_SECONDS, Seconds
from task_queue_engine.task import Task, new_task_id, task_id_for_key


class TaskBuilder:
    """Checks submissions and makes tasks of them."""

    def __init__(
        self,
        *,
        registry: TaskRegistry,
        settings: Settings,
        clock: Clock,
        max_delay: float,
        longest_timeout: float = math.inf,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._clock = clock
        # Longer delays wait in the store instead of the queue.
        self._max_delay = max_delay
        self._longest_timeout = longest_timeout

    def definition(self, submission: Submission) -> TaskDefinition:
        """Raises UnknownTaskType."""
        if type(submission.task) is str:
            return self._registry.get(submission.task)
        with contained("looking it up", field="type"):
            return self._registry.get(submission.task)

    def pack(self, definition: TaskDefinition, submission: Submission) -> tuple[Any, bytes]:
        """The payload as it is handed to handlers, and encoded. Runs its own checks, and needs no
        event loop. Raises InvalidTask."""
        payload, encoded = definition.convert_payload.pack(submission.payload)
        limit = self._settings.max_body_bytes
        if len(encoded) > limit:
            raise PayloadTooLarge(len(encoded), limit)
        return payload, encoded

    def build(
        self, definition: TaskDefinition, submission: Submission, packed: tuple[Any, bytes]
    ) -> NewTask:
        """Of a submission and its packed payload. Raises InvalidTask, naming the field."""
        now = self._clock.now()
        payload, payload_json = packed
        with contained("checking it", field="submission"):  # numbers and times may be foreign too
            run_at = _run_at(submission, now)
            task = Task(
                id=_task_id(submission.idempotency_key),
                type=definition.name,
                payload=payload,
                queue=self._settings.queue,
                max_attempts=self._max_attempts(definition, submission),
                timeout_seconds=self._timeout(definition, submission),
                created_at=now,
                updated_at=now,
                run_at=run_at,
                trace_context=submission.trace_context or UNSET,
            )
        waits_in_store = run_at is not None and (run_at - now).total_seconds() > self._max_delay
        return NewTask(
            task=task, payload_json=payload_json, due_at=run_at if waits_in_store else None
        )

    def is_of_type(self, task: Task, name: str) -> bool:
        """Whether a stored task is of this type, by whichever of its names it was stored."""
        return self._registry.canonical(task.type) == name

    def _max_attempts(self, definition: TaskDefinition, submission: Submission) -> int:
        wanted = submission.max_attempts
        if wanted is None:
            return definition.max_attempts or self._settings.max_attempts
        is_number = isinstance(wanted, int) and not isinstance(wanted, bool)
        if not (is_number and 1 <= int.__int__(wanted) <= MAX_ATTEMPTS):
            raise InvalidTask(
                f"must be an integer from 1 to {MAX_ATTEMPTS}, not {shown(wanted)}",
                field="max_attempts",
            )
        return int.__int__(wanted)

    def _timeout(self, definition: TaskDefinition, submission: Submission) -> float:
        if submission.timeout is None:
            return definition.timeout or self._settings.task_timeout
        timeout = _seconds(submission.timeout, field="timeout_seconds", above_zero=True)
        if timeout > self._longest_timeout:
            raise InvalidTask(f"is {too_long(self._longest_timeout)}", field="timeout_seconds")
        return timeout


def _task_id(idempotency_key: str | None) -> str:
    if idempotency_key is None:
        return new_task_id()
    if (
        not isinstance(idempotency_key, str)
        or not idempotency_key.strip()
        or len(idempotency_key) > MAX_KEY_LENGTH
    ):
        raise InvalidTask(
            f"must be text of 1 to {MAX_KEY_LENGTH} characters", field="idempotency_key"
        )
    encode_json(idempotency_key, field="idempotency_key")  # refuses what is no Unicode text
    return task_id_for_key(str.__str__(idempotency_key))


def _run_at(submission: Submission, now: datetime) -> datetime | None:
    if submission.delay is not None and submission.run_at is not None:
        raise InvalidTask("give delay_seconds or run_at, not both", field="run_at")
    if submission.delay is not None:
        delay = _seconds(submission.delay, field="delay_seconds", above_zero=False)
        return now + timedelta(seconds=delay) if delay else None
    run_at = submission.run_at
    if run_at is None:
        return None
    if not isinstance(run_at, datetime):
        raise InvalidTask(f"must be a datetime, not {shown(run_at)}", field="run_at")
    with contained("its time zone", field="run_at"):
        if run_at.tzinfo is None or run_at.utcoffset() is None:
            raise InvalidTask("needs a time zone, e.g. 2030-01-01T12:00:00Z", field="run_at")
        try:
            run_at = run_at.astimezone(UTC)
        except OverflowError:
            raise InvalidTask("is outside the years 1 to 9999", field="run_at") from None
    if (run_at - now).total_seconds() > MAX_SECONDS:
        raise InvalidTask("is more than a hundred years away", field="run_at")
    return run_at if run_at > now else None


def _seconds(value: Seconds, *, field: str, above_zero: bool) -> float:
    expected = f"must be a number of seconds {'above' if above_zero else 'of at least'} 0"
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTask(f"{expected}, not {shown(value)}", field=field)
    # Compared before it is converted: an integer may be too large for a float.
    if value > MAX_SECONDS and value != math.inf:
        raise InvalidTask("is more than a hundred years", field=field)
    if not 0 <= value <= MAX_SECONDS or (above_zero and value == 0):  # NaN too
        raise InvalidTask(f"{expected}, not {shown(value)}", field=field)
    return float.__float__(value) if isinstance(value, float) else float(value)

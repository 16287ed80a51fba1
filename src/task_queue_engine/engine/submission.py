"""From a submission to a task that can be stored: every check that refuses it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from task_queue_engine.backends.base import NewTask
from task_queue_engine.clock import Clock
from task_queue_engine.codec import decode_json, encode_json
from task_queue_engine.config import Settings
from task_queue_engine.engine.api import Submission
from task_queue_engine.errors import InvalidTask, PayloadTooLarge
from task_queue_engine.limits import MAX_ATTEMPTS, MAX_KEY_LENGTH
from task_queue_engine.payloads import to_json_types
from task_queue_engine.registry import TaskDefinition, TaskRegistry
from task_queue_engine.retry import MAX_SECONDS, Seconds
from task_queue_engine.task import Task, new_task_id, task_id_for_key


class TaskBuilder:
    """Checks submissions and makes tasks of them."""

    def __init__(
        self, *, registry: TaskRegistry, settings: Settings, clock: Clock, max_delay: float
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._clock = clock
        # Longer delays wait in the store instead of the queue.
        self._max_delay = max_delay

    def build(self, submission: Submission) -> NewTask:
        """Raises InvalidTask, naming the field."""
        definition = self._registry.get(submission.task)
        now = self._clock.now()
        run_at = _run_at(submission, now)
        payload, payload_json = self._payload(definition, submission)
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
        )
        waits_in_store = run_at is not None and (run_at - now).total_seconds() > self._max_delay
        return NewTask(
            task=task, payload_json=payload_json, due_at=run_at if waits_in_store else None
        )

    def is_of_type(self, task: Task, name: str) -> bool:
        """Whether a stored task is of this type, by whichever of its names it was stored."""
        return self._registry.canonical(task.type) == name

    def _payload(self, definition: TaskDefinition, submission: Submission) -> tuple[object, bytes]:
        """As it is handed to handlers, and encoded."""
        payload = to_json_types(submission.payload)
        encoded = encode_json(payload)
        limit = self._settings.max_body_bytes
        if len(encoded) > limit:
            raise PayloadTooLarge(len(encoded), limit)
        if not isinstance(payload, str | bool | None):
            # What is stored must be what was checked, whatever the caller does to it next.
            decoded = decode_json(encoded, field="payload")
            if decoded != payload:
                # Keys that were no text may have become one key, JSON within may be spelled freely.
                encoded = encode_json(decoded)
            payload = decoded
        definition.convert_payload(payload)
        return payload, encoded

    def _max_attempts(self, definition: TaskDefinition, submission: Submission) -> int:
        wanted = submission.max_attempts
        if wanted is None:
            return definition.max_attempts or self._settings.max_attempts
        is_number = isinstance(wanted, int) and not isinstance(wanted, bool)
        if not (is_number and 1 <= wanted <= MAX_ATTEMPTS):
            raise InvalidTask(
                f"must be an integer from 1 to {MAX_ATTEMPTS}, not {wanted!r}",
                field="max_attempts",
            )
        return wanted

    def _timeout(self, definition: TaskDefinition, submission: Submission) -> float:
        if submission.timeout is None:
            return definition.timeout or self._settings.task_timeout
        return _seconds(submission.timeout, field="timeout_seconds", above_zero=True)


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
    return task_id_for_key(idempotency_key)


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
        raise InvalidTask(f"must be a datetime, not {run_at!r}", field="run_at")
    if run_at.tzinfo is None or run_at.utcoffset() is None:
        raise InvalidTask("needs a time zone, e.g. 2030-01-01T12:00:00Z", field="run_at")
    run_at = run_at.astimezone(UTC)
    if (run_at - now).total_seconds() > MAX_SECONDS:
        raise InvalidTask("is more than a hundred years away", field="run_at")
    return run_at if run_at > now else None


def _seconds(value: Seconds, *, field: str, above_zero: bool) -> float:
    expected = f"must be a number of seconds {'above' if above_zero else 'of at least'} 0"
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidTask(f"{expected}, not {value!r}", field=field)
    if value < 0 or (above_zero and value == 0):
        raise InvalidTask(f"{expected}, not {value:g}", field=field)
    if value > MAX_SECONDS:
        raise InvalidTask("is more than a hundred years", field=field)
    return float(value)

"""What a submission looks like on the wire."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import msgspec

from task_queue_engine.codec import encode_json
from task_queue_engine.engine.api import Submission
from task_queue_engine.errors import InvalidTask
from task_queue_engine.foreign import shown
from task_queue_engine.limits import MAX_KEY_LENGTH
from task_queue_engine.payloads import make_converter
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.trace_context import TraceContext
from task_queue_engine.tracing import active

# The server knows the annotation; here each object is written by the rules of its own class.
_payload = make_converter(Any)


def encode_submission(
    submission: Submission, *, tasks: TaskRegistry | None, key: str | None
) -> bytes:
    """The JSON of POST /tasks, or with `key` of an item of POST /tasks/batch, which carries its
    idempotency key as a member.

    Args:
        tasks: where a function is looked up that is submitted; its payload is checked and written
            as its annotation says.

    Raises:
        InvalidTask: what cannot be said in JSON or HTTP, or does not fit that annotation. All else
            is for the server to judge.
    """
    name, payload = submission.task, _payload
    if not isinstance(name, str):
        if tasks is None:
            raise InvalidTask(
                "a function is submitted with the registry it is in: Client(..., tasks=REGISTRY); "
                "or submit the name of its type",
                field="type",
            )
        definition = tasks.get(name)
        name, payload = definition.name, definition.convert_payload
    run_at = submission.run_at
    if run_at is not None and not isinstance(run_at, datetime):
        raise InvalidTask(f"must be a datetime, not {shown(run_at)}", field="run_at")
    attempts = submission.max_attempts
    if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int)):
        raise InvalidTask(f"must be an integer, not {shown(attempts)}", field="max_attempts")
    members: dict[str, Any] = {
        "type": encode_json(name, field="type"),
        # Strictly: msgspec by itself would turn NaN into null.
        "payload": payload.pack(submission.payload)[1],
        "delay_seconds": _seconds(submission.delay, "delay_seconds"),
        "run_at": None if run_at is None else encode_json(run_at, field="run_at"),
        "max_attempts": None if attempts is None else encode_json(attempts, field="max_attempts"),
        "timeout_seconds": _seconds(submission.timeout, "timeout_seconds"),
    }
    if key is not None:
        members["idempotency_key"] = encode_json(key)
    present = {name: msgspec.Raw(value) for name, value in members.items() if value is not None}
    return msgspec.json.encode(present)


def new_key() -> str:
    """An idempotency key for a submission that has none: with it a request that got no answer can
    be sent again. Random, so that no other submission ever has it."""
    return f"client-{uuid.uuid4()}"


def check_key(key: object) -> None:
    """Raises InvalidTask for what cannot be an idempotency key."""
    is_fit = isinstance(key, str) and key.isascii() and key.isprintable()
    if not (is_fit and 1 <= len(str(key)) <= MAX_KEY_LENGTH):
        raise InvalidTask(
            f"over HTTP it must be 1 to {MAX_KEY_LENGTH} printable ASCII characters",
            field="idempotency_key",
        )


def key_header(key: str) -> str:
    """The Idempotency-Key header as a quoted string (RFC 8941): what a bare one would lose at its
    ends, this keeps."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def submit_headers(given: TraceContext | None = None, key: str | None = None) -> dict[str, str]:
    """Of a submission: its idempotency key, and `traceparent` and `tracestate` of this context,
    else of the active span."""
    context = given or active()
    headers = {} if context is None else context.headers()
    return headers if key is None else headers | {"Idempotency-Key": key_header(key)}


def _seconds(value: object, field: str) -> bytes | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidTask(f"must be a number of seconds, not {shown(value)}", field=field)
    return encode_json(seconds, field=field)

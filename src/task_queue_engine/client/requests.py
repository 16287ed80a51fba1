"""What a submission looks like on the wire."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import msgspec

from task_queue_engine.codec import encode_json
from task_queue_engine.engine.api import Submission
from task_queue_engine.errors import InvalidTask
from task_queue_engine.limits import MAX_KEY_LENGTH
from task_queue_engine.payloads import to_json_types


def encode_submission(submission: Submission, *, with_key: bool) -> bytes:
    """The JSON of POST /tasks; `with_key`: of an item of POST /tasks/batch, which carries its
    idempotency key as a member.

    Raises:
        InvalidTask: what cannot be said in JSON or HTTP. All else is for the server to judge.
    """
    if not isinstance(submission.task, str):
        raise InvalidTask("over HTTP a task is submitted by the name of its type", field="type")
    members: dict[str, Any] = {
        "type": submission.task,
        # Strictly: msgspec by itself would turn NaN into null.
        "payload": msgspec.Raw(encode_json(to_json_types(submission.payload))),
        "delay_seconds": _seconds(submission.delay, "delay_seconds"),
        "run_at": submission.run_at,
        "max_attempts": submission.max_attempts,
        "timeout_seconds": _seconds(submission.timeout, "timeout_seconds"),
    }
    key = submission.idempotency_key
    if key is not None:
        _check_key(key)
        if with_key:
            members["idempotency_key"] = key
    present = {name: value for name, value in members.items() if value is not None}
    return msgspec.json.encode(present)


def key_header(key: str) -> str:
    """The Idempotency-Key header as a quoted string (RFC 8941): what a bare one would lose at its
    ends, this keeps."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _check_key(key: str) -> None:
    if not 1 <= len(key) <= MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
        raise InvalidTask(
            f"over HTTP it must be 1 to {MAX_KEY_LENGTH} printable ASCII characters",
            field="idempotency_key",
        )


def _seconds(value: float | timedelta | None, field: str) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if value is not None and not math.isfinite(value):
        raise InvalidTask(f"must be a number of seconds, not {value}", field=field)
    return value

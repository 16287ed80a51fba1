"""Reading the JSON of a request's body: decoded by the Structs of `schemas`, and checked for what a
type cannot say. What is wrong is an InvalidTask that names the member."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from task_queue_engine.codec import decode_json
from task_queue_engine.errors import InvalidTask
from task_queue_engine.http.schemas import (
    BatchItem,
    RawBatch,
    RedriveRequest,
    TaskSubmission,
)
from task_queue_engine.limits import MAX_KEY_LENGTH
from task_queue_engine.task import Task

T = TypeVar("T")

_KEY = re.compile(rf"[\x20-\x7e]{{1,{MAX_KEY_LENGTH}}}")

_submission = msgspec.json.Decoder(TaskSubmission)
_batch_item = msgspec.json.Decoder(BatchItem)
_raw_batch = msgspec.json.Decoder(RawBatch)
_redrive = msgspec.json.Decoder(RedriveRequest)
_object = msgspec.json.Decoder(dict[str, Any])

# How msgspec words its errors: "Expected `int`, got `str` - at `$.tasks[0]`".
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`\Z")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)

_SET_BY_SERVER = frozenset(Task.__struct_fields__) - frozenset(BatchItem.__struct_fields__)


def decode_submission(body: bytes) -> TaskSubmission:
    """Raises InvalidTask, naming the member."""
    submission = _decode(_submission, body)
    _check_text(body)
    check_submission(submission)
    return submission


def decode_batch_item(raw: msgspec.Raw) -> BatchItem:
    """Raises InvalidTask, naming the member."""
    item = _decode(_batch_item, raw)
    _check_text(bytes(raw))
    check_submission(item)
    if item.idempotency_key is not None and not is_key(item.idempotency_key):
        raise InvalidTask(KEY_RULE, field="idempotency_key")
    return item


def decode_batch(body: bytes) -> list[msgspec.Raw]:
    """The items, each to be decoded by itself. Raises InvalidTask."""
    return _decode(_raw_batch, body).tasks


def decode_object(body: bytes) -> dict[str, Any]:
    """Raises InvalidTask."""
    said = _decode(_object, body)
    _check_text(body)
    return said


def decode_redrive(body: bytes) -> RedriveRequest:
    """Raises InvalidTask, naming the member."""
    wanted = _decode(_redrive, body)
    if wanted.all == (wanted.ids is not None):
        raise InvalidTask('send either "ids" or "all": true', field="ids")
    if wanted.limit is not None and not wanted.all:
        raise InvalidTask('goes with "all": true', field="limit")
    return wanted


KEY_RULE = f"must be 1 to {MAX_KEY_LENGTH} printable ASCII characters"


def is_key(text: str) -> bool:
    """Whether `text` can be an idempotency key."""
    return _KEY.fullmatch(text) is not None


def check_submission(submission: TaskSubmission) -> None:
    """What a type cannot say. Raises InvalidTask."""
    if bytes(submission.payload) in (b"null", b'""'):
        raise InvalidTask("must not be empty or null", field="payload")
    if submission.run_at is not None:
        if submission.delay_seconds is not None:
            raise InvalidTask("cannot be given together with delay_seconds", field="run_at")
        in_utc(submission.run_at)


def in_utc(moment: datetime) -> datetime:
    """Raises InvalidTask for a local time so near the ends of the calendar that it has no UTC."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidTask("is outside the years 1 to 9999", field="run_at") from None


def _decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _mismatch(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decode_json(bytes(body))  # says what is wrong, in the words used everywhere else
        raise


# Half of a character beyond U+FFFF.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _check_text(body: bytes) -> None:
    """Raises InvalidTask where a body is no Unicode text: msgspec does not look for that in what it
    leaves undecoded."""
    try:
        body.decode()
    except UnicodeDecodeError:
        decode_json(body)
    if _SURROGATE.search(body):
        decode_json(body)


def _mismatch(message: str) -> InvalidTask:
    if unknown := _UNKNOWN.match(message):
        name = unknown["name"]
        if name in _SET_BY_SERVER:
            return InvalidTask("is set by the server: leave it out", field=name)
        return InvalidTask("is not a known member", field=name[:100])
    if missing := _MISSING.match(message):
        return InvalidTask("is missing", field=missing["name"])
    path = _PATH.search(message)
    if path is None:
        return InvalidTask(message[:1].lower() + message[1:], field="body")
    return InvalidTask(message[:1].lower() + message[1 : path.start()], field=path["path"])

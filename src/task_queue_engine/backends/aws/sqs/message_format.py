"""What lies on a queue: a task's JSON with a few attributes, and how it is read back.

The body is the task as the API returns it; the attributes `TaskType` (String) and `RetryCount`
(Number) are the Go service's; `traceparent` and `tracestate` (W3C Trace Context) are there where
the task has a trace. With `CopyOf` that makes five of the ten that SQS allows. Other programs put
messages there too, so nothing about a message that was received is taken for granted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET

from task_queue_engine.backends.base import (
    DeadLetter,
    DeadLettering,
    Delivery,
    Message,
    TooLarge,
)
from task_queue_engine.lifecycle import Receive
from task_queue_engine.task import Task, TaskError
from task_queue_engine.trace_context import TraceContext, parse

MAX_MESSAGE_BYTES: Final = 1_048_576
"""1 MiB, for a message with its attributes and for a batch (Amazon SQS message quotas)."""

ROOM_TO_GROW: Final = 512
"""Bytes kept free in a new task's message for what its retries write into the fields that it has
(times, counts), and for the CopyOf of a message that is given back."""

# Bytes, more than all fields of a new task's JSON take together, but payload and type (in the body
# and in an attribute, escaped), with the attributes and the room to grow.
_MAX_FIELDS = 4_096

SYSTEM_ATTRIBUTES: Final = ("ApproximateReceiveCount", "SentTimestamp")
COPY_OF: Final = "CopyOf"
"""Attribute of a copy: "id:receives" of the messages that it replaces, with commas."""
READ_ATTRIBUTES: Final = (COPY_OF, "traceparent", "tracestate")
DEAD_LETTER_ATTRIBUTES: Final = ("TaskType", "Reason", "Error", "Attempts", "FailedAt")

# Half of what a key of the table may have (DynamoDB: 2,048), and far more than any task id.
_MAX_ID_BYTES = 1024
# Members of a task's JSON that its attempts write, and that can be large.
_OF_ATTEMPTS = {"error", "progress", "result", "worker"}
# What a message without a task is claimed as: followed by its message id, it is no task's id.
_UNREADABLE = "unreadable-message-"
# Characters of an attribute that says why: enough to read, little of the message's 1 MiB.
_MAX_REASON = 1024
# Characters of an error's message where the whole, with its traceback, does not fit.
_SHORT_ERROR = 2000
# Receives that a copy names: the last ones, so that copies of copies do not grow. As many as it
# takes for the delay of what no worker can run to reach its longest (`actors/type_check.py`).
_MAX_COPIED = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF (SendMessage).
_NOT_ALLOWED = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
# Of these, what JSON text can hold unescaped; escaped it is the same JSON.
_ESCAPES = {"\ufffe": "\\ufffe", "\uffff": "\\uffff"}


class _Named(msgspec.Struct):
    """The members of a body that are looked at. Without an id it is not a task; a foreign program
    may have left out, or made something else of, the others."""

    id: str
    type: Any = ""
    payload: msgspec.Raw = msgspec.Raw()
    retry_count: Any = 0

    @property
    def attributes(self) -> dict[str, Any]:
        return _attributes(
            TaskType=self.type if isinstance(self.type, str) else "",
            RetryCount=self.retry_count if type(self.retry_count) is int else 0,
        )


_encode = msgspec.json.Encoder().encode
_decode_named = msgspec.json.Decoder(_Named).decode
_decode_error = msgspec.json.Decoder(TaskError).decode


class Outgoing(msgspec.Struct):
    """A message to be sent."""

    body: str
    attributes: dict[str, Any]
    delay: int = 0
    """Whole seconds."""
    size: int = 0
    """Bytes as SQS counts them: the body, and name, type and value of each attribute."""

    def __post_init__(self) -> None:
        self.size = _bytes(self.body)
        for name, value in self.attributes.items():
            self.size += len(name) + len(value["DataType"]) + _bytes(value["StringValue"])

    @property
    def task_type(self) -> str:
        found: str = self.attributes.get("TaskType", {}).get("StringValue", "")
        return found


def outgoing(message: Message, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Outgoing:
    """A task as it is sent.

    Over `max_bytes` without what its attempts have left on it (error, progress), which is in the
    store as well: the message of a retry is never larger than the first one was allowed to be.
    """
    task = message.task
    if message.payload_json is not None:
        task = msgspec.structs.replace(task, payload=msgspec.Raw(message.payload_json))
    whole = _outgoing(task, message.delay)
    if whole.size <= max_bytes:
        return whole
    bare = msgspec.structs.replace(
        task, error=None, progress=None, result=None, worker=None, trace_context=UNSET
    )
    return _outgoing(bare, message.delay)


def _outgoing(task: Task, delay: float) -> Outgoing:
    attributes = _attributes_of(task.type, task.retry_count)
    if task.trace_context is not UNSET:
        attributes = attributes | _attributes(**task.trace_context.headers())
    return Outgoing(_json_text(_encode(task)), attributes, whole_seconds(delay))


# Few types, few counts: the same ones again and again. They are shared, and never changed.
@lru_cache(maxsize=256)
def _attributes_of(task_type: str, retry_count: int) -> dict[str, Any]:
    return _attributes(TaskType=task_type, RetryCount=retry_count)


def too_large(message: Message, *, max_bytes: int) -> TooLarge | None:
    """Whether a new task's message, or one of its retries, is over `max_bytes`; in terms of the
    payload, which is what the submitter can change."""
    payload = len(message.payload_json or _encode(message.task.payload))
    # Most are far from the limit: then nothing needs to be encoded to say so.
    if payload + _MAX_FIELDS + 12 * len(message.task.type) <= max_bytes:
        return None
    excess = outgoing(message).size + ROOM_TO_GROW - max_bytes
    return TooLarge(payload, max(0, payload - excess)) if excess > 0 else None


def fresh_copy(delivery: Delivery, delay: float, *, max_bytes: int) -> Outgoing:
    """What was received, to be sent once more: a new message with no receives yet.

    It may have been given back before it was claimed, while its task is PROCESSING under a dead
    owner. So it says what it is a copy of (if there is room), which proves that the owner's lease
    has lapsed.
    """
    named = _read(delivery.body)
    body, attributes = delivery.body.decode(), named.attributes if named else {}
    if delivery.trace_context is not None:
        attributes |= _attributes(**delivery.trace_context.headers())
    copied = (*delivery.copy_of, Receive(delivery.message_id, delivery.receive_count))
    said = ",".join(f"{one.message_id}:{one.count}" for one in copied[-_MAX_COPIED:])
    copy = Outgoing(body, attributes | _attributes(**{COPY_OF: said}), whole_seconds(delay))
    return copy if copy.size <= max_bytes else Outgoing(body, attributes, copy.delay)


def outgoing_dead_letter(item: DeadLettering, *, max_bytes: int) -> Outgoing:
    """The message as it was received, with why it died: `Reason`, `Error` (JSON with type, message
    and traceback), `Attempts` and `FailedAt` (RFC 3339).

    Over `max_bytes`, the limit of the dead-letter queue, the traceback is cut off, then the error's
    message. Where the body alone is over it (that queue takes less than the one that it was
    received from), the body goes without what its attempts have left on it, in the end without its
    payload: the task's row has all of that, and a redrive needs the id alone.
    """
    named = _read(item.delivery.body)
    reason = item.reason if named else f"its body is not a task: {item.reason}"
    attributes = _attributes(
        TaskType=item.task_type,
        RetryCount=item.attempts,
        Reason=reason[:_MAX_REASON],
        Attempts=item.attempts,
        FailedAt=_write_time(item.at),
    )
    error = item.error
    errors = (error, _cut(error, _SHORT_ERROR), _cut(error, 0)) if error else ()
    for body in _bodies(item.delivery.body, named):
        for shorter in errors:
            with_error = attributes | _attributes(Error=_json_text(_encode(shorter)))
            complete = Outgoing(body, with_error)
            if complete.size <= max_bytes:
                return complete
        without_error = Outgoing(body, attributes)
        if without_error.size <= max_bytes:
            return without_error
    return without_error


def _bodies(body: bytes, named: _Named | None) -> Iterator[str]:
    """A dead letter's body, and shorter ones that name the same task."""
    yield body.decode()
    if named is None:
        return  # it says nothing but itself
    task = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for left_out in (_OF_ATTEMPTS, {*_OF_ATTEMPTS, "payload"}):
        yield _json_text(
            _encode({name: value for name, value in task.items() if name not in left_out})
        )


def delivery(received: Mapping[str, Any]) -> Delivery:
    """A message of ReceiveMessage's answer.

    Where the body is not a task, the task id is one that no task has: claiming it finds nothing.
    """
    body = str(received.get("Body", "")).encode()
    message_id = str(received["MessageId"])
    named = _read(body)
    count = received.get("Attributes", {}).get("ApproximateReceiveCount", "1")
    return Delivery(
        task_id=named.id if named else f"{_UNREADABLE}{message_id}",
        message_id=message_id,
        receipt=str(received["ReceiptHandle"]),
        receive_count=int(count),
        copy_of=_read_copied(received),
        body=body,
        task_type=named.type if named and isinstance(named.type, str) else "",
        payload_json=bytes(named.payload) if named else b"",
        trace_context=_read_trace_context(received),
    )


def _read_trace_context(received: Mapping[str, Any]) -> TraceContext | None:
    attributes = received.get("MessageAttributes")
    if not attributes or "traceparent" not in attributes:
        return None
    said = {
        name: [str(attributes[name].get("StringValue", ""))] if name in attributes else []
        for name in ("traceparent", "tracestate")
    }
    return parse(said["traceparent"], said["tracestate"])


def _read_copied(received: Mapping[str, Any]) -> tuple[Receive, ...]:
    attributes = received.get("MessageAttributes")
    if not attributes:
        return ()
    said = str(attributes.get(COPY_OF, {}).get("StringValue", ""))
    parts = (part.rpartition(":") for part in said.split(",")[-_MAX_COPIED:])
    return tuple(
        Receive(message_id, int(count))
        for message_id, _, count in parts
        if count.isascii() and count.isdigit() and len(count) < 10
    )


def sent_at(received: Mapping[str, Any]) -> datetime:
    """When a message was first sent; a move to the dead-letter queue does not change it."""
    return _EPOCH + timedelta(milliseconds=_sent_timestamp(received))


def first_sent(received: Iterable[Mapping[str, Any]]) -> datetime | None:
    """When the oldest was sent of those that are received for the first time."""
    sent = [
        _sent_timestamp(message)
        for message in received
        if message.get("Attributes", {}).get("ApproximateReceiveCount", "1") == "1"
    ]
    return _EPOCH + timedelta(milliseconds=min(sent)) if sent else None


def _sent_timestamp(received: Mapping[str, Any]) -> int:
    return int(received.get("Attributes", {}).get("SentTimestamp", "0"))


@dataclass(frozen=True, slots=True)
class ReceivedDeadLetter:
    dead_letter: DeadLetter
    moved_by_sqs: bool
    """It carries no reason: the redrive policy moved it."""


def received_dead_letter(received: Mapping[str, Any], *, max_receives: int) -> ReceivedDeadLetter:
    """A message of ReceiveMessage's answer about the dead-letter queue.

    Args:
        max_receives: after how many receives the redrive policy moves a message.
    """
    attributes = {
        name: str(value.get("StringValue", ""))
        for name, value in (received.get("MessageAttributes") or {}).items()
    }
    message = delivery(received)
    reason = attributes.get("Reason")
    return ReceivedDeadLetter(
        DeadLetter(
            id=message.message_id,
            task_id=message.task_id,
            task_type=attributes.get("TaskType", ""),
            reason=reason or moved_reason(max_receives),
            error=_read_error(attributes.get("Error")),
            attempts=_read_number(attributes.get("Attempts")),
            at=_read_time(attributes.get("FailedAt")) or sent_at(received),
            receipt=message.receipt,
        ),
        moved_by_sqs=reason is None,
    )


def moved_reason(max_receives: int) -> str:
    return f"moved by SQS: received {max_receives} times and never settled, its process died"


def whole_seconds(seconds: float) -> int:
    """Rounded up: never early."""
    return math.ceil(seconds)


def _json_text(encoded: bytes) -> str:
    text = encoded.decode()
    for char, escape in _ESCAPES.items():
        if char in text:
            text = text.replace(char, escape)
    return text


def _attributes(**values: str | int) -> dict[str, Any]:
    """SQS allows no empty value: what is empty is left out."""
    return {
        name: {"DataType": "Number", "StringValue": str(value)}
        if isinstance(value, int)
        else {"DataType": "String", "StringValue": _NOT_ALLOWED.sub("\ufffd", value)}
        for name, value in values.items()
        if value != ""
    }


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _read(body: bytes) -> _Named | None:
    try:
        named = _decode_named(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not 0 < _bytes(named.id) <= _MAX_ID_BYTES:
        return None
    return named


def _cut(error: TaskError | None, length: int) -> TaskError | None:
    if error is None:
        return None
    return TaskError(type=error.type[:200], message=error.message[:length])


def _read_error(text: str | None) -> TaskError | None:
    if text is None:
        return None
    try:
        return _decode_error(text)
    except msgspec.DecodeError:
        return TaskError(type="", message=text)


def _read_number(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0


def _write_time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _read_time(text: str | None) -> datetime | None:
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return at.astimezone(UTC) if at.tzinfo else None

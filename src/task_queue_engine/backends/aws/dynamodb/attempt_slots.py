"""Attempts that were put away, as attributes of their task's item: `attempt_1` to `attempt_20`.

An attribute for each slot of `lifecycle.history`, and no list: the write that ends an attempt sets
one without having read the item, sets the same again where it is repeated, and there are never
more. What is not there to begin with costs nothing.

They make room for all else: a write that an item of 400 KB has no room for comes back, and what is
written then is without log lines, then without tracebacks, then without the attempts in the middle.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from task_queue_engine.attempt_record import AttemptOutcome, AttemptRecord
from task_queue_engine.backends.aws.dynamodb.item_format import AttributeValue, Item
from task_queue_engine.backends.aws.dynamodb.item_size import item_size
from task_queue_engine.backends.aws.dynamodb.schema import MAX_ITEM_BYTES
from task_queue_engine.lifecycle import SLOTS, crash_error, slot_of, supersedes

NAMES = frozenset(f"attempt_{slot}" for slot in range(1, SLOTS + 1))

# For zlib: what the JSON of an attempt is mostly made of, the most common last. DynamoDB bills
# every further write of an item by its started KB, and with this a retried attempt without a
# traceback takes 90 bytes instead of 280, one with a short traceback 230 instead of 770, a hundred
# log lines 840 instead of 13,000 (measured). Fixed for good: tables are full of what it was used
# for. Another one would go beside it, zlib says in what it writes which it was.
_DICTIONARY = (
    b',"message":"Traceback (most recent call last):\\n  File \\"/usr/local/lib/python3/'
    b'site-packages/\\", line , in \\n    raise RuntimeErrorTimeoutErrorConnectionError"},'
    b'"progress":,"logs_omitted":,"logs":[{"time":"2026-01-01T00:00:00.000000Z","level":"WARNING",'
    b'"logger":"","level":"ERROR","logger":"","level":"INFO","logger":"","message":"'
    b'{"number":1,"outcome":"succeeded{"number":1,"outcome":"lost_lease{"number":1,"outcome":"'
    b'cancelled{"number":1,"outcome":"snoozed{"number":1,"outcome":"interrupted{"number":1,'
    b'"outcome":"crashed{"number":1,"outcome":"failed{"number":1,"outcome":"retried","worker":"'
    b'ip-10-0-","version":"0.1.0","started_at":"2026-01-01T00:00:00.000000Z","ended_at":"'
    b'2026-01-01T00:00:00.000000Z","error":{"type":"ValueError","message":"'
)

# Bytes left free once something had to make room: the next writes need not come back for theirs.
_ROOM = 8 * 1024

_EMPTY: tuple[Any, ...] = (None, ())

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AttemptRecord).decode


def name_of(record: AttemptRecord) -> str:
    return f"attempt_{slot_of(record.number)}"


def encode(record: AttemptRecord) -> AttributeValue:
    said = msgspec.structs.asdict(record)
    if record.error == crash_error(record.number, record.worker):
        del said["error"]  # it lies in the item already, and says no more than the outcome
    elif record.error is not None and record.error.traceback is None:
        said["error"] = {"type": record.error.type, "message": record.error.message}
    packer = zlib.compressobj(zdict=_DICTIONARY)
    data = packer.compress(
        _encode({name: value for name, value in said.items() if value not in _EMPTY})
    )
    return {"B": base64.b64encode(data + packer.flush()).decode()}


def _restored(record: AttemptRecord) -> AttemptRecord:
    if record.outcome is not AttemptOutcome.CRASHED or record.error is not None:
        return record
    return msgspec.structs.replace(record, error=crash_error(record.number, record.worker))


def decode(value: AttributeValue | None) -> AttemptRecord | None:
    """None also for what cannot be read: nothing rests on it."""
    try:
        if value is None:
            return None
        unpacker = zlib.decompressobj(zdict=_DICTIONARY)
        return _restored(_decode(unpacker.decompress(base64.b64decode(value["B"]))))
    except (KeyError, ValueError, msgspec.DecodeError, zlib.error):
        return None


def in_item(item: Mapping[str, AttributeValue]) -> Iterator[AttemptRecord]:
    for name in NAMES & item.keys():
        record = decode(item[name])
        if record is not None:
            yield record


def put_away(record: AttemptRecord, read: Item, sets: Item) -> None:
    """Add it to a change of the item that was read."""
    name = name_of(record)
    if supersedes(record, decode(read.get(name))):
        sets[name] = encode(record)


def make_room(read: Item, sets: Item, removes: tuple[str, ...]) -> tuple[str, ...]:
    """Take out of a change, and of the item, what this has no room for. Returns what to remove."""
    after = {name: value for name, value in (read | sets).items() if name not in removes}
    size = item_size(after)
    if size <= MAX_ITEM_BYTES:
        return removes
    records = sorted(in_item(after), key=lambda record: record.number)
    for less in _LESS:
        for record in _middle_first(records):
            name = name_of(record)
            if size <= MAX_ITEM_BYTES - _ROOM:
                return removes
            if name not in after:
                continue
            smaller = less(record)
            if smaller == record:
                continue
            size -= item_size({name: after.pop(name)})
            if smaller is None:
                sets.pop(name, None)
                removes += (name,) if name in read else ()
                continue
            records[records.index(record)] = smaller
            sets[name] = after[name] = encode(smaller)
            size += item_size({name: after[name]})
    return removes


def _middle_first(records: list[AttemptRecord]) -> list[AttemptRecord]:
    """The first and the last attempt say most, and go last."""
    middle = (len(records) - 1) / 2
    return sorted(records, key=lambda record: abs(records.index(record) - middle))


def _without_logs(record: AttemptRecord) -> AttemptRecord:
    omitted = record.logs_omitted + len(record.logs)
    return msgspec.structs.replace(record, logs=(), logs_omitted=omitted)


def _without_traceback(record: AttemptRecord) -> AttemptRecord:
    error = record.error and msgspec.structs.replace(record.error, traceback=None)
    return msgspec.structs.replace(record, error=error)


_LESS: tuple[Callable[[AttemptRecord], AttemptRecord | None], ...] = (
    _without_logs,
    _without_traceback,
    lambda record: None,
)

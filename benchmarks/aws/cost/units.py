"""AWS's published rules of what is billed, as pure functions.

Sources, in the Amazon DynamoDB Developer Guide: "DynamoDB item sizes and formats" (sizes),
"DynamoDB read and write operations" (units), "Using global secondary indexes in DynamoDB",
"Provisioned throughput considerations" (what a write does to an index). Amazon SQS pricing: every
64 KB chunk of a payload is billed as a request.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Item = Mapping[str, Mapping[str, Any]]
"""Attribute name to typed value, {"S": "text"}, as the API has it."""

_KB = 1024
_READ_UNIT = 4 * _KB
_SQS_CHUNK = 64 * _KB


# --- sizes ------------------------------------------------------------------------------------


def item_size(item: Item) -> int:
    """Bytes: names and values."""
    return sum(len(name.encode()) + value_size(value) for name, value in item.items())


def value_size(value: Mapping[str, Any]) -> int:
    ((kind, held),) = value.items()
    match kind:
        case "S":
            return len(held.encode())
        case "N":
            return _number_size(held)
        case "B":
            return _binary_size(held)
        case "BOOL" | "NULL":
            return 1
        case "SS":
            return sum(len(each.encode()) for each in held)
        case "NS":
            return sum(_number_size(each) for each in held)
        case "BS":
            return sum(_binary_size(each) for each in held)
        case "L":
            return 3 + sum(1 + value_size(each) for each in held)
        case "M":
            return 3 + sum(1 + len(name.encode()) + value_size(each) for name, each in held.items())
    raise ValueError(f"no type of DynamoDB's: {kind!r}")


def _number_size(text: str) -> int:
    """About one byte for two significant digits, and one."""
    mantissa = text.lower().partition("e")[0]
    digits = mantissa.lstrip("-+").replace(".", "").strip("0")
    return math.ceil(len(digits) / 2) + 1 + mantissa.startswith("-")


def _binary_size(held: bytes | str) -> int:
    return len(held if isinstance(held, bytes) else base64.b64decode(held))


# --- units ------------------------------------------------------------------------------------


def write_units(size: int) -> int:
    """Of one item of so many bytes."""
    return max(1, math.ceil(size / _KB))


def read_units(size: int, *, consistent: bool) -> float:
    """Of one item, or of all that one Query went through; 0 bytes: of what was not there."""
    units = max(1, math.ceil(size / _READ_UNIT))
    return float(units) if consistent else units / 2


def table_write(old: Item | None, new: Item | None) -> int:
    """Of a write that made `old` into `new` (None: no item): the larger of the two counts."""
    return write_units(max(item_size(old or {}), item_size(new or {})))


def refused_write(existing: Item | None) -> int:
    """Of a write whose condition failed: the item that stood in its way counts."""
    return write_units(item_size(existing or {}))


def sqs_requests(payload: int) -> int:
    """What one request with so many bytes of payload is billed as."""
    return max(1, math.ceil(payload / _SQS_CHUNK))


# --- indexes ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    name: str
    keys: tuple[str, ...]
    """Of the index."""
    table_keys: tuple[str, ...]
    projected: tuple[str, ...] | None = ()
    """Besides the keys; None: all attributes."""

    @classmethod
    def of(cls, described: Mapping[str, Any], table_keys: tuple[str, ...]) -> Index:
        """From DescribeTable's answer."""
        projection = described["Projection"]
        return cls(
            name=described["IndexName"],
            keys=tuple(key["AttributeName"] for key in described["KeySchema"]),
            table_keys=table_keys,
            projected=None
            if projection["ProjectionType"] == "ALL"
            else tuple(projection.get("NonKeyAttributes", ())),
        )

    def entry(self, item: Item | None) -> Item | None:
        """What the index holds of an item; None where it lacks one of the index's keys."""
        if item is None or any(key not in item for key in self.keys):
            return None
        if self.projected is None:
            return item
        names = {*self.keys, *self.table_keys, *self.projected}
        return {name: value for name, value in item.items() if name in names}


def index_write(index: Index, old: Item | None, new: Item | None) -> int:
    """An entry put or removed is one write, one whose key changes is both; one whose other
    attributes change is one write, and one that does not change is none."""
    before, after = index.entry(old), index.entry(new)
    if before is None and after is None:
        return 0
    if before is None or after is None:
        return write_units(item_size(before or after or {}))
    if any(before[key] != after[key] for key in index.keys):
        return write_units(item_size(before)) + write_units(item_size(after))
    if before != after:
        return write_units(max(item_size(before), item_size(after)))
    return 0

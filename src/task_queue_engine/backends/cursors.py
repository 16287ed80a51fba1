"""Opaque cursors for listings: where a page ended, as URL-safe text.

A cursor comes back from the outside, so it is checked like any input: kind and types must match.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec

from task_queue_engine.errors import InvalidQuery

T = TypeVar("T")

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer that a database can hold."""

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A datetime that can be compared with aware ones."""

MAX_LIMIT = 2**31 - 1
"""Above what any caller asks for, and a number that every backend can hold."""

_encoder = msgspec.json.Encoder()


def encode_cursor(kind: str, position: object) -> str:
    """`position` (a tuple of JSON types) as text; `kind` keeps cursors of other listings out."""
    return base64.urlsafe_b64encode(_encoder.encode((kind, position))).rstrip(b"=").decode("ascii")


def decode_cursor(cursor: str, kind: str, shape: type[T]) -> T:
    """The position in `cursor`.

    Raises:
        InvalidQuery: for field "cursor": not one that a listing of this kind has given out.
    """
    try:
        raw = cursor.encode("ascii")
        data = base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
        found, position = msgspec.json.decode(data, type=tuple[str, shape])  # type: ignore[valid-type]  # a type held in a variable
    except (UnicodeEncodeError, binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        found, position = None, None
    if found != kind or position is None:
        raise InvalidQuery("is not a cursor of this listing", field="cursor")
    return position


def check_limit(limit: int) -> None:
    """Raises InvalidQuery for field "limit" below 1 or beyond MAX_LIMIT."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidQuery(f"must be 1 to {MAX_LIMIT}, not {limit}", field="limit")

"""Opaque cursors for listings: where a page ended, as URL-safe text.

A cursor comes back from the outside, so it is checked like any input: kind and types must match.
"""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

import msgspec

from task_queue_engine.errors import InvalidQuery

T = TypeVar("T")

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
    """Raises InvalidQuery for field "limit" below 1."""
    if limit < 1:
        raise InvalidQuery(f"must be at least 1, not {limit}", field="limit")

"""JSON in and out, strictly: what is stored is what was meant, or an InvalidTask says why not.

msgspec is fast but lenient where a queue must not be: it writes NaN as null. The slow look happens
only where the fast result shows it could matter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from task_queue_engine.errors import InvalidTask

MAX_DEPTH = 100
"""Nesting of arrays and objects: well under Python's recursion limit and jq's default of 256."""

MAX_INTEGER_DIGITS = 308
"""Longer integers are not JSON numbers that other programs can read (RFC 8259, section 6)."""

UNWRITABLE = "cannot be written as JSON"
"""How the refusal of an object starts that msgspec does not know."""

# A high surrogate alone near the end of the data: msgspec only says "Input data was truncated".
_CUT_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")

_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MAX_INTEGER_DIGITS + 1))

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


def encode_json(value: Any, *, field: str = "payload") -> bytes:
    """Encode `value` (JSON types, or what msgspec can turn into them: dataclasses, Structs,
    datetimes, UUIDs, enums).

    Raises:
        InvalidTask: naming the path below `field`: not encodable, NaN or infinite, a lone
            surrogate, a NUL character, nested deeper than MAX_DEPTH, an integer of more than
            MAX_INTEGER_DIGITS digits.
    """
    try:
        encoded = _encoder.encode(value)
    except RecursionError:
        raise InvalidTask(f"is nested deeper than {MAX_DEPTH} levels", field=field) from None
    except (TypeError, ValueError, OverflowError) as error:
        _look_closely(value, field)
        raise InvalidTask(f"{UNWRITABLE}: {error}", field=field) from None
    if _is_suspicious(encoded):
        _look_closely(value, field)
    return encoded


def decode_json(data: bytes, *, field: str = "body") -> Any:
    """Decode UTF-8 JSON.

    Raises:
        InvalidTask: broken JSON, not UTF-8, NaN, out-of-range numbers, nested too deeply.
    """
    try:
        return _decoder.decode(data)
    except RecursionError:
        raise InvalidTask(f"is nested deeper than {MAX_DEPTH} levels", field=field) from None
    except UnicodeDecodeError as error:
        raise InvalidTask(f"is not UTF-8 (byte {error.start})", field=field) from None
    except (msgspec.DecodeError, ValueError) as error:
        if "surrogate" in str(error) or _CUT_SURROGATE.search(data):
            message = "contains a lone surrogate, which is not Unicode text"
            raise InvalidTask(message, field=field) from None
        raise InvalidTask(f"is not valid JSON: {error}", field=field) from None


def _is_suspicious(encoded: bytes) -> bool:
    return (
        b"null" in encoded  # perhaps a NaN
        or b"\\u0000" in encoded
        or encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH
        or _LONG_NUMBER.search(encoded) is not None
    )


def _look_closely(value: Any, field: str) -> None:
    """Walk `value` without recursion and raise InvalidTask at the first thing JSON cannot say."""
    stack: list[tuple[Any, str, int]] = [(value, field, 0)]
    while stack:
        item, path, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise InvalidTask(f"is nested deeper than {MAX_DEPTH} levels", field=field)
        if isinstance(item, str):
            _check_text(item, path)
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise InvalidTask(f"{item} is not a JSON number", field=path)
        elif isinstance(item, int):
            if abs(item) >= 10**MAX_INTEGER_DIGITS:
                raise InvalidTask(
                    f"is an integer of more than {MAX_INTEGER_DIGITS} digits", field=path
                )
        elif isinstance(item, Mapping):
            for key, member in item.items():
                if isinstance(key, str):
                    _check_text(key, path)
                stack.append((member, f"{path}.{key!s:.60}", depth + 1))
        elif isinstance(item, list | tuple | set | frozenset):
            stack.extend((member, f"{path}[{i}]", depth + 1) for i, member in enumerate(item))
        elif not isinstance(item, bool | bytes | bytearray | None):
            try:
                plain = msgspec.to_builtins(item)
            except (TypeError, ValueError, RecursionError) as error:
                raise InvalidTask(f"{UNWRITABLE}: {error}", field=path) from None
            if type(plain) is not type(item):
                stack.append((plain, path, depth))


def _check_text(text: str, path: str) -> None:
    if "\x00" in text:
        raise InvalidTask("contains a NUL character (U+0000)", field=path)
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidTask("contains a lone surrogate, which is not Unicode text", field=path)


def is_unicode(text: str) -> bool:
    """False where it holds a lone surrogate, as an argument of a command does that was not UTF-8
    (PEP 383). Nothing that is stored does."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

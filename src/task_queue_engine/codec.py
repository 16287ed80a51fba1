"""JSON in and out, strictly: what is stored is what was meant, or an InvalidTask says why not.

msgspec is fast but lenient where a queue must not be: it writes NaN as null. A closer look happens
only where the fast result shows it could matter, and walks through no large value in Python: that
would hold the loop for as long as a submitter likes.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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

# Without the look behind it would try every digit of every number.
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d}" % (MAX_INTEGER_DIGITS + 1))

# An escaped NUL, and not a backslash before "u0000".
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_SURROGATE = re.compile("[\ud800-\udfff]")

_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_RUN = re.compile(rb"\[+|\]+")
_OPENING = ord("[")
_PASSES = 8

# Bytes of JSON that can make thousands of objects.
_LARGE = 16_384

# Items looked at for the path of what is known to be wrong: some ten milliseconds.
_MAX_LOOK = 10_000

_HAS_NUL = "contains a NUL character (U+0000)"
_LONG_INTEGER = f"is an integer of more than {MAX_INTEGER_DIGITS} digits"
_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"

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
        raise InvalidTask(_TOO_DEEP, field=field) from None
    except (TypeError, ValueError, OverflowError) as error:
        _look_closely(value, field)
        raise InvalidTask(f"{UNWRITABLE}: {error}", field=field) from None
    problem = _problem(value, encoded)
    if problem is not None:
        _look_closely(value, field)
        raise InvalidTask(problem, field=field)
    return encoded


def decode_json(data: bytes, *, field: str = "body") -> Any:
    """Decode UTF-8 JSON.

    Raises:
        InvalidTask: broken JSON, not UTF-8, NaN, out-of-range numbers, nested too deeply.
    """
    try:
        if len(data) < _LARGE:
            return _decoder.decode(data)
        with _uncollected():
            return _decoder.decode(data)
    except RecursionError:
        raise InvalidTask(_TOO_DEEP, field=field) from None
    except UnicodeDecodeError as error:
        raise InvalidTask(f"is not UTF-8 (byte {error.start})", field=field) from None
    except (msgspec.DecodeError, ValueError) as error:
        if "surrogate" in str(error) or _CUT_SURROGATE.search(data):
            message = "contains a lone surrogate, which is not Unicode text"
            raise InvalidTask(message, field=field) from None
        raise InvalidTask(f"is not valid JSON: {error}", field=field) from None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would walk again and again through what is being made.
    A decoder makes no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:  # and where another thread is in here too, that one enables it
            gc.enable()


def _problem(value: Any, encoded: bytes) -> str | None:
    """What is wrong with a value that msgspec has encoded as `encoded`."""
    if b"\\u0000" in encoded and _NUL.search(encoded):
        return _HAS_NUL
    brackets = encoded.count(b"[") + encoded.count(b"{")
    if brackets > MAX_DEPTH or _LONG_NUMBER.search(encoded):
        bare = _STRING.sub(b"", encoded)
        if _LONG_NUMBER.search(bare):
            return _LONG_INTEGER
        if _is_deeper(bare, MAX_DEPTH):
            return _TOO_DEEP
    if b"null" in encoded and not _is_finite(value):  # perhaps a NaN
        return "contains a NaN or an infinite number, which is no JSON"
    return None


def _is_deeper(bare: bytes, most: int) -> bool:
    """Whether JSON without its strings nests deeper."""
    brackets = bare.translate(_TO_BRACKETS, _NO_BRACKETS)
    # Each pass takes the innermost level away. What is left has few runs of brackets, each long.
    for _ in range(_PASSES):
        brackets = brackets.replace(b"[]", b"")
    deepest = depth = _PASSES if brackets else 0
    for run in _RUN.findall(brackets):
        depth += len(run) if run[0] == _OPENING else -len(run)
        deepest = max(deepest, depth)
    return deepest > most


def _is_finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, check_circular=False, default=msgspec.to_builtins)
    except (TypeError, ValueError, RecursionError):
        # NaN, or what the standard library does not know: keys that are times, msgspec.Raw.
        try:
            _look_closely(value, "", most=None)
        except InvalidTask:
            return False
    return True


def _look_closely(value: Any, field: str, *, most: int | None = _MAX_LOOK) -> None:
    """Walk `value` without recursion and raise InvalidTask, with its path, at the first thing JSON
    cannot say; give up after `most` items."""
    stack: list[Iterator[tuple[Any, str]]] = [iter([(value, field)])]
    left = math.inf if most is None else most
    while stack and left:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        left -= 1
        item, path = entry
        if len(stack) > MAX_DEPTH + 1:
            raise InvalidTask(_TOO_DEEP, field=field)
        if isinstance(item, str):
            _check_text(item, path)
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise InvalidTask(f"{item} is not a JSON number", field=path)
        elif isinstance(item, int):
            if abs(item) >= 10**MAX_INTEGER_DIGITS:
                raise InvalidTask(_LONG_INTEGER, field=path)
        elif isinstance(item, Mapping):
            stack.append(_members(item, path))
        elif isinstance(item, list | tuple | set | frozenset):
            stack.append(_items(item, path))
        elif not isinstance(item, bool | bytes | bytearray | None):
            try:
                plain = msgspec.to_builtins(item)
            except (TypeError, ValueError, RecursionError) as error:
                raise InvalidTask(f"{UNWRITABLE}: {error}", field=path) from None
            if type(plain) is not type(item):
                stack[-1] = itertools.chain([(plain, path)], stack[-1])


def _members(item: Mapping[Any, Any], path: str) -> Iterator[tuple[Any, str]]:
    for key, member in item.items():
        if isinstance(key, str):
            _check_text(key, path)
        yield member, f"{path}.{key!s:.60}"


def _items(items: Iterable[Any], path: str) -> Iterator[tuple[Any, str]]:
    for index, item in enumerate(items):
        yield item, f"{path}[{index}]"


def _check_text(text: str, path: str) -> None:
    if "\x00" in text:
        raise InvalidTask(_HAS_NUL, field=path)
    if _SURROGATE.search(text):
        raise InvalidTask("contains a lone surrogate, which is not Unicode text", field=path)


def is_unicode(text: str) -> bool:
    """False where it holds a lone surrogate, as an argument of a command does that was not UTF-8
    (PEP 383). Nothing that is stored does."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

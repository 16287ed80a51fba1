"""JSON, strictly: what comes back is what was meant, or an error says what is wrong with it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from task_queue_engine import InvalidTask
from task_queue_engine.codec import MAX_DEPTH, MAX_INTEGER_DIGITS, decode_json, encode_json
from tests.sizes import size

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=30,
)


@settings(max_examples=size(200, in_full=2_000))
@given(JSON)
@example(math.nan)
@example({"a": [1, {"b": math.inf}]})
@example("\ud800")
@example({"\udfff": 1})
@example("a\x00b")
@example({"\x00": 1})
@example(2**64)
@example(-(2**63))
@example(2**70)
@example([10**MAX_INTEGER_DIGITS - 1, -(10**MAX_INTEGER_DIGITS) + 1])
@example(10**MAX_INTEGER_DIGITS)
@example(0.1 + 0.2)
@example(-0.0)
@example(5e-324)
@example("null")
@example([None, "\u0000"[:0]])
def test_a_round_trip_or_a_refusal(value: Any) -> None:
    if is_not_json(value):
        with pytest.raises(InvalidTask) as caught:
            encode_json(value)
        assert caught.value.field.startswith("payload")
    else:
        encoded = encode_json(value)
        assert same(decode_json(encoded), value)
        assert same(json.loads(encoded), value), "any other program reads the same"


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: 1 is not true."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return type(one) is type(other) and one == other


def is_not_json(value: Any) -> bool:
    match value:
        case dict():
            return any(is_not_json(key) or is_not_json(item) for key, item in value.items())
        case list():
            return any(map(is_not_json, value))
        case str():
            return "\x00" in value or any(0xD800 <= ord(char) <= 0xDFFF for char in value)
        case bool():
            return False
        case float():
            return not math.isfinite(value)
        case int():
            return abs(value) >= 10**MAX_INTEGER_DIGITS
        case _:
            return False


def nested(depth: int, key: str | None = None) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if key is None else {key: value}
    return value


@dataclass
class Reading:
    value: float


@pytest.mark.parametrize(
    ("value", "field", "said"),
    [
        (math.nan, "payload", "nan is not a JSON number"),
        ({"a": [0, -math.inf]}, "payload.a[1]", "-inf is not a JSON number"),
        ({"a": {"b": "\ud83d"}}, "payload.a.b", "lone surrogate"),
        ({"a": "x\x00"}, "payload.a", "NUL character"),
        ({"a\x00": 1}, "payload", "NUL character"),
        ([10**MAX_INTEGER_DIGITS], "payload[0]", "more than 308 digits"),
        ({"a": object()}, "payload.a", "cannot be written as JSON"),
        ([Reading(math.nan)], "payload[0].value", "nan is not a JSON number"),
        (nested(MAX_DEPTH + 1), "payload", "nested deeper than 100"),
        (nested(MAX_DEPTH + 1, "a"), "payload", "nested deeper than 100"),
        (nested(200_000), "payload", "nested deeper than 100"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused_is_named(value: Any, field: str, said: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        encode_json(value)
    assert caught.value.field == field
    assert said in caught.value.reason


def test_a_structure_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidTask, match="nested deeper"):
        encode_json(loop)


def test_at_the_limits_all_is_taken() -> None:
    for value in (
        nested(MAX_DEPTH),
        [[] for _ in range(1000)],
        "x" * 100_000,
        2**64,
        -(2**200),
        "[" * 500,
        "\U0001f600",
    ):
        assert decode_json(encode_json(value)) == value


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1} x', "not valid JSON"),
        (b"NaN", "not valid JSON"),
        (b"[Infinity]", "not valid JSON"),
        (b"1e999", "not valid JSON"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\\ud800"', "lone surrogate"),
        (b'"\\ud800x"', "lone surrogate"),
        (b"[" * 200_000, "nested deeper"),
        (b'{"a":' * 200_000, "nested deeper"),
        (b"\x00", "not valid JSON"),
        (b"\xef\xbb\xbf1", "not valid JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_json_is_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        decode_json(data)
    assert caught.value.field == "body"
    assert said in caught.value.reason


@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "ignore"))
)
def test_bytes_from_anywhere_are_read_or_refused(data: bytes) -> None:
    try:
        value = decode_json(data)
    except InvalidTask:
        return
    assert same(json.loads(data), value)


def test_a_decoded_integer_of_5000_digits_goes_no_further() -> None:
    with pytest.raises(InvalidTask):
        encode_json(decode_json(b"1" * 5000))

"""W3C Trace Context, as the headers of any client bring it."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET

from task_queue_engine.trace_context import (
    MAX_TRACESTATE,
    TraceContext,
    after_attempt,
    decode,
    parse,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (GOOD, True),
        (f" {GOOD}\t", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),  # flags of level 2
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),  # a later version
        (f"cc-{TRACE}-{SPAN}-01-what-comes-then", True),
    ],
)
def test_what_is_one(header: str, sampled: bool) -> None:
    found = parse([header])
    assert found == TraceContext(trace_id=TRACE, span_id=SPAN, sampled=sampled)
    assert found.traceparent == f"00-{TRACE}-{SPAN}-0{int(sampled)}"
    assert found.headers() == {"traceparent": found.traceparent}


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["nonsense"],
        [GOOD, GOOD],
        [GOOD.upper()],
        [f"ff-{TRACE}-{SPAN}-01"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE}-{SPAN}-1"],
        [f"00-{TRACE}-{SPAN}-01-more"],
        [f"cc-{TRACE}-{SPAN}-01more"],
        [f"00-{TRACE}{SPAN}-01"],
        [f"{GOOD}\n"],
        pytest.param([f"cc-{TRACE}-{SPAN}-01-{'x' * 100_000}"], id="too long"),
        ["\u0660\u0660-" + GOOD[3:]],  # digits, but not those
    ],
)
def test_what_is_none_is_ignored(headers: list[str]) -> None:
    assert parse(headers, ["vendor=1"]) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["a=1"], "a=1"),
        (["a=1 , b@c=2,,", "d= x"], "a=1,b@c=2,d= x"),
        ([",".join(f"k{n}=v" for n in range(32))], ",".join(f"k{n}=v" for n in range(32))),
    ],
)
def test_a_tracestate_is_kept_as_it_came(given: list[str], kept: str) -> None:
    found = parse([GOOD], given)
    assert found is not None
    assert found.headers() == {"traceparent": GOOD, "tracestate": kept}


@pytest.mark.parametrize(
    "given",
    [
        "",
        ",,",
        "a",
        "A=1",
        "a=1,a=2",
        "a=1=2",
        "a=\x00",
        "a=ü",
        "a=1\r\nX: y",
        ",".join(f"k{n}=v" for n in range(33)),
        "a=" + "x" * 257,
        ",".join(f"k{n}={'v' * 100}" for n in range(6)),
        pytest.param("a=1," * 1_000_000, id="far too long"),
    ],
)
def test_one_that_is_none_leaves_the_traceparent_alone(given: str) -> None:
    assert parse([GOOD], [given]) == TraceContext(trace_id=TRACE, span_id=SPAN, sampled=True)
    assert MAX_TRACESTATE == 512


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "no JSON",
        '{"trace_id":"x","span_id":"y","sampled":true}',
        f'{{"trace_id":"{TRACE}","span_id":"{SPAN}","sampled":"yes"}}',
        f'{{"trace_id":"{TRACE}","span_id":"{SPAN}","sampled":true,"last_span_id":"z"}}',
    ],
)
def test_what_another_program_has_stored_is_no_error(text: str | None) -> None:
    assert decode(text) is UNSET


def test_what_was_stored_is_read_as_it_was() -> None:
    context = TraceContext(
        trace_id=TRACE, span_id=SPAN, sampled=False, tracestate="a=1", last_span_id="1" * 16
    )
    assert decode(msgspec.json.encode(context).decode()) == context


def test_after_an_attempt_the_next_one_knows_it() -> None:
    given = parse([GOOD])
    span = TraceContext(trace_id=TRACE, span_id="1" * 16, sampled=True)
    assert given is not None
    changed = after_attempt(given, span)
    assert changed is not None
    assert (changed.span_id, changed.last_span_id) == (SPAN, "1" * 16)
    # Without one its first attempt is what its others are children of.
    assert after_attempt(UNSET, span) == msgspec.structs.replace(span, last_span_id="1" * 16)
    # What is not recorded is nothing to link to, and no reason to write.
    assert after_attempt(given, None) is None
    assert after_attempt(given, msgspec.structs.replace(span, sampled=False)) is None

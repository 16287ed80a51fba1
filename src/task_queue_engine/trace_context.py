"""Which trace a task belongs to: W3C Trace Context, read, checked and kept. It needs no library of
tracing, so that a context is handed on by processes that trace nothing themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

MAX_TRACESTATE = 512
"""Characters of a `tracestate` that is kept; the specification asks for at least so many. A longer
one is left out, whole: what is cut may mean something else."""

# Of the specification (https://www.w3.org/TR/trace-context-2/): members at most, and their form.
_MAX_MEMBERS = 32
_KEY = r"[a-z0-9][_0-9a-z\-*/]{0,255}|[a-z0-9][_0-9a-z\-*/]{0,240}@[a-z0-9][_0-9a-z\-*/]{0,13}"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER = re.compile(rf"({_KEY})={_VALUE}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
# A later version may be longer; by how much is not for a client to choose.
_MAX_TRACEPARENT = 256
_SAMPLED = 1


class TraceContext(msgspec.Struct, frozen=True, kw_only=True):
    """The span that a task was submitted in, of which its attempts' spans are children."""

    trace_id: str
    """32 hexadecimal digits, in lower case."""
    span_id: str
    """16 of them."""
    sampled: bool
    """False: the trace is not recorded."""
    tracestate: str | UnsetType = UNSET
    """What tracing systems have added, as it came."""
    last_span_id: str | UnsetType = UNSET
    """The span of the latest attempt that has ended without success: the next one links to it."""

    @property
    def traceparent(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def headers(self) -> dict[str, str]:
        """`traceparent`, and `tracestate` where there is one."""
        headers = {"traceparent": self.traceparent}
        if self.tracestate is not UNSET:
            headers["tracestate"] = self.tracestate
        return headers


_decode = msgspec.json.Decoder(TraceContext).decode


def parse(traceparents: Sequence[str], tracestates: Sequence[str] = ()) -> TraceContext | None:
    """What the headers of these names say, each as often as it was sent; None where that is no
    trace context. A `tracestate` that is none, or too long, is left out."""
    if len(traceparents) != 1 or len(traceparents[0]) > _MAX_TRACEPARENT:
        return None
    found = _TRACEPARENT.fullmatch(traceparents[0].strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more):
        return None
    if not (trace_id.strip("0") and span_id.strip("0")):
        return None
    return TraceContext(
        trace_id=trace_id,
        span_id=span_id,
        sampled=bool(int(flags, 16) & _SAMPLED),
        tracestate=_tracestate(tracestates),
    )


def decode(text: str | None) -> TraceContext | UnsetType:
    """A stored one. What another program has made of it is no reason not to run its task."""
    try:
        stored = _decode(text) if text else UNSET
    except msgspec.DecodeError:
        return UNSET
    if stored is UNSET:
        return UNSET
    last = stored.last_span_id
    found = parse([stored.traceparent], [] if stored.tracestate is UNSET else [stored.tracestate])
    if found is None or not (last is UNSET or _SPAN_ID.fullmatch(last)):
        return UNSET
    return msgspec.structs.replace(found, last_span_id=last)


def _tracestate(values: Sequence[str]) -> str | UnsetType:
    if not values or sum(map(len, values)) + len(values) > MAX_TRACESTATE:
        return UNSET
    stripped = (member.strip(" \t") for value in values for member in value.split(","))
    members = [member for member in stripped if member]
    keys = [found[1] for member in members if (found := _MEMBER.fullmatch(member))]
    if not members or len(members) > _MAX_MEMBERS or len(set(keys)) < len(members):
        return UNSET
    return ",".join(members)


def after_attempt(
    context: TraceContext | UnsetType, span: TraceContext | None
) -> TraceContext | None:
    """What is kept of a task whose attempt, with this span, has not succeeded; None: nothing
    changes. A task that came without a context is of its first attempt's trace from then on."""
    if span is None or not span.sampled:
        return None
    return msgspec.structs.replace(span if context is UNSET else context, last_span_id=span.span_id)

"""Spans of OpenTelemetry, where the program has it and has set up a tracer provider.

Nothing here imports it on its own account: a program that traces has done so before it runs an
engine. Elsewhere each function costs a look into `sys.modules`, and an engine has no `Tracing`.
What a tracer provider of a team's own making raises ends no attempt and no engine.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from msgspec import UNSET

from task_queue_engine._version import __version__
from task_queue_engine.trace_context import TraceContext, parse

if TYPE_CHECKING:
    from opentelemetry import context as otel_context
    from opentelemetry import trace as otel_trace

_NAME = "task_queue_engine"
_TRACE, _CONTEXT = "opentelemetry.trace", "opentelemetry.context"

Attributes = Mapping[str, str | int | float | bool]

logger = logging.getLogger("task_queue_engine.tracing")


# --- the span in whose context this is called -----------------------------------------------


def active() -> TraceContext | None:
    """The active span, of the program's own making or of this package's."""
    context = _active()
    return None if context is None else _to_ours(context)


def active_ids() -> dict[str, str]:
    """Its `trace_id` and `span_id`, as log lines say them; empty where no span is active."""
    context = _active()
    if context is None:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _active() -> otel_trace.SpanContext | None:
    # Another thread may be just importing it.
    look = getattr(sys.modules.get(_TRACE), "get_current_span", None)
    if look is None:
        return None
    context: otel_trace.SpanContext = look().get_span_context()
    return context if context.is_valid else None


@contextmanager
def within(context: TraceContext | None) -> Iterator[None]:
    """In a worker process: what is traced here is of the span that is under way in the engine."""
    if context is None:
        yield
        return
    try:
        trace, contexts = importlib.import_module(_TRACE), importlib.import_module(_CONTEXT)
    except ImportError:  # it was there for the engine
        yield
        return
    token = contexts.attach(_parent(trace, contexts, context))
    try:
        yield
    finally:
        contexts.detach(token)


# --- spans of the engine's own --------------------------------------------------------------


class Span:
    """One that is under way."""

    def __init__(
        self, trace: Any, contexts: Any, span: otel_trace.Span, context: TraceContext
    ) -> None:
        self._trace = trace
        self._contexts = contexts
        self._span = span
        self._token: Any = None
        self.context = context

    def activate(self) -> None:
        """From here to `end`, in the same task, spans that are started are children of it."""
        with _contained():
            self._token = self._contexts.attach(self._trace.set_span_in_context(self._span))

    def set(self, attributes: Attributes) -> None:
        with _contained():
            self._span.set_attributes(_exportable(attributes))

    def link(self, context: TraceContext) -> None:
        with _contained():
            self._span.add_link(_from_ours(self._trace, context))

    def fail(self, error_type: str, message: str, traceback: str | None = None) -> None:
        """The operation has failed, with this exception."""
        event = {"exception.type": error_type, "exception.message": message}
        if traceback is not None:
            event["exception.stacktrace"] = traceback
        with _contained():
            event = _exportable(event)
            self._span.add_event("exception", event)
            self._span.set_attribute("error.type", event["exception.type"])
            status = self._trace.Status(self._trace.StatusCode.ERROR, event["exception.message"])
            self._span.set_status(status)

    def end(self) -> None:
        with _contained():
            self._span.end()
        if self._token is not None:
            with _contained():
                self._contexts.detach(self._token)


class Tracing:
    """Starts spans of one tracer provider."""

    def __init__(self, trace: Any, contexts: Any, provider: otel_trace.TracerProvider) -> None:
        self._trace = trace
        self._contexts = contexts
        self._tracer = provider.get_tracer(_NAME, __version__)

    def start(
        self,
        name: str,
        kind: Literal["PRODUCER", "CONSUMER"],
        attributes: Attributes,
        *,
        parent: TraceContext | None,
        links: Sequence[tuple[TraceContext, Attributes]] = (),
    ) -> Span | None:
        """A span. Of a consumer without a `parent` it is the first of its trace; of a producer a
        child of the active span, which also stands where it is of the parent's own trace, as that
        of a web framework is. None: there is none to be had of the tracer provider."""
        trace = self._trace
        with _contained():
            started = self._tracer.start_span(
                name,
                context=self._context(parent, is_producer=kind == "PRODUCER"),
                kind=trace.SpanKind[kind],
                attributes=_exportable(attributes),
                links=[
                    trace.Link(_from_ours(trace, context), dict(about)) for context, about in links
                ],
                record_exception=False,
                set_status_on_exception=False,
            )
            context = _to_ours(started.get_span_context())
            return None if context is None else Span(trace, self._contexts, started, context)
        return None

    def _context(
        self, parent: TraceContext | None, *, is_producer: bool
    ) -> otel_context.Context | None:
        if parent is None:
            empty: otel_context.Context = self._contexts.Context()
            return None if is_producer else empty
        if is_producer and active_ids().get("trace_id") == parent.trace_id:
            return None
        return _parent(self._trace, self._contexts, parent)


def find_tracing() -> Tracing | None:
    """Of the tracer provider that the program has set up; None where it has none."""
    trace, contexts = sys.modules.get(_TRACE), sys.modules.get(_CONTEXT)
    if trace is None or contexts is None:
        return None
    with _contained():
        provider = trace.get_tracer_provider()
        if not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            return Tracing(trace, contexts, provider)
    return None


def _exportable(attributes: Attributes) -> dict[str, Any]:
    """A lone surrogate is no Unicode text: an exporter would lose the whole batch by it."""
    return {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in attributes.items()
    }


@contextmanager
def _contained() -> Iterator[None]:
    try:
        yield
    except Exception:  # code of the program's, which is to end nothing of ours
        logger.exception("something is not traced: the program's tracer provider has failed")


def _to_ours(context: otel_trace.SpanContext) -> TraceContext | None:
    """None: it is of no trace, as with an SDK that is switched off."""
    state = context.trace_state.to_header() if context.trace_state else ""
    return parse(
        [f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"],
        [state] if state else (),
    )


def _from_ours(trace: Any, context: TraceContext) -> Any:
    state = None if context.tracestate is UNSET else [context.tracestate]
    return trace.SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(context.sampled),
        trace_state=state and trace.TraceState.from_header(state),
    )


def _parent(trace: Any, contexts: Any, context: TraceContext) -> otel_context.Context:
    span = trace.NonRecordingSpan(_from_ours(trace, context))
    made: otel_context.Context = trace.set_span_in_context(span, contexts.Context())
    return made


def messaging(operation: str, operation_type: str, queue: str) -> dict[str, str | int]:
    """Attributes of every span, by the semantic conventions for messaging."""
    return {
        "messaging.system": "task_queue_engine",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation_type,
        "messaging.destination.name": queue,
    }

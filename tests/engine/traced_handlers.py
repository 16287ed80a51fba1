"""Handlers that look at the active span, for threads and worker processes."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("shop.traced")


def says_what_is_active(payload: Any) -> tuple[str, str]:
    from opentelemetry import trace  # as late as a handler may

    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def warns(payload: Any) -> None:
    logger.warning("mind this")


def warns_in_a_span_of_its_own(payload: Any) -> None:
    from opentelemetry import trace

    outer = trace.get_current_span().get_span_context()
    inner = trace.SpanContext(outer.trace_id, 0x1234, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(inner)):
        logger.warning("mind that")

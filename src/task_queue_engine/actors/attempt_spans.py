"""The span of an attempt: a consumer's, by OpenTelemetry's conventions for messaging
(docs/tracing.md)."""

from __future__ import annotations

from typing import assert_never

import msgspec
from msgspec import UNSET

from task_queue_engine.actors.messages import (
    Attempt,
    Errored,
    Interrupted,
    Lost,
    Outcome,
    Progressed,
    Stopped,
    Succeeded,
)
from task_queue_engine.attempt_record import AttemptOutcome
from task_queue_engine.retry import GiveUp, RetryAt, SnoozeUntil
from task_queue_engine.task import TaskError
from task_queue_engine.trace_context import TraceContext
from task_queue_engine.tracing import Attributes, Span, Tracing, messaging

_LEASE_LOST = TaskError(
    type="task_queue_engine.LeaseLost",
    message="the lease was lost: whatever this attempt did no longer counts",
)


def begin(tracing: Tracing, attempt: Attempt) -> Span | None:
    """The handler is about to start, in the task in which this is called."""
    task = attempt.task
    parent = task.trace_context
    if parent is UNSET:
        # Another program's message may bring one that the row does not know of.
        parent = attempt.lease.delivery.trace_context or UNSET
    links: list[tuple[TraceContext, Attributes]] = []
    if parent is not UNSET:
        links.append((parent, {}))
        if parent.last_span_id is not UNSET:
            last = msgspec.structs.replace(parent, span_id=parent.last_span_id)
            links.append((last, {"tqe.link": "attempt before"}))
    attributes = messaging("process", "process", task.queue) | {
        "messaging.message.id": task.id,
        "messaging.client.id": task.worker or "",
        "tqe.task.type": task.type,
        "tqe.task.attempt": task.attempt,
        "tqe.task.retry_count": task.retry_count,
        "tqe.task.max_attempts": task.max_attempts,
    }
    span = tracing.start(
        f"process {task.queue}",
        "CONSUMER",
        attributes,
        parent=None if parent is UNSET else parent,
        links=links,
    )
    if span is not None:
        span.activate()
    return span


def end(span: Span, outcome: Outcome | None) -> None:
    """The handler is over. `outcome` is None where its engine has been ended around it."""
    match outcome:
        case Succeeded():
            _end(span, AttemptOutcome.SUCCEEDED)
        case Errored(_, error, GiveUp()):
            _end(span, AttemptOutcome.FAILED, error)
        case Errored(_, error, RetryAt(_, delay)):
            span.set({"tqe.task.retry_delay": delay})
            _end(span, AttemptOutcome.RETRIED, error)
        case Errored(_, _, SnoozeUntil(_, delay)):
            span.set({"tqe.task.retry_delay": delay})
            _end(span, AttemptOutcome.SNOOZED)
        case Interrupted() | None:
            _end(span, AttemptOutcome.INTERRUPTED)
        case Stopped(_, error):
            _end(span, AttemptOutcome.CANCELLED, error)
        case Lost():
            _end(span, AttemptOutcome.LOST_LEASE, _LEASE_LOST)
        case Errored() | Progressed():
            raise ValueError("this ends no attempt")
        case _:
            assert_never(outcome)


def _end(span: Span, outcome: AttemptOutcome, error: TaskError | None = None) -> None:
    span.set({"tqe.task.outcome": outcome.value})
    if error is not None:
        span.fail(error.type, error.message, error.traceback)
    span.end()

"""Metrics as Prometheus' text exposition format, version 0.0.4."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from task_queue_engine.engine.api import EngineMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "tqe_"

_NOT_IN_NAMES = re.compile("[^a-zA-Z0-9_]")

COUNTERS = {
    "tasks_submitted": "Tasks stored through this process.",
    "submissions_replayed": "Submissions whose idempotency key had been used before.",
    "submissions_unsent": "Tasks stored whose message could not be sent; the reconciler sends it.",
    "scheduled_sent": "Messages sent when the time of a long delay had come.",
    "reconciler_resent": "Messages sent for tasks that were found without one.",
    "reconciler_reclaimed": "Running tasks found without a message, and ended or started again.",
    "tasks_expired": "Finished tasks deleted after their retention.",
    "leases_renewed": "Leases of messages in hand that were extended.",
    "leases_lost": "Leases that could not be kept; their attempts were stopped.",
    "messages_received": "Messages received from the queue.",
    "messages_deleted": "Messages deleted because their task had ended or waits in the store.",
    "messages_released": "Messages given back: for a retry, or unstarted.",
    "messages_dead_lettered": "Messages moved to the dead-letter queue.",
    "duplicate_deliveries": "Messages of tasks that had ended or were running already.",
    "settlements_stale": "Messages that were somebody else's by the time they were to be settled.",
    "attempts_claimed": "Attempts claimed in the store.",
    "attempts_taken_over": "Attempts claimed from a worker that died or lost its lease.",
    "attempts_started": "Attempts whose handler was started.",
    "attempts_completed": "Attempts that completed their task.",
    "attempts_retried": "Attempts that failed and are followed by another one.",
    "attempts_failed_for_good": "Attempts that failed and were the last one of their task.",
    "attempts_snoozed": "Attempts whose handler asked to be called later.",
    "attempts_cancelled": "Attempts stopped because their task was cancelled.",
    "attempts_interrupted": "Attempts given back at shutdown; they do not count.",
    "attempts_fenced": "Attempts whose outcome was dropped: the task was no longer theirs.",
    "tasks_quarantined": "Tasks failed because their workers died too often.",
}
"""What each of the engine's counters counts, since this process started."""


def render(metrics: EngineMetrics) -> str:
    """One sample a line, each family under its HELP and TYPE, a newline at the end."""
    return "".join(line + "\n" for line in _lines(metrics))


def _lines(metrics: EngineMetrics) -> Iterator[str]:
    counts, depth = metrics.counts, metrics.depth
    by_status: dict[str, float] = {
        'status="pending"': counts.pending,
        'status="processing"': counts.processing,
        'status="completed"': counts.completed,
        'status="failed"': counts.failed,
        'status="cancelled"': counts.cancelled,
    }
    yield from _family("tasks", "gauge", "Tasks in the store, by status.", by_status)
    yield from _gauge("queue_depth", "Messages that wait, delayed ones included.", depth.waiting)
    yield from _gauge("queue_in_flight", "Messages that are with a worker.", depth.in_flight)
    yield from _gauge("dead_letters", "Messages in the dead-letter queue.", depth.dead)
    yield from _gauge("workers", "Workers of this process.", metrics.workers)
    yield from _gauge(
        "active_workers", "Workers of this process that run a handler.", metrics.active_workers
    )
    yield from _gauge("uptime_seconds", "Seconds since this engine started.", metrics.uptime)
    for name, value in sorted(metrics.counters.items()):
        safe = _NOT_IN_NAMES.sub("_", name)
        text = COUNTERS.get(name, safe.replace("_", " ").capitalize() + ".")
        yield from _family(f"{safe}_total", "counter", text, {"": value})


def _gauge(name: str, text: str, value: float) -> Iterator[str]:
    return _family(name, "gauge", text, {"": value})


def _family(name: str, kind: str, text: str, samples: Mapping[str, float]) -> Iterator[str]:
    name = PREFIX + name
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples.items():
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"

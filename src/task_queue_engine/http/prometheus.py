"""Metrics as Prometheus' text exposition format, version 0.0.4."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from task_queue_engine.engine.api import EngineMetrics
from task_queue_engine.engine.counters import COUNTERS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "tqe_"

_NOT_IN_NAMES = re.compile("[^a-zA-Z0-9_]")


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

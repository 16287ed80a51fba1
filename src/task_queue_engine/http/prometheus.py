"""Metrics as Prometheus' text exposition format, version 0.0.4."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from task_queue_engine.backends.base import BackendUsage
from task_queue_engine.engine.api import EngineMetrics
from task_queue_engine.engine.counters import COUNTERS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "tqe_"

_NOT_IN_NAMES = re.compile("[^a-zA-Z0-9_]")
# In the value of a label.
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

# Family, attribute of the row, text. Units are sampled only where there are any: SQS has none.
_OF_OPERATIONS = (
    ("backend_requests", "requests", "Requests to a billed service, retries and empty polls too."),
    ("backend_retries", "retries", "Requests to a billed service that were retries."),
    ("backend_throttles", "throttles", "Answers that requests come too fast."),
    ("backend_failures", "failures", "Calls that ended in an error, after the retries."),
    ("backend_read_units", "read_units", "Read capacity units consumed."),
    ("backend_write_units", "write_units", "Write capacity units consumed."),
)
_OF_STEPS = (
    ("store_requests", "requests", "Calls to a billed store, by what they were for."),
    ("store_read_units", "read_units", "Read capacity units, by what they were for."),
    ("store_write_units", "write_units", "Write capacity units, by what they were for."),
)
_OF_TASK_TYPES = (
    ("task_type_requests", "requests", "Calls, each shared evenly by the tasks that it served."),
    ("task_type_read_units", "read_units", "Read capacity units, by the type of the task."),
    ("task_type_write_units", "write_units", "Write capacity units, by the type of the task."),
)


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
    by_state: dict[str, float] = {
        _labels(queue=metrics.queue, state=state): number
        for state, number in (
            ("waiting", depth.due),
            ("delayed", depth.delayed),
            ("in_flight", depth.in_flight),
            ("dead", depth.dead),
        )
    }
    yield from _family("tasks", "gauge", "Tasks in the store, by status; of all queues.", by_status)
    yield from _family(
        "queue_messages",
        "gauge",
        "Messages of this process's queue: due and free, delayed, with a worker, dead letters.",
        by_state,
    )
    yield from _gauge(
        "queue_depth", "Messages of this process's queue that wait, delayed too.", depth.waiting
    )
    yield from _gauge(
        "queue_in_flight",
        "Messages of this process's queue that are with a worker.",
        depth.in_flight,
    )
    yield from _gauge("dead_letters", "Dead letters of this process's queue.", depth.dead)
    yield from _gauge(
        "workers", "Workers of this process alone: add up those of all.", metrics.workers
    )
    yield from _gauge(
        "active_workers", "Workers of this process that run a handler.", metrics.active_workers
    )
    yield from _gauge(
        "workers_all_busy_seconds",
        "Seconds for which no worker of this process has waited for work; where messages wait "
        "too, WORKER_COUNT or the machine is what limits.",
        metrics.all_busy_for,
    )
    yield from _gauge(
        "abandoned_threads",
        "Threads of this process whose handler outlived its attempt.",
        metrics.abandoned_threads,
    )
    yield from _gauge("uptime_seconds", "Seconds since this engine started.", metrics.uptime)
    for name, value in sorted(metrics.counters.items()):
        safe = _NOT_IN_NAMES.sub("_", name)
        text = COUNTERS.get(name, safe.replace("_", " ").capitalize() + ".")
        yield from _family(f"{safe}_total", "counter", text, {"": value})
    if metrics.given_back_by_type:
        samples = {_labels(task_type=t): n for t, n in sorted(metrics.given_back_by_type.items())}
        text = "Tasks given back since this process cannot run them, by type."
        yield from _family("given_back_total", "counter", text, samples)
    if metrics.usage is not None:
        yield from _usage(metrics.usage)


def _usage(usage: BackendUsage) -> Iterator[str]:
    operations = {_labels(service=o.service, operation=o.operation): o for o in usage.operations}
    steps = {_labels(step=step.step): step for step in usage.steps}
    types = {_labels(service=t.service, task_type=t.task_type): t for t in usage.task_types}
    yield from _columns(operations, _OF_OPERATIONS)
    yield from _columns(steps, _OF_STEPS)
    yield from _columns(types, _OF_TASK_TYPES)


def _columns(rows: Mapping[str, object], families: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    for name, attribute, text in families:
        samples = {labels: getattr(row, attribute) for labels, row in rows.items()}
        if attribute.endswith("_units"):
            samples = {labels: value for labels, value in samples.items() if value}
        if samples:
            yield from _family(f"{name}_total", "counter", text, samples)


def _labels(**values: str) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in values.items())


def _gauge(name: str, text: str, value: float) -> Iterator[str]:
    return _family(name, "gauge", text, {"": value})


def _family(name: str, kind: str, text: str, samples: Mapping[str, float]) -> Iterator[str]:
    name = PREFIX + name
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples.items():
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"

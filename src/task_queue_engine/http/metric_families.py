"""Which metrics there are: their names, kinds, labels and what they mean.

Names go by Prometheus' conventions: base units at the end, `_total` on what only goes up. All are
listed in docs/metrics.md, which a test compares.

What is said of a queue or of the store is the same by whichever process it is said: there `max()`
over servers is right, and `sum()` is not. Everything else is of the server that answers, over all
its processes, and adds up. The help of each says which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from task_queue_engine.backends.base import BackendUsage
from task_queue_engine.engine.counters import COUNTERS
from task_queue_engine.engine.metrics import EngineMetrics
from task_queue_engine.measures import OTHER, Distribution
from task_queue_engine.registry import is_task_type

PREFIX = "tqe_"

_SHARED = " The same from every server: use max(), not sum()."
_NOT_IN_NAMES = re.compile("[^a-zA-Z0-9_]")


class Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float
    suffix: str = ""
    """After the family's name: `_total`, `_bucket`."""


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    """Without `tqe_`, and without the suffixes of its samples."""
    kind: str
    """ "gauge", "counter" or "histogram"."""
    help: str
    samples: list[Sample] = field(default_factory=list)


# Family, attribute of the row, help. Units are sampled only where there are any: SQS has none.
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

LABELLED = {
    "attempts": "Attempts, by what became of them; types that are not registered are `other`.",
    "backend_call_failures": "Calls of the backend that failed as a whole, to be made again.",
}
HISTOGRAMS = {
    "task_wait_seconds": (
        "Seconds from when an attempt could have started (its task's creation or delay, or its "
        "retry's time) to its start."
    ),
    "task_run_seconds": "Seconds from the start of an attempt's handler to its end.",
    "task_total_seconds": (
        "Seconds from a task's creation to its end: delays, waits, retries and all."
    ),
    "backend_call_seconds": "Seconds that a call of the backend took, by operation.",
    "batch_items": "Tasks or messages that one call of the backend was about, by operation.",
    "event_loop_turn_seconds": (
        "Seconds for which the event loop was held at a time: nothing else ran meanwhile."
    ),
}


def of(metrics: EngineMetrics) -> Iterator[Family]:
    """Each family once."""
    yield from _of_backend(metrics)
    yield from _of_server(metrics)
    for name, value in sorted(metrics.counters.items()):
        safe = _NOT_IN_NAMES.sub("_", name)
        text = COUNTERS.get(name, safe.replace("_", " ").capitalize() + ".")
        yield Family(safe, "counter", text, [Sample({}, value, "_total")])
    if metrics.given_back_by_type:
        given_back: Counter[str] = Counter()
        for name, value in metrics.given_back_by_type.items():
            given_back[name if is_task_type(name) else OTHER] += value
        yield Family(
            "given_back",
            "counter",
            "Tasks given back since this process cannot run them, by type; those that no type can "
            "be called are `other`.",
            [Sample({"task_type": n}, value, "_total") for n, value in sorted(given_back.items())],
        )
    yield from _labelled(metrics)
    yield from _histograms(metrics.histograms)
    if metrics.usage is not None:
        yield from _usage(metrics.usage)


def _of_backend(metrics: EngineMetrics) -> Iterator[Family]:
    counts, depth, queue = metrics.counts, metrics.depth, metrics.queue
    by_status = {
        "pending": counts.pending,
        "processing": counts.processing,
        "completed": counts.completed,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
    }
    by_state = {
        "waiting": depth.due,
        "delayed": depth.delayed,
        "in_flight": depth.in_flight,
        "dead": depth.dead,
    }
    yield Family(
        "tasks",
        "gauge",
        "Tasks in the store, by status; of all queues." + _SHARED,
        [Sample({"status": status}, number) for status, number in by_status.items()],
    )
    yield Family(
        "queue_messages",
        "gauge",
        "Messages of the queue: due and free, delayed, with a worker, dead letters." + _SHARED,
        [Sample({"queue": queue, "state": state}, number) for state, number in by_state.items()],
    )
    yield _gauge(
        "queue_depth", "Messages of the queue that wait, delayed too." + _SHARED, depth.waiting
    )
    yield _gauge(
        "queue_in_flight",
        "Messages of the queue that are with a worker." + _SHARED,
        depth.in_flight,
    )
    yield _gauge("dead_letters", "Dead letters of the queue." + _SHARED, depth.dead)
    if depth.oldest_age is not None:
        yield Family(
            "queue_oldest_age_seconds",
            "gauge",
            "Seconds for which the message that has waited longest has been due; 0: none is."
            + _SHARED,
            [Sample({"queue": queue}, depth.oldest_age)],
        )


def _of_server(metrics: EngineMetrics) -> Iterator[Family]:
    yield _gauge("workers", "Workers of this server alone: add up those of all.", metrics.workers)
    yield _gauge(
        "active_workers", "Workers of this server that run a handler.", metrics.active_workers
    )
    slots = [
        Sample({"kind": one.kind, "state": state}, number)
        for one in metrics.slots
        for state, number in (("busy", one.busy), ("free", one.total - one.busy))
    ]
    if slots:
        text = "Places for handlers of this server: workers, and threads and processes for those"
        yield Family("slots", "gauge", f"{text} that run there.", slots)
    yield _gauge(
        "workers_all_busy_seconds",
        "Seconds for which no worker of a process has waited for work; where messages wait too, "
        "WORKER_COUNT or the machine is what limits.",
        metrics.all_busy_for,
    )
    yield _gauge(
        "abandoned_threads",
        "Threads of this server whose handler outlived its attempt.",
        metrics.abandoned_threads,
    )
    yield _gauge("uptime_seconds", "Seconds since this server started.", metrics.uptime)


def _labelled(metrics: EngineMetrics) -> Iterator[Family]:
    families: dict[str, Family] = {}
    for one in metrics.labelled_counters:
        family = families.setdefault(one.name, Family(one.name, "counter", LABELLED[one.name]))
        family.samples.append(Sample(one.labels, one.count, "_total"))
    yield from families.values()


def _histograms(distributions: Iterable[Distribution]) -> Iterator[Family]:
    families: dict[str, Family] = {}
    for one in distributions:
        family = families.setdefault(one.name, Family(one.name, "histogram", HISTOGRAMS[one.name]))
        bounds = (*map(str, one.bounds), "+Inf")
        family.samples.extend(
            Sample({**one.labels, "le": bound}, number, "_bucket")
            for bound, number in zip(bounds, one.cumulative(), strict=True)
        )
        family.samples.append(Sample(one.labels, one.count, "_count"))
        family.samples.append(Sample(one.labels, one.sum, "_sum"))
    yield from families.values()


def _usage(usage: BackendUsage) -> Iterator[Family]:
    for rows, names, families in (
        (usage.operations, ("service", "operation"), _OF_OPERATIONS),
        (usage.steps, ("step",), _OF_STEPS),
        (usage.task_types, ("service", "task_type"), _OF_TASK_TYPES),
    ):
        for family, attribute, text in families:
            samples = [
                Sample({name: getattr(row, name) for name in names}, value, "_total")
                for row in rows
                if (value := getattr(row, attribute)) or not attribute.endswith("_units")
            ]
            if samples:
                yield Family(family, "counter", text, samples)


def _gauge(name: str, text: str, value: float) -> Family:
    return Family(name, "gauge", text, [Sample({}, value)])

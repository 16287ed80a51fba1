"""docs/metrics.md lists every metric that there can be, as the code describes it."""

from __future__ import annotations

import re
from pathlib import Path

from task_queue_engine.backends.base import (
    BackendUsage,
    Counts,
    OperationUsage,
    QueueDepth,
    StepUsage,
    TaskTypeUsage,
)
from task_queue_engine.engine.counters import COUNTERS
from task_queue_engine.engine.metrics import EngineMetrics, Slots
from task_queue_engine.http import metric_families
from task_queue_engine.http.metric_families import HISTOGRAMS, LABELLED, PREFIX
from task_queue_engine.measures import Histogram, LabelledCount

ROOT = Path(__file__).parent.parent.parent
LABELS = {
    "attempts": ("queue", "task_type", "outcome"),
    "backend_call_failures": ("operation",),
    "task_wait_seconds": ("queue", "task_type"),
    "task_run_seconds": ("queue", "task_type"),
    "task_total_seconds": ("queue", "task_type"),
    "backend_call_seconds": ("operation",),
    "batch_items": ("operation",),
    "event_loop_turn_seconds": (),
}


def everything() -> EngineMetrics:
    """All that an engine can say."""

    def labels(name: str) -> dict[str, str]:
        return dict.fromkeys(LABELS[name], "x")

    histogram = Histogram((1.0,))
    return EngineMetrics(
        counts=Counts(),
        depth=QueueDepth(waiting=0, in_flight=0, dead=0, oldest_age=0.0),
        workers=1,
        active_workers=1,
        counters=dict.fromkeys((*COUNTERS, "processes_restarted"), 1),
        given_back_by_type={"x": 1},
        slots=(Slots(kind="worker", busy=0, total=1),),
        labelled_counters=tuple(
            LabelledCount(name=name, labels=labels(name), count=1) for name in LABELLED
        ),
        histograms=tuple(histogram.distribution(name, **labels(name)) for name in HISTOGRAMS),
        usage=BackendUsage(
            operations=(
                OperationUsage(service="x", operation="x", read_units=1.0, write_units=1.0),
            ),
            steps=(StepUsage(step="x", read_units=1.0, write_units=1.0),),
            task_types=(
                TaskTypeUsage(service="x", task_type="x", read_units=1.0, write_units=1.0),
            ),
        ),
    )


def table() -> list[str]:
    rows = []
    for family in metric_families.of(everything()):
        total = "_total" if family.kind == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in family.samples[0].labels if label != "le")
        name = f"`{PREFIX}{family.name}{total}`"
        rows.append(f"| {name} | {family.kind} | {labels} | {family.help} |")
    return rows


def test_every_metric_is_in_the_document() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `tqe_.*$", text, re.M)
    assert found == table(), "put into docs/metrics.md:\n" + "\n".join(table())


def test_every_metric_is_named_as_the_conventions_have_it() -> None:
    for family in metric_families.of(everything()):
        assert re.fullmatch("[a-z][a-z0-9_]*", family.name)
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert not re.search("(_ms|_milliseconds|_minutes|_kb|_mb)$", family.name), "base units"
        assert family.help.endswith("."), family.name

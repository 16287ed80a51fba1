"""Metrics as Prometheus reads them: its text format, or OpenMetrics where a scraper prefers that.

prometheus-client writes them. It is loaded by the first scrape, and that in the thread in which
they are written: the one takes some 30 ms and the other some 10 for every thousand lines, and the
event loop has other things to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from task_queue_engine.engine.metrics import EngineMetrics
from task_queue_engine.http import metric_families
from task_queue_engine.http.metric_families import Family

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def render(metrics: EngineMetrics, content_type: str) -> bytes:
    """The whole answer in one of the two content types. For a thread."""
    from prometheus_client.exposition import generate_latest
    from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

    generate = generate_openmetrics if content_type == OPENMETRICS else generate_latest
    return generate(_Collector(metric_families.of(metrics)))


class _Collector:
    """What the library takes for a registry."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import Metric

        for family in self._families:
            metric = Metric(metric_families.PREFIX + family.name, family.help, family.kind)
            for sample in family.samples:
                metric.add_sample(
                    metric.name + sample.suffix, dict(sample.labels), float(sample.value)
                )
            yield metric

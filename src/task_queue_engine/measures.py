"""Numbers with labels: counted and measured where they arise, added up over processes, shown as
JSON and to Prometheus.

A measurement is one increment in a plain list, whether or not anything ever asks for it: a
library's own counters and histograms, each with a lock, cost several times as much (ADR 0042).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import msgspec

OTHER = "other"
"""The label of task types that this process has not registered: what a client calls its tasks must
not decide how many time series there are."""

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: what a request to a backend, or a turn of the event loop, takes."""
LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Seconds: what a task takes or waits. A type has 300 s by default."""
SIZES = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
"""Items: up to what the backends take at once."""


class LabelledCount(msgspec.Struct, frozen=True, kw_only=True):
    """What has happened since the start of the process, of one kind."""

    name: str
    labels: dict[str, str]
    count: int


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """How what was measured is spread since the start of the process."""

    name: str
    labels: dict[str, str]
    bounds: tuple[float, ...]
    """The largest value of each bucket but the last, which has none."""
    counts: tuple[int, ...]
    """Values in each bucket alone: one more than `bounds`."""
    sum: float
    """Of all values."""

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> tuple[int, ...]:
        """Values in each bucket and those below it."""
        return tuple(accumulate(self.counts))


@dataclass(frozen=True, slots=True)
class Rates:
    """Of the last minute, or of as much of it as there are samples of."""

    arriving: float = 0.0
    """Tasks a second that came to wait: new ones, and those that an operator sent back."""
    ending: float = 0.0
    """Tasks a second that came to their end."""
    seconds_per_task: float | None = None
    """That a handler ran in this process; None: none came to its end."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stood at one moment, of the whole store and of one queue: what a plot is made
    of."""

    at: float
    """On trio's clock."""
    ended: int
    """Tasks in the store that are COMPLETED or CANCELLED; it falls where retention deletes some."""
    failed: int
    due: int
    """Messages that wait for a worker now."""
    delayed: int
    in_flight: int


class Histogram:
    """Counts values by size."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def distribution(self, name: str, **labels: str) -> Distribution:
        """As it is now."""
        return Distribution(
            name=name, labels=labels, bounds=self.bounds, counts=tuple(self.counts), sum=self.sum
        )


def quantile(distribution: Distribution, share: float) -> float | None:
    """Seconds below which `share` of all values are: within its bucket in proportion, as Prometheus
    does it. In the last bucket, which has no end, its lower bound."""
    cumulative = distribution.cumulative()
    total = cumulative[-1]
    if not total:
        return None
    rank = share * total
    at = min(bisect_right(cumulative, rank - 1e-9), len(cumulative) - 1)
    if at == len(distribution.bounds):
        return distribution.bounds[-1]
    lower = distribution.bounds[at - 1] if at else 0.0
    below = cumulative[at - 1] if at else 0
    inside = cumulative[at] - below
    return lower + (distribution.bounds[at] - lower) * ((rank - below) / inside if inside else 1.0)


def add_counts(*parts: Iterable[LabelledCount]) -> tuple[LabelledCount, ...]:
    """One for each name with its labels, in the order in which they come first."""
    sums: dict[object, LabelledCount] = {}
    for one in (one for part in parts for one in part):
        key = (one.name, *one.labels.items())
        before = sums.get(key)
        count = one.count + (0 if before is None else before.count)
        sums[key] = msgspec.structs.replace(one, count=count)
    return tuple(sums.values())


def add_distributions(*parts: Iterable[Distribution]) -> tuple[Distribution, ...]:
    """Likewise. Processes of one server are of one version, so their buckets are the same."""
    sums: dict[object, Distribution] = {}
    for one in (one for part in parts for one in part):
        key = (one.name, *one.labels.items(), one.bounds)
        before = sums.get(key)
        if before is not None:
            counts = tuple(a + b for a, b in zip(before.counts, one.counts, strict=True))
            one = msgspec.structs.replace(one, counts=counts, sum=before.sum + one.sum)
        sums[key] = one
    return tuple(sums.values())

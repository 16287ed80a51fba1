"""Plots as numbers in an SVG's own units."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from task_queue_engine.actors.metrics import REMEMBERED
from task_queue_engine.measures import Sample

WIDTH, HEIGHT = 600.0, 120.0
_BUCKET = 20.0
"""Seconds of one point of a rate: shorter ones jump by what one sample holds."""

_LEAST = 120.0
"""Seconds that a plot shows at least: of a server that has just started."""

Point = tuple[float, float]
"""Time on trio's clock, and value."""


@dataclass(frozen=True, slots=True)
class Plot:
    lines: tuple[str, ...]
    """Each the points of an SVG polyline."""
    area: str
    """Below the first of them."""
    top: float
    """The value at the upper edge."""
    latest: tuple[float, ...]
    highest: tuple[float, ...]
    seconds: float
    """From the left edge to now."""


def per_second(samples: Sequence[Sample], count: Callable[[Sample], int]) -> list[Point]:
    """How fast a count rises, in steps of `_BUCKET`. It falls where finished tasks are deleted
    after their retention, which is no negative rate."""
    points: list[Point] = []
    start = 0
    for end in range(1, len(samples)):
        seconds = samples[end].at - samples[start].at
        # The last one is not drawn before it is whole, or each look would show a drop at its end.
        if seconds >= _BUCKET:
            rises = (
                max(0, count(samples[at + 1]) - count(samples[at])) for at in range(start, end)
            )
            points.append((samples[end].at, sum(rises) / seconds))
            start = end
    return points


def plot(series: Sequence[Sequence[Point]], now: float) -> Plot:
    """All series with one scale; from left to right the last half hour, or as much of it as there
    is."""
    begun = min((points[0][0] for points in series if points), default=now)
    seconds = min(REMEMBERED, max(_LEAST, now - begun))
    highest = tuple(max((value for _, value in points), default=0.0) for points in series)
    top = _round_up(max(highest, default=0.0))
    drawn = [
        [
            f"{WIDTH * (1 - (now - at) / seconds):.1f},{HEIGHT * (1 - value / top):.1f}"
            for at, value in points
            if now - at <= seconds
        ]
        for points in series
    ]
    first = drawn[0] if drawn else []
    area = ""
    if len(first) > 1:
        left, right = first[0].partition(",")[0], first[-1].partition(",")[0]
        area = " ".join([f"{left},{HEIGHT:.0f}", *first, f"{right},{HEIGHT:.0f}"])
    return Plot(
        lines=tuple(" ".join(points) for points in drawn),
        area=area,
        top=top,
        latest=tuple(points[-1][1] if points else 0.0 for points in series),
        highest=highest,
        seconds=seconds,
    )


def _round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten, so that the scale does not change at each look."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))

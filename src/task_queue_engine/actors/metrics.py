"""Samples the gauges of the backend, so that a look at them costs nothing and outlives trouble."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import trio

from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.backends.base import Counts, QueueDepth, TaskQueue, TaskStore
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.measures import Rates, Sample

logger = logging.getLogger("task_queue_engine.metrics")

WINDOW = 60.0
"""Seconds: `Rates` are of so long."""
REMEMBERED = 1800.0
"""Seconds: samples are kept for so long, for plots that show how it came to this."""
# Seconds between two that are kept, or more: 360 of them, some 40 KB.
_SPACING = 5.0
FRESH = 1.0
"""Seconds for which a sample will do for callers that ask often."""


@dataclass(frozen=True, slots=True)
class MetricsStatistics:
    counts: Counts
    depth: QueueDepth
    sampled_at: float
    """On trio's clock, of the last whole sample; -inf before the first."""
    samples: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    open: int
    ended: int
    runs: int
    run_seconds: float


class Metrics:
    """Reads counts and depth (O(1) both) every `interval` seconds, and now, when asked to.

    Args:
        runs: how many handlers have come to their end in this process, and the seconds of all.
    """

    def __init__(
        self,
        *,
        store: TaskStore,
        queue: TaskQueue,
        interval: float,
        health: ActorHealth,
        runs: Callable[[], tuple[int, float]] = lambda: (0, 0.0),
    ) -> None:
        self._store = store
        self._queue = queue
        self._interval = interval
        self._health = health
        self._runs = runs
        self._window: deque[_Sample] = deque()
        self._kept: deque[Sample] = deque()
        self._sampling = trio.Lock()
        self._latest = MetricsStatistics(
            counts=Counts(),
            depth=QueueDepth(waiting=0, in_flight=0, dead=0),
            sampled_at=float("-inf"),
            samples=0,
            rates=Rates(),
        )

    def statistics(self) -> MetricsStatistics:
        return self._latest

    def recent(self) -> tuple[Sample, ...]:
        """Those of the last `REMEMBERED` seconds, oldest first."""
        return tuple(self._kept)

    async def run(self) -> None:
        while True:
            with self._health.attempt("metrics"):
                await self.sample()
            await trio.sleep(self._interval)

    async def fresh(self) -> MetricsStatistics:
        """A whole sample that is no older than `FRESH`: however many ask, one reads.

        Raises:
            BackendUnavailable
        """
        async with self._sampling:
            if trio.current_time() - self._latest.sampled_at > FRESH:
                await self.sample()
        return self._latest

    async def sample(self) -> MetricsStatistics:
        """Take a sample now. What one part does not answer is as it was; the other is fresh.

        Raises:
            BackendUnavailable
        """
        trouble: BackendUnavailable | None = None
        try:
            self._latest = replace(self._latest, counts=await self._store.counts())
        except BackendUnavailable as error:
            trouble = error
        self._latest = replace(self._latest, depth=await self._queue.depth())
        if trouble is not None:
            raise trouble
        now = trio.current_time()
        self._latest = replace(
            self._latest,
            sampled_at=now,
            samples=self._latest.samples + 1,
            rates=self._rates(now, self._latest.counts),
        )
        self._keep(now)
        logger.debug("counts %s, depth %s", self._latest.counts, self._latest.depth)
        return self._latest

    def _keep(self, now: float) -> None:
        kept, counts, depth = self._kept, self._latest.counts, self._latest.depth
        # A tenth less: the sampler's own pauses are a hair shorter or longer.
        if kept and now - kept[-1].at < _SPACING * 0.9:
            return
        while kept and kept[0].at < now - REMEMBERED:
            kept.popleft()
        kept.append(
            Sample(
                now,
                ended=counts.completed + counts.cancelled,
                failed=counts.failed,
                due=depth.due,
                delayed=depth.delayed,
                in_flight=depth.in_flight,
            )
        )

    def _rates(self, now: float, counts: Counts) -> Rates:
        unfinished = counts.pending + counts.processing
        last = _Sample(now, unfinished, counts.total - unfinished, *self._runs())
        window = self._window
        window.append(last)
        while len(window) > 2 and window[1].at <= now - WINDOW:
            window.popleft()
        first, seconds = window[0], now - window[0].at
        if seconds <= 0:
            return self._latest.rates
        # Finished tasks are deleted after their retention, which is no negative end.
        ended = sum(max(0, b.ended - a.ended) for a, b in pairwise(window))
        ran = last.runs - first.runs
        return Rates(
            arriving=max(0.0, (ended + last.open - first.open) / seconds),
            ending=ended / seconds,
            seconds_per_task=(last.run_seconds - first.run_seconds) / ran if ran > 0 else None,
        )

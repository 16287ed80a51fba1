"""Samples the gauges of the backend, so that a look at them costs nothing and outlives trouble."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import trio

from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.backends.base import Counts, QueueDepth, TaskQueue, TaskStore
from task_queue_engine.errors import BackendUnavailable

logger = logging.getLogger("task_queue_engine.metrics")


@dataclass(frozen=True, slots=True)
class MetricsStatistics:
    counts: Counts
    depth: QueueDepth
    sampled_at: float
    """On trio's clock, of the last whole sample; -inf before the first."""
    samples: int


class Metrics:
    """Reads counts and depth (O(1) both) every `interval` seconds, and now, when asked to."""

    def __init__(
        self, *, store: TaskStore, queue: TaskQueue, interval: float, health: ActorHealth
    ) -> None:
        self._store = store
        self._queue = queue
        self._interval = interval
        self._health = health
        self._latest = MetricsStatistics(
            counts=Counts(),
            depth=QueueDepth(waiting=0, in_flight=0, dead=0),
            sampled_at=float("-inf"),
            samples=0,
        )

    def statistics(self) -> MetricsStatistics:
        return self._latest

    async def run(self) -> None:
        while True:
            with self._health.attempt("metrics"):
                await self.sample()
            await trio.sleep(self._interval)

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
        self._latest = replace(
            self._latest, sampled_at=trio.current_time(), samples=self._latest.samples + 1
        )
        logger.debug("counts %s, depth %s", self._latest.counts, self._latest.depth)
        return self._latest

"""Samples the gauges of the backend, so that a look at them costs nothing and outlives trouble."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import trio

from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.backends.base import Counts, QueueDepth, TaskQueue, TaskStore

logger = logging.getLogger("task_queue_engine.metrics")


@dataclass(frozen=True, slots=True)
class MetricsStatistics:
    counts: Counts
    depth: QueueDepth
    sampled_at: float
    """On trio's clock; -inf before the first sample."""
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
        """Take a sample now.

        Raises:
            BackendUnavailable.
        """
        counts = await self._store.counts()
        depth = await self._queue.depth()
        self._latest = MetricsStatistics(
            counts=counts,
            depth=depth,
            sampled_at=trio.current_time(),
            samples=self._latest.samples + 1,
        )
        logger.debug("counts %s, depth %s", counts, depth)
        return self._latest

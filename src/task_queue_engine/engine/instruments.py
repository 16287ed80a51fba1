"""All that an engine measures besides what its actors count."""

from __future__ import annotations

from task_queue_engine.clock import Clock
from task_queue_engine.config import Settings
from task_queue_engine.engine.loop_lag import LoopLag
from task_queue_engine.engine.task_numbers import TaskNumbers
from task_queue_engine.engine.timed import BackendTimes
from task_queue_engine.measures import Distribution, LabelledCount
from task_queue_engine.registry import TaskRegistry


class Instruments:
    """Of one run of an engine."""

    def __init__(self, *, registry: TaskRegistry, settings: Settings, clock: Clock) -> None:
        self.tasks = TaskNumbers(registry=registry, queue=settings.queue, clock=clock)
        self.backend_times = BackendTimes()
        self.loop_lag = LoopLag()

    def counts(self) -> tuple[LabelledCount, ...]:
        return (*self.tasks.counts(), *self.backend_times.counts())

    def distributions(self) -> tuple[Distribution, ...]:
        return (
            *self.tasks.distributions(),
            *self.backend_times.distributions(),
            *self.loop_lag.distributions(),
        )

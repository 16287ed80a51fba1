"""What became of attempts, and how long tasks waited and ran: by type, as they are recorded."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import trio

from task_queue_engine.actors.messages import Outcome, Progressed
from task_queue_engine.attempt_record import AttemptOutcome
from task_queue_engine.clock import Clock
from task_queue_engine.engine.hooks import outcome_in_one_word
from task_queue_engine.lifecycle import CRASH_ERROR_TYPE
from task_queue_engine.measures import LONG, OTHER, Distribution, Histogram, LabelledCount
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.task import Task, TaskStatus

LOST_LEASE = AttemptOutcome.LOST_LEASE.value
OUTCOMES = ("succeeded", "failed", "retried", "snoozed", "cancelled", "interrupted", LOST_LEASE)
"""As the history has them, but for `crashed`: that is found out by another process."""

# Seconds for which trio's clock and the time of day are taken to keep step.
_IN_STEP = 1.0
# Stopped in the middle by no fault of the handler's: how long it ran says nothing about its type.
_CUT_SHORT = frozenset({"interrupted", LOST_LEASE})
# Of the task, not of the attempt alone.
_ENDS = frozenset({"succeeded", "failed", "cancelled"})


class _OfType:
    __slots__ = ("outcomes", "run", "total", "wait")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wait, self.run, self.total = Histogram(LONG), Histogram(LONG), Histogram(LONG)


class TaskNumbers:
    """Told of every outcome, once. A type that is not registered counts as `OTHER`."""

    def __init__(self, *, registry: TaskRegistry, queue: str, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._types = {definition.name: _OfType() for definition in registry}
        self._by_name = {
            name: self._types[definition.name]
            for definition in registry
            for name in (definition.name, *definition.aliases)
        }
        self._other = _OfType()
        self._time_of_day_ahead = 0.0
        self._in_step_until = -math.inf

    def recorded(self, outcome: Outcome, status: TaskStatus | None) -> None:
        """`status`: what the outcome has made of the task; None: it came too late to count."""
        if isinstance(outcome, Progressed):
            return
        attempt = outcome.attempt
        task, began, ended = attempt.task, attempt.began, attempt.ended
        numbers = self._by_name.get(task.type, self._other)
        if status is TaskStatus.COMPLETED:
            what = "succeeded"
        elif status is None:
            what = LOST_LEASE
        elif status is TaskStatus.CANCELLED:
            what = "cancelled"
        else:
            what = outcome_in_one_word(outcome)
            if what == "lost":  # hooks' own word, older than the history
                what = LOST_LEASE
        numbers.outcomes[what] += 1
        if began is None:
            ended = trio.current_time()
        if ended > self._in_step_until:
            self._fall_in_step()
        # `Histogram.observe` in place: three calls would be half of what all this takes, and it is
        # for every task.
        created_at = task.created_at.timestamp()
        if began is not None:
            since: float | None = created_at
            if task.attempt != 1 or task.run_at is not None:
                due = due_at(task)
                since = None if due is None else due.timestamp()
            if since is not None:
                wait = began + self._time_of_day_ahead - since
                if wait < 0.0:
                    wait = 0.0  # a clock was set back
                histogram = numbers.wait
                histogram.counts[bisect_left(LONG, wait)] += 1
                histogram.sum += wait
            if what not in _CUT_SHORT:
                ran = ended - began
                histogram = numbers.run
                histogram.counts[bisect_left(LONG, ran)] += 1
                histogram.sum += ran
        if what in _ENDS:
            total = ended + self._time_of_day_ahead - created_at
            if total < 0.0:
                total = 0.0
            histogram = numbers.total
            histogram.counts[bisect_left(LONG, total)] += 1
            histogram.sum += total

    def _fall_in_step(self) -> None:
        now = trio.current_time()
        self._time_of_day_ahead = self._clock.now().timestamp() - now
        self._in_step_until = now + _IN_STEP

    def counts(self) -> tuple[LabelledCount, ...]:
        """All outcomes of registered types, those that have not come too: a rate needs the zero."""
        return tuple(
            LabelledCount(
                name="attempts",
                labels={"queue": self._queue, "task_type": name, "outcome": what},
                count=numbers.outcomes[what],
            )
            for name, numbers in self._all()
            for what in OUTCOMES
            if name != OTHER or numbers.outcomes[what]
        )

    def distributions(self) -> tuple[Distribution, ...]:
        """Of types that have any."""
        return tuple(
            histogram.distribution(name, queue=self._queue, task_type=task_type)
            for task_type, numbers in self._all()
            for name, histogram in (
                ("task_wait_seconds", numbers.wait),
                ("task_run_seconds", numbers.run),
                ("task_total_seconds", numbers.total),
            )
            if any(histogram.counts)
        )

    def run_seconds(self) -> tuple[int, float]:
        """Attempts that have run to their end, and the seconds of all of them."""
        ran = [numbers.run for _, numbers in self._all()]
        return sum(sum(one.counts) for one in ran), math.fsum(one.sum for one in ran)

    def _all(self) -> Iterator[tuple[str, _OfType]]:
        yield from self._types.items()
        yield OTHER, self._other


def due_at(task: Task) -> datetime | None:
    """Since when the attempt could have been started: of the first one its task's creation or
    delay, of a retry its time. None where that is not known: what an attempt that was given back or
    has crashed left behind, and a round that an operator began."""
    if task.attempt <= 1:
        return task.created_at if task.run_at is None else max(task.run_at, task.created_at)
    if task.error is not None and task.error.type == CRASH_ERROR_TYPE:
        return None
    return task.run_at

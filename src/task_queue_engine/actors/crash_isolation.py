"""Tasks whose worker died, kept apart where it matters.

A process that dies takes all it runs with it. Their leases end together, so the worker that takes
over gets the task that killed it and its innocent neighbours in one batch, and dies of it again:
after `max_attempts` rounds all of them would be quarantined. So a task whose last chance it is
after a crash never runs beside another whose worker died. And none of these starts while another
one that is to wait is still claimed: a death would cost that one its last chance, unstarted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

import trio

from task_queue_engine.actors.messages import Attempt, Errored
from task_queue_engine.clock import Clock
from task_queue_engine.lifecycle import CRASH_ERROR_TYPE, crash_error
from task_queue_engine.retry import SnoozeUntil
from task_queue_engine.task import Task

# Seconds until a task that may not run beside another is looked at again: few claims for one that
# has killed its worker before, and not long for one that has not.
_ISOLATION_DELAY = 5.0
# Seconds between two on their last chance that come again, however many wait, and until the first:
# the store has to have it of each that it waits before another one starts.
_APART = 1.0


class CrashIsolation:
    """Decides it for the attempts of one engine."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Whose last attempt crashed; those that wait, until the store has it that they do.
        self._running: list[Attempt] = []
        self._waiting: list[Attempt] = []
        # On trio's clock: when the last of those comes again that are on their last chance.
        self._last_moment = -math.inf

    def postpone(self, claimed: Sequence[Attempt]) -> dict[Attempt, Errored]:
        """Which of those that were claimed together may not run now: they come again, at no cost.
        Those that may run first come first."""
        crashed = [attempt for attempt in claimed if _has_crashed(attempt.task)]
        if not crashed:
            return {}
        self._running = [other for other in self._running if not other.recorded]
        self._waiting = [other for other in self._waiting if not other.recorded]
        may_run: list[Attempt] = []
        may_not: list[Attempt] = []
        for attempt in crashed:
            others = [other.task for other in self._running + may_run]
            if others and any(map(_is_last_chance, [attempt.task, *others])):
                may_not.append(attempt)
            else:
                may_run.append(attempt)
        if not (may_not or self._waiting):
            self._running += may_run
            return {}
        self._waiting += crashed
        # Written in this order: what comes first again is recorded last.
        return {attempt: self._later(attempt, self._delay(attempt.task)) for attempt in may_not} | {
            attempt: self._later(attempt, _APART) for attempt in may_run
        }

    def _delay(self, task: Task) -> float:
        if not _is_last_chance(task):
            return _ISOLATION_DELAY
        now = trio.current_time()
        self._last_moment = max(now + _ISOLATION_DELAY, self._last_moment + _APART)
        return self._last_moment - now

    def _later(self, attempt: Attempt, delay: float) -> Errored:
        task = attempt.task
        error = task.error or crash_error(task.attempt, task.worker)
        run_at = self._clock.now() + timedelta(seconds=delay)
        return Errored(attempt, error, SnoozeUntil(run_at, delay))


def _has_crashed(task: Task) -> bool:
    """Its latest attempt, that is."""
    return task.error is not None and task.error.type == CRASH_ERROR_TYPE


def _is_last_chance(task: Task) -> bool:
    return task.retry_count + 1 >= task.max_attempts

"""Tasks whose worker died, kept apart where it matters.

A process that dies takes all it runs with it. Their leases end together, so the worker that takes
over gets the task that killed it and its innocent neighbours in one batch, and dies of it again:
after `max_attempts` rounds all of them would be quarantined. So a task whose last chance it is
after a crash never runs beside another whose worker died.
"""

from __future__ import annotations

from datetime import timedelta

from task_queue_engine.actors.messages import Attempt, Errored
from task_queue_engine.clock import Clock
from task_queue_engine.lifecycle import CRASH_ERROR_TYPE, crash_error
from task_queue_engine.retry import SnoozeUntil
from task_queue_engine.task import Task

# Seconds until a task that may not run beside another is looked at again: few claims for one that
# has killed its worker before, and not long for one that has not.
_ISOLATION_DELAY = 5.0


class CrashIsolation:
    """Decides it for the attempts of one engine."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._after_crash: list[Attempt] = []

    def postpone(self, attempt: Attempt) -> Errored | None:
        """None: it may run now. Else it comes again, at no cost."""
        if self.admit(attempt):
            return None
        task = attempt.task
        run_at = self._clock.now() + timedelta(seconds=_ISOLATION_DELAY)
        error = task.error or crash_error(task.attempt, task.worker)
        return Errored(attempt, error, SnoozeUntil(run_at, _ISOLATION_DELAY))

    def admit(self, attempt: Attempt) -> bool:
        """Whether it may run now; False: later, when others have ended."""
        if not _has_crashed(attempt.task):
            return True
        self._after_crash = [other for other in self._after_crash if not other.lease.settling]
        others = [other.task for other in self._after_crash]
        if others and any(map(_is_last_chance, [attempt.task, *others])):
            return False
        self._after_crash.append(attempt)
        return True


def _has_crashed(task: Task) -> bool:
    """Its latest attempt, that is."""
    return task.error is not None and task.error.type == CRASH_ERROR_TYPE


def _is_last_chance(task: Task) -> bool:
    return task.retry_count + 1 >= task.max_attempts

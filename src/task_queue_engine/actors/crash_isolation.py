"""Tasks whose worker died, kept apart where it matters.

A process that dies takes all it runs with it. Their leases end together, so whoever takes over gets
the task that killed it and its innocent neighbours in one batch, and dies of it again: after
`max_attempts` rounds all of them would be quarantined. So a task whose last chance it is after a
crash never runs beside another whose worker died.
"""

from __future__ import annotations

from task_queue_engine.actors.messages import Attempt
from task_queue_engine.lifecycle import CRASH_ERROR_TYPE
from task_queue_engine.task import Task


class Suspects:
    """Those in hand of one engine."""

    def __init__(self) -> None:
        self._in_hand: list[Attempt] = []

    def admit(self, attempt: Attempt) -> bool:
        """Whether it may run now; False: later, when others have ended."""
        if not _is_suspect(attempt.task):
            return True
        self._in_hand = [other for other in self._in_hand if not other.lease.settling]
        others = [other.task for other in self._in_hand]
        if others and any(map(_is_last_chance, [attempt.task, *others])):
            return False
        self._in_hand.append(attempt)
        return True


def _is_suspect(task: Task) -> bool:
    return task.error is not None and task.error.type == CRASH_ERROR_TYPE


def _is_last_chance(task: Task) -> bool:
    return task.retry_count + 1 >= task.max_attempts

"""Calls the host's hooks, and keeps a broken one from hurting the line."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Iterable

from task_queue_engine.actors.messages import (
    Attempt,
    Errored,
    Interrupted,
    Outcome,
    Stopped,
    Succeeded,
)
from task_queue_engine.events import AttemptRecorded, AttemptStarted, Event, Hook
from task_queue_engine.execution.containment import contain
from task_queue_engine.retry import GiveUp, RetryAt
from task_queue_engine.task import TaskStatus

logger = logging.getLogger("task_queue_engine.hooks")

# Seconds: a hundred times what a hook that counts or logs takes, and well below any lease.
_SLOW = 0.1


class Hooks:
    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._hooks = list(hooks)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def started(self, attempt: Attempt) -> None:
        self._publish(AttemptStarted(attempt.task))

    def recorded(self, outcome: Outcome, status: TaskStatus) -> None:
        """`status`: what the outcome has made of the task."""
        if self._hooks and status is not TaskStatus.PROCESSING:
            self._publish(
                AttemptRecorded(outcome.attempt.task, status, outcome_in_one_word(outcome))
            )

    def _publish(self, event: Event) -> None:
        for hook in tuple(self._hooks):
            began = time.monotonic()
            try:
                returned: object = hook(event)
                if inspect.iscoroutine(returned):
                    returned.close()
                    raise TypeError("a hook is a plain function: an `async def` is never awaited")
            # It is the host's code: its defects must cost no task, whatever it raises.
            except BaseException as error:
                if not isinstance(contain(error), Exception):
                    raise
                logger.exception("hook %s failed and is not called again", _spell(hook))
                self._hooks = [other for other in self._hooks if other is not hook]
            took = time.monotonic() - began
            if took > _SLOW:
                logger.warning(
                    "hook %s took %.1f s, in which nothing else could run: leases lapse and "
                    "requests wait while a hook is slow",
                    _spell(hook),
                    took,
                )


def _spell(hook: Hook) -> str:
    """By name where it has one: its repr is the host's code too."""
    named = getattr(hook, "__qualname__", None)
    return named if isinstance(named, str) else type(hook).__qualname__


def outcome_in_one_word(outcome: Outcome) -> str:
    """As `events.AttemptRecorded` has it."""
    match outcome:
        case Succeeded():
            return "succeeded"
        case Errored(_, _, RetryAt()):
            return "retried"
        case Errored(_, _, GiveUp()):
            return "failed"
        case Errored():
            return "snoozed"
        case Interrupted():
            return "interrupted"
        case Stopped():
            return "cancelled"
        case _:
            return "lost"

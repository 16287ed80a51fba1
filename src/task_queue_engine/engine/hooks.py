"""Calls the host's hooks, and keeps a broken one from hurting the line."""

from __future__ import annotations

import logging
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
from task_queue_engine.retry import GiveUp, RetryAt
from task_queue_engine.task import TaskStatus

logger = logging.getLogger("task_queue_engine.hooks")


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
            self._publish(AttemptRecorded(outcome.attempt.task, status, _in_one_word(outcome)))

    def _publish(self, event: Event) -> None:
        for hook in tuple(self._hooks):
            try:
                hook(event)
            except Exception:
                # It is the host's code: its defects must cost no task.
                logger.exception("hook %r failed and is not called again", hook)
                self._hooks.remove(hook)


def _in_one_word(outcome: Outcome) -> str:
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

"""What becomes of a delivery that asked to start its task, and does not."""

from __future__ import annotations

import logging
from typing import assert_never

from task_queue_engine.actors.messages import (
    Ack,
    Lease,
    Leave,
    MoveToDeadLetters,
    Release,
    Settlement,
)
from task_queue_engine.clock import Clock
from task_queue_engine.lifecycle import (
    DuplicateDelivery,
    Exhausted,
    ExtraCopy,
    Finished,
    Missing,
    NeedsDeadLetter,
    NotDue,
    delay_until,
)
from task_queue_engine.task import Task

logger = logging.getLogger("task_queue_engine.claimer")

NotStarted = (
    Exhausted | Finished | NeedsDeadLetter | DuplicateDelivery | ExtraCopy | NotDue | Missing | None
)
"""A claim's verdict; None: it was not claimed."""


class Unstarted:
    """A part of the claimer: turns verdicts into settlements, and counts them."""

    def __init__(self, *, clock: Clock, visibility: float, max_delay: float) -> None:
        self._clock = clock
        self._visibility = visibility
        self._max_delay = max_delay
        self.duplicates = self.quarantined = self.returned = 0

    def settlement(self, lease: Lease, verdict: NotStarted) -> Settlement:
        match verdict:
            case Finished():
                self.duplicates += 1
                return Ack(lease)
            case NeedsDeadLetter(task):
                self.duplicates += 1
                return MoveToDeadLetters(
                    lease,
                    "FAILED, and the worker that wrote this died before the message was settled",
                    task=task,
                    error=task.error,
                )
            case DuplicateDelivery():
                self.duplicates += 1
                return Leave(lease)
            case ExtraCopy():
                self.duplicates += 1
                return Release(lease, min(self._visibility, self._max_delay))
            case NotDue(run_at):
                wait = delay_until(run_at, self._clock.now())
                return Release(lease, min(wait, self._max_delay))
            case Exhausted(task):
                self.quarantined += 1
                log_silence(task, "FAILED, and not started again")
                return MoveToDeadLetters(
                    lease,
                    f"its worker died {task.retry_count} times of {task.max_attempts} allowed",
                    task=task,
                    error=task.error,
                )
            case Missing():
                return MoveToDeadLetters(lease, "no such task in the store")
            case None:
                self.returned += 1
                return Release(lease)
            case _:
                assert_never(verdict)


def log_silence(task: Task, what_follows: str) -> None:
    """That an attempt was taken over."""
    if not task.retry_count:
        # It had been claimed ahead, as hundreds may have been: no failure of its own.
        logger.info(
            "%s task %s: the worker that had claimed it ahead died or lost its lease: %s",
            task.type,
            task.id,
            what_follows,
            extra={"task_id": task.id, "task_type": task.type},
        )
        return
    logger.warning(
        "%s task %s: the worker that had it died or lost its lease (failure %d of %d allowed): %s",
        task.type,
        task.id,
        task.retry_count,
        task.max_attempts,
        what_follows,
        extra={"task_id": task.id, "task_type": task.type},
    )

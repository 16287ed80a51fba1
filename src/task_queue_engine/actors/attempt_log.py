"""What the log says of an attempt that failed."""

from __future__ import annotations

import logging
from typing import assert_never

from task_queue_engine.retry import Decision, GiveUp, RetryAt, SnoozeUntil
from task_queue_engine.task import Task, TaskError

logger = logging.getLogger("task_queue_engine.status_writer")


def log_error(task: Task, error: TaskError, decision: Decision) -> None:
    about = {
        "task_id": task.id,
        "task_type": task.type,
        "attempt": task.attempt,
        "queue": task.queue,
    }
    why = error.in_one_line()
    match decision:
        case GiveUp(reason):
            logger.warning(
                "%s task %s FAILED (%s): %s", task.type, task.id, reason, why, extra=about
            )
        case RetryAt(_, delay):
            logger.info(
                "%s task %s: attempt failed (%d of %d), next in %.1f s: %s",
                task.type,
                task.id,
                task.retry_count + 1,
                task.max_attempts,
                delay,
                why,
                extra=about,
            )
        case SnoozeUntil(_, delay):
            logger.debug("%s task %s: snoozed for %.1f s", task.type, task.id, delay, extra=about)
        case _:
            assert_never(decision)

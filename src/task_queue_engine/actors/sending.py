"""Sending the messages of stored tasks, and what follows where a queue refuses one for good."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from task_queue_engine.actors.batching import in_batches
from task_queue_engine.backends.base import (
    NewTask,
    QueueVerdict,
    Rejected,
    TaskQueue,
    TaskStore,
    message_of,
)
from task_queue_engine.clock import Clock
from task_queue_engine.lifecycle import MESSAGE_REFUSED_ERROR_TYPE, PendingFailure
from task_queue_engine.task import Task, TaskError

logger = logging.getLogger("task_queue_engine.sending")


async def send_batch(
    queue: TaskQueue, tasks: Sequence[Task] | Sequence[NewTask], clock: Clock
) -> list[QueueVerdict]:
    """One call, at most `queue.max_batch` tasks; what is left of a task's delay is on its message.

    Raises:
        BackendUnavailable: nothing is known of any of them.
    """
    now = clock.now()
    return await queue.send([message_of(each, now, queue.max_delay) for each in tasks])


async def fail_refused(store: TaskStore, refused: Sequence[tuple[Task, Rejected]]) -> None:
    """End tasks whose message the queue will never take: FAILED, with its reason. One that has
    started meanwhile (an earlier message was sent, then) goes on.

    Raises:
        BackendUnavailable: some may still be PENDING; they are found without a message, sent
            again, and refused again.
    """
    for task, verdict in refused:
        logger.error("task %s fails: the queue refuses its message: %s", task.id, verdict.reason)
    failures = [
        PendingFailure(
            task_id=task.id,
            attempt=task.attempt,
            error=TaskError(type=MESSAGE_REFUSED_ERROR_TYPE, message=verdict.reason),
        )
        for task, verdict in refused
    ]
    for batch in in_batches(failures, store.max_batch):
        await store.fail_pending(batch)

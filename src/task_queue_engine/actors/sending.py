"""Sending the messages of stored tasks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from task_queue_engine.backends.base import Message, NewTask, QueueVerdict, TaskQueue
from task_queue_engine.clock import Clock
from task_queue_engine.lifecycle import delay_until
from task_queue_engine.task import Task


async def send_batch(
    queue: TaskQueue, tasks: Sequence[Task] | Sequence[NewTask], clock: Clock
) -> list[QueueVerdict]:
    """One call, at most `queue.max_batch` tasks; what is left of a task's delay is on its message.

    Raises:
        BackendUnavailable: nothing is known of any of them.
    """
    now = clock.now()
    return await queue.send([_message(each, now, queue.max_delay) for each in tasks])


def _message(each: Task | NewTask, now: datetime, max_delay: float) -> Message:
    task, payload_json = (
        (each.task, each.payload_json) if isinstance(each, NewTask) else (each, None)
    )
    return Message(
        task=task,
        payload_json=payload_json,
        # What is left may be more than the queue holds, where a clock was set back or the message
        # got lost: the claim looks at `run_at` again.
        delay=min(delay_until(task.run_at, now), max_delay),
    )

"""Sending the messages of stored tasks."""

from __future__ import annotations

from collections.abc import Sequence

from task_queue_engine.backends.base import Message, QueueVerdict, TaskQueue
from task_queue_engine.clock import Clock
from task_queue_engine.lifecycle import delay_until
from task_queue_engine.task import Task


async def send_batch(queue: TaskQueue, tasks: Sequence[Task], clock: Clock) -> list[QueueVerdict]:
    """One call, at most `queue.max_batch` tasks; what is left of a task's delay is on its message.

    Raises:
        BackendUnavailable: nothing is known of any of them.
    """
    now = clock.now()
    return await queue.send(
        [
            # What is left may be more than the queue holds, where a clock was set back or the
            # message got lost: the claim looks at `run_at` again.
            Message(task=task, delay=min(delay_until(task.run_at, now), queue.max_delay))
            for task in tasks
        ]
    )

"""Reopening: tasks that have ended start a new round, by a retry of one or a redrive of many."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeGuard

from task_queue_engine.actors.sending import fail_refused
from task_queue_engine.backends.base import Done, Message, Rejected, TaskQueue, TaskStore
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import NotReopened, Reopened, ReopenVerdict
from task_queue_engine.task import Task, TaskStatus

logger = logging.getLogger("task_queue_engine.reopening")


def is_pending(verdict: ReopenVerdict) -> TypeGuard[Reopened | NotReopened]:
    """Reopened now, or PENDING already, most likely by an earlier call that broke off."""
    return isinstance(verdict, Reopened) or (
        isinstance(verdict, NotReopened) and verdict.task.status is TaskStatus.PENDING
    )


async def reopen_and_send(
    store: TaskStore,
    task_ids: Sequence[str],
    *,
    queue_of: Callable[[Task], TaskQueue],
    clock: Clock,
    changed: Callable[[Task], object],
    pending_too: bool = False,
) -> tuple[list[ReopenVerdict], dict[str, Rejected]]:
    """Reopen a batch of tasks. Once this returns each that was reopened is PENDING, and sent or
    marked as due: then the scheduler sends it when the queue is back. Or it is FAILED again, since
    the queue will never take its message.

    Args:
        changed: told of each task that was reopened, before a worker can have it; and once more
            of those whose message was refused.
        pending_too: send those that were PENDING already, too. An extra message is harmless.

    Returns:
        The verdicts; and by task id the refusals of messages that the queue will never take.

    Raises:
        BackendUnavailable: some may be reopened without either; the reconciler finds them later.
    """
    verdicts = await store.reopen(task_ids)
    to_send: dict[TaskQueue, list[Task]] = {}
    for verdict in verdicts:
        if isinstance(verdict, Reopened):
            changed(verdict.task)
        if isinstance(verdict, Reopened) or (pending_too and is_pending(verdict)):
            to_send.setdefault(queue_of(verdict.task), []).append(verdict.task)
    refused: dict[str, Rejected] = {}
    unsent = [
        task for queue, tasks in to_send.items() for task in await _send(queue, tasks, refused)
    ]
    if unsent:
        now = clock.now()
        await store.schedule([(task.id, task.run_at or now) for task in unsent])
    if refused:
        tasks = {task.id: task for tasks in to_send.values() for task in tasks}
        await fail_refused(store, [(tasks[id_], verdict) for id_, verdict in refused.items()])
        for failed in await store.get(list(refused)):
            if failed is not None:
                changed(failed)
    return verdicts, refused


async def _send(
    queue: TaskQueue, tasks: Sequence[Task], refused: dict[str, Rejected]
) -> list[Task]:
    """Returns those that the queue did not take; `refused` gets those that it never will."""
    try:
        verdicts = await queue.send([Message(task=task) for task in tasks])
    except BackendUnavailable as error:
        logger.warning("%d reopened tasks are left to the scheduler: %s", len(tasks), error)
        return list(tasks)
    unsent = []
    for task, verdict in zip(tasks, verdicts, strict=True):
        if isinstance(verdict, Rejected):
            refused[task.id] = verdict
        elif not isinstance(verdict, Done):
            logger.warning("reopened task %s is left to the scheduler: %s", task.id, verdict)
            unsent.append(task)
    return unsent

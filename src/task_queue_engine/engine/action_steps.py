"""What an action does to one piece of its set. Each write is conditional on what a task is, so a
piece may be done twice: `again_since` says since when it may have been done, by an attempt that
died. What has ended since then was done, and has run: it is not done again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import trio

from task_queue_engine.actors.batching import in_batches
from task_queue_engine.backends.base import Backend
from task_queue_engine.clock import Clock
from task_queue_engine.engine.redrive import Redriver
from task_queue_engine.engine.reopening import is_pending, reopen_and_send
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    AlreadyFinished,
    CancelledNow,
    CancelRequested,
    Deleted,
    Missing,
    NotDeleted,
    NotReopened,
    Reopened,
)
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_actions import Refusal, TaskAction

# Seconds for reopening and sending, which must not be cut in two; a tenth of the default lease's.
_UNCANCELLABLE_FOR = 10.0

_GONE = "there is no such task"


@dataclass(slots=True)
class Outcome:
    """What came of a piece."""

    done: list[str] = field(default_factory=list)
    failed: list[Refusal] = field(default_factory=list)
    skipped: list[Refusal] = field(default_factory=list)

    def skip(self, task_id: str, reason: str) -> None:
        self.skipped.append(Refusal(task_id=task_id, reason=reason))


class ActionSteps:
    """
    Args:
        cancelled: awaited with each task that was cancelled or is to be stopped.
        reopened: told of each task that was retried or redriven.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        clock: Clock,
        cancelled: Callable[[Task], Awaitable[None]],
        reopened: Callable[[Task], object],
    ) -> None:
        self._backend = backend
        self._store = backend.store
        self._clock = clock
        self._cancelled = cancelled
        self._reopened = reopened

    async def carry_out(
        self, action: TaskAction, ids: Sequence[str], *, queue: str, again_since: datetime | None
    ) -> Outcome:
        """
        Args:
            ids: of tasks; of dead letters for a redrive.
            queue: of the dead letters.
            again_since: None where this piece was not begun before.

        Raises:
            BackendUnavailable: part of it may be done.
        """
        outcome = Outcome()
        if not ids:
            return outcome
        if action is TaskAction.REDRIVE:
            await self._redrive(ids, queue, again_since, outcome)
        elif action is TaskAction.RETRY:
            size = min(self._store.max_batch, self._backend.queue(queue).max_batch)
            for batch in in_batches(ids, size):
                await self._retry(batch, again_since, outcome)
        else:
            one = self._cancel if action is TaskAction.CANCEL else self._delete
            for batch in in_batches(ids, self._store.max_batch):
                await one(batch, again_since, outcome)
        return outcome

    async def _cancel(
        self, ids: Sequence[str], again_since: datetime | None, outcome: Outcome
    ) -> None:
        for task_id, verdict in zip(ids, await self._store.cancel(ids), strict=True):
            match verdict:
                case CancelledNow(task) | CancelRequested(task):
                    await self._cancelled(task)
                    outcome.done.append(task_id)
                case AlreadyFinished(task):
                    if task.status is TaskStatus.CANCELLED and _ended_since(task, again_since):
                        outcome.done.append(task_id)
                    else:
                        outcome.skip(task_id, f"it is {task.status} already")
                case Missing():
                    outcome.skip(task_id, _GONE)

    async def _delete(
        self, ids: Sequence[str], again_since: datetime | None, outcome: Outcome
    ) -> None:
        for task_id, verdict in zip(ids, await self._store.delete(ids), strict=True):
            match verdict:
                case Deleted():
                    outcome.done.append(task_id)
                case NotDeleted(task):
                    outcome.skip(task_id, f"it is {task.status}: {why_not_deleted(verdict)}")
                case Missing() if again_since is not None:
                    outcome.done.append(task_id)
                case Missing():
                    outcome.skip(task_id, _GONE)

    async def _retry(
        self, ids: Sequence[str], again_since: datetime | None, outcome: Outcome
    ) -> None:
        again = again_since is not None
        if again:
            tasks = await self._store.get(ids)
            have_run = {task.id for task in tasks if task and _ended_since(task, again_since)}
            outcome.done += [task_id for task_id in ids if task_id in have_run]
            ids = [task_id for task_id in ids if task_id not in have_run]
            if not ids:
                return
        with trio.CancelScope(shield=True), trio.move_on_after(_UNCANCELLABLE_FOR) as scope:
            verdicts, refused = await reopen_and_send(
                self._store,
                ids,
                queue_of=lambda task: self._backend.queue(task.queue),
                clock=self._clock,
                changed=self._reopened,
                pending_too=again,
            )
        if scope.cancelled_caught:
            raise BackendUnavailable(f"a retry took more than {_UNCANCELLABLE_FOR:g} s")
        for task_id, verdict in zip(ids, verdicts, strict=True):
            if task_id in refused:
                reason = f"the queue refuses its message for good: {refused[task_id].reason}"
                outcome.failed.append(Refusal(task_id=task_id, reason=reason))
                continue
            match verdict:
                case Reopened():
                    outcome.done.append(task_id)
                case NotReopened(task):
                    # It may have started since.
                    running = task.status is TaskStatus.PROCESSING
                    if again and (running or is_pending(verdict)):
                        outcome.done.append(task_id)
                    else:
                        outcome.skip(task_id, f"it is {task.status} already")
                case Missing():
                    outcome.skip(task_id, _GONE)

    async def _redrive(
        self, ids: Sequence[str], queue: str, again_since: datetime | None, outcome: Outcome
    ) -> None:
        again = again_since is not None
        if again:
            await self._delete_redriven(ids, queue, again_since)
        redriver = Redriver(self._backend, queue, clock=self._clock, changed=self._reopened)
        report = await redriver.some(ids)
        gone = [Refusal(task_id=each, reason="its dead letter is gone") for each in ids]
        done = report.redriven + (report.not_found if again else 0)
        # The report has numbers; which dead letters they are of is all the same.
        outcome.done += ids[:done]
        outcome.skipped += gone[: report.skipped + (0 if again else report.not_found)]
        outcome.failed += [
            Refusal(task_id=each, reason="the queue refuses its message for good")
            for each in ids[: report.refused]
        ]

    async def _delete_redriven(
        self, ids: Sequence[str], queue: str, again_since: datetime | None
    ) -> None:
        """What the attempt that died has left to do of those whose tasks have run since."""
        dead_letters = self._backend.queue(queue).dead_letters
        size = min(self._store.max_batch, self._backend.queue(queue).max_batch)
        for batch in in_batches(ids, size):
            found = await dead_letters.take(limit=len(batch), ids=batch)
            tasks = await self._store.get([each.task_id for each in found])
            left = [
                dead_letter
                for dead_letter, task in zip(found, tasks, strict=True)
                if task and _ended_since(task, again_since)
            ]
            if left:
                await dead_letters.delete(left)


def why_not_deleted(verdict: NotDeleted) -> str:
    if verdict.until is None:
        return "only what has ended can be deleted"
    return (
        "its message may still be in the queue, and would become a dead letter: it can be deleted "
        f"from {verdict.until:%Y-%m-%d %H:%M} UTC on"
    )


def _ended_since(task: Task, moment: datetime | None) -> bool:
    return moment is not None and task.finished_at is not None and task.finished_at >= moment

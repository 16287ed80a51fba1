"""The part of `TaskApi` that deletes tasks, and acts on many of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from task_queue_engine.task import Task
from task_queue_engine.task_actions import ActionRequest, Matching


class ActionApi(ABC):
    """See `TaskApi`."""

    @abstractmethod
    async def delete(self, task_id: str) -> None:
        """Forget a task that has ended, for good, with its history and its dead letters.

        Raises:
            TaskNotFound.
            WrongState: it has not ended; or, on SQS, it was cancelled and its message may still be
                in the queue, where it would become a dead letter.
        """

    # --- changing many ----------------------------------------------------------------------

    @abstractmethod
    async def preview_action(self, request: ActionRequest) -> Matching:
        """How many tasks an action would be for now; counted for 0.15 s: then it is at
        least so many. Raises InvalidQuery."""

    @abstractmethod
    async def start_action(
        self, request: ActionRequest, *, idempotency_key: str | None = None
    ) -> Task | None:
        """Cancel, retry, redrive or delete many tasks: those that pass the filter now, and none
        that come to pass it later.

        Returns:
            The action's own task. Its progress, and its result, are an `ActionProgress`; to cancel
            it stops the action. None: no task passes.

        Raises:
            InvalidQuery: naming the member.
        """

    @abstractmethod
    async def undo_action(self, task_id: str, *, idempotency_key: str | None = None) -> Task | None:
        """Retry exactly the tasks that an action has cancelled.

        Args:
            task_id: of the action's task, which has ended.

        Raises:
            TaskNotFound.
            InvalidQuery: for "undo_of": it is no cancel, or has cancelled more tasks than it keeps
                the ids of (1000).
        """

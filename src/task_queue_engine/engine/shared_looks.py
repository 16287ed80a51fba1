"""Looks into the store that a crowd of callers shares."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence

import trio

from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import Task

LookAtMany = Callable[[Sequence[str]], Awaitable[Sequence[Task | None]]]

LOOK_SIZE = 200
"""Tasks of one look, which is a statement or two requests that are full (DynamoDB reads a hundred
items with one): what else the store is asked for waits for no more than their rows."""

# Callers that look by themselves at one time, and so wait for no other.
_ALONE = 2


class SharedLooks:
    """Few callers look for themselves. What more of them ask for while those look is asked for in
    one look.

    Args:
        look: asks the store for tasks, in the order asked for, None for unknown ids.
    """

    def __init__(self, look: LookAtMany) -> None:
        self._look = look
        self._alone = 0
        self._asked: dict[str, _Answer] = {}
        self._something_is_asked = trio.Event()
        self._is_running = False

    async def at(self, task_id: str) -> Task | None:
        """The task as it is now. Raises what `look` raises."""
        if self._is_running and self._alone >= _ALONE:
            answer = self._asked.setdefault(task_id, _Answer())
            self._something_is_asked.set()
            await answer.given.wait()
            if answer.failure is not None:
                # To each its own: an exception that is raised twice carries both tracebacks.
                raise copy.copy(answer.failure)
            if answer.is_known:
                return answer.task
        self._alone += 1
        try:
            (task,) = await self._look([task_id])
        finally:
            self._alone -= 1
        return task

    async def run(self) -> None:
        """Answer the crowd, until cancelled. Without it every caller looks for itself."""
        self._is_running = True
        try:
            while True:
                if not self._asked:
                    self._something_is_asked = trio.Event()
                    await self._something_is_asked.wait()
                await self._answer_some()
        finally:
            self._is_running = False
            for answer in self._asked.values():
                answer.given.set()
            self._asked.clear()

    async def _answer_some(self) -> None:
        asked = {task_id: self._asked.pop(task_id) for task_id in list(self._asked)[:LOOK_SIZE]}
        try:
            tasks = await self._look(list(asked))
        except BackendUnavailable as error:
            for answer in asked.values():
                answer.failure = error
        # A defect, which may be one of them alone: each looks for itself and gets what there is.
        except Exception:  # noqa: BLE001, S110
            pass
        else:
            for answer, task in zip(asked.values(), tasks, strict=True):
                answer.task, answer.is_known = task, True
        finally:
            for answer in asked.values():
                answer.given.set()


class _Answer:
    """For all callers that ask for one task."""

    __slots__ = ("failure", "given", "is_known", "task")

    def __init__(self) -> None:
        self.given = trio.Event()
        self.failure: BackendUnavailable | None = None
        self.is_known = False
        self.task: Task | None = None

"""Waiting for a task to end, whichever process ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from task_queue_engine.task import Task

# Between looks into the store. In this process the end of a task wakes its waiters at once; only
# other processes' work is found by looking.
_FIRST_LOOK = 0.05
_LONGEST_PAUSE = 1.0


class Waiters:
    """Wakes who waits for a task when this process has recorded its end."""

    def __init__(self) -> None:
        self._events: dict[str, trio.Event] = {}

    def ended(self, task_id: str) -> None:
        event = self._events.pop(task_id, None)
        if event is not None:
            event.set()

    def wake_all(self) -> None:
        """The engine ends: let everybody look once more."""
        for task_id in tuple(self._events):
            self.ended(task_id)

    async def wait(
        self, task_id: str, *, look: Callable[[], Awaitable[Task]], timeout: float
    ) -> Task:
        """The task as `look` finds it: terminal, or as it is after `timeout` seconds."""
        deadline = trio.current_time() + timeout
        pause = _FIRST_LOOK
        while True:
            event = self._events.setdefault(task_id, trio.Event())
            task = await look()
            left = deadline - trio.current_time()
            if task.status.is_terminal or left <= 0:
                self._forget(task_id, event)
                return task
            with trio.move_on_after(min(pause, left)):
                await event.wait()
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _forget(self, task_id: str, event: trio.Event) -> None:
        if not event.statistics().tasks_waiting and self._events.get(task_id) is event:
            del self._events[task_id]

"""Waiting for a task to end, whichever process ends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from task_queue_engine.task import Task

# Seconds between looks into the store. In this process the end of a task wakes its waiters at once;
# only other processes' work is found by looking: soon at first, then seldom enough to cost nothing.
_FIRST_LOOK = 0.05
_LONGEST_PAUSE = 1.0


class Waiters:
    """Wakes the callers that wait for a task when this process has recorded its end."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[_Waiter]] = {}

    def __len__(self) -> int:
        """How many tasks are waited for."""
        return len(self._waiting)

    def ended(self, task_id: str) -> None:
        for waiter in self._waiting.get(task_id, ()):
            waiter.event.set()

    def wake_all(self) -> None:
        """The engine ends: every caller looks once more."""
        for task_id in self._waiting:
            self.ended(task_id)

    async def wait(
        self, task_id: str, *, look: Callable[[], Awaitable[Task]], timeout: float
    ) -> Task:
        """The task as `look` finds it: terminal, or as it is after `timeout` seconds. Raises
        what `look` raises."""
        deadline = trio.current_time() + timeout
        pause = _FIRST_LOOK
        with self._waiter(task_id) as waiter:
            while True:
                task = await look()
                left = deadline - trio.current_time()
                if task.status.is_terminal or left <= 0:
                    return task
                with trio.move_on_after(min(pause, left)):
                    await waiter.event.wait()
                # An end that comes during the next look is not to be missed by the next pause.
                waiter.event = trio.Event()
                pause = min(_LONGEST_PAUSE, pause * 2)

    @contextmanager
    def _waiter(self, task_id: str) -> Iterator[_Waiter]:
        waiter = _Waiter()
        self._waiting.setdefault(task_id, set()).add(waiter)
        try:
            yield waiter
        finally:
            waiters = self._waiting[task_id]
            waiters.discard(waiter)
            if not waiters:
                del self._waiting[task_id]


class _Waiter:
    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event = trio.Event()

"""When each of many tasks is looked at next."""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio

# Of its pause, by which a task is looked at before its time, beside others: those that come one
# after the other are soon looked at together, four times a second where each has its turn once, and
# not as often as there are moments at which somebody came.
_EARLY = 0.25


class Rounds:
    """Tasks that are looked at after the first of `pauses`, then after the second, and so on.

    Args:
        pauses: seconds, growing.
        then: where they go after the last; None: they stay, at that pause.
    """

    def __init__(self, pauses: Sequence[float], then: Rounds | None = None) -> None:
        self._pauses = pauses
        self._then = then
        # When each is due, by task. In order, as all of one queue pause for as long.
        self._queues: list[dict[str, float]] = [{} for _ in pauses]
        self._sooner = trio.Event()

    def add(self, task_id: str, now: float) -> None:
        self._put(0, task_id, now)

    def discard(self, task_id: str) -> None:
        for queue in self._queues:
            queue.pop(task_id, None)

    def hurry(self, now: float) -> None:
        """All of them are due at once."""
        for queue in self._queues:
            queue.update(dict.fromkeys(queue, now))
        self._sooner.set()

    def take(self, now: float, most: int) -> list[str]:
        """Those that are due or soon will be, the newest kind first; each is due again after its
        next pause."""
        taken: list[tuple[int, str]] = []
        for number, queue in enumerate(self._queues):
            soon = now + _EARLY * self._pauses[number]
            for task_id, due_at in queue.items():
                if due_at > soon or len(taken) == most:
                    break
                taken.append((number, task_id))
        for number, task_id in taken:
            del self._queues[number][task_id]
            if number + 1 < len(self._queues):
                self._put(number + 1, task_id, now)
            elif self._then is not None:
                self._then.add(task_id, now)
            else:
                self._put(number, task_id, now)
        return [task_id for _, task_id in taken]

    async def wait(self) -> None:
        """Until one is due."""
        while (first := self._first_due()) > trio.current_time():
            self._sooner = trio.Event()
            with trio.move_on_at(first):
                await self._sooner.wait()

    def _first_due(self) -> float:
        return min(
            (next(iter(queue.values())) for queue in self._queues if queue), default=math.inf
        )

    def _put(self, number: int, task_id: str, now: float) -> None:
        queue = self._queues[number]
        if not queue:
            self._sooner.set()
        queue[task_id] = now + self._pauses[number]

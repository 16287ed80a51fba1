"""What was received and waits for its claim."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from task_queue_engine.actors.messages import Lease
from task_queue_engine.registry import RunsIn


class ClaimBuffer:
    """Leases in their order, but for those that would wait for a thread or a worker process: they
    stay here while others pass them. Claimed, they would be PROCESSING without a handler, and a
    process that dies would cost them an attempt.

    Args:
        runs_in: where handlers of a task type run; None where the type is not known.
        places: so many handlers may run there at a time; where it says nothing, any number.
    """

    def __init__(
        self, *, runs_in: Callable[[str], RunsIn | None], places: Mapping[RunsIn, int]
    ) -> None:
        self._runs_in = runs_in
        self._free = dict(places)
        self._incoming: deque[Lease] = deque()
        self._held_back: dict[RunsIn, deque[Lease]] = {where: deque() for where in places}

    def __len__(self) -> int:
        return len(self._incoming) + sum(map(len, self._held_back.values()))

    def add(self, leases: Iterable[Lease]) -> None:
        self._incoming.extend(leases)

    def take(self, most: int) -> list[Lease]:
        """At most so many to claim now. Places are taken with `started`, not here."""
        taken: list[Lease] = []
        free = self._free.copy()
        for where, held in self._held_back.items():
            while held and free[where] > 0 and len(taken) < most:
                free[where] -= 1
                taken.append(held.popleft())
        while self._incoming and len(taken) < most:
            lease = self._incoming.popleft()
            where_to = self._runs_in(lease.delivery.task_type)
            if where_to is not None and where_to in free:
                if free[where_to] <= 0:
                    self._held_back[where_to].append(lease)
                    continue
                free[where_to] -= 1
            taken.append(lease)
        return taken

    def take_all(self) -> list[Lease]:
        leases = [*self._incoming]
        self._incoming.clear()
        for held in self._held_back.values():
            leases += held
            held.clear()
        return leases

    def started(self, task_type: str) -> None:
        self._change(task_type, -1)

    def ended(self, task_type: str) -> None:
        self._change(task_type, 1)

    def _change(self, task_type: str, places: int) -> None:
        where = self._runs_in(task_type)
        if where is not None and where in self._free:
            self._free[where] += places

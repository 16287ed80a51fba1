"""What the claimer has workers and places for, as it tells the poller."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from task_queue_engine.actors.messages import Room, WorkerFree
from task_queue_engine.actors.pace import Pace
from task_queue_engine.backends.base import TakePlan


class Demand:
    """A part of the claimer, and no actor of its own: counts workers that wait, and attempts that
    wait for one.

    Args:
        worker_name: claims are made under it.
        pace: how many may wait.
    """

    def __init__(self, *, worker_name: str, pace: Pace) -> None:
        self._worker_name = worker_name
        self._pace = pace
        # Workers that wait, less the attempts that wait for a worker.
        self._balance = 0
        self._seen = 0
        self._told: Room | None = None
        self.is_paused = False
        """Nothing is to be claimed."""

    @property
    def free_workers(self) -> int:
        """Workers for which nothing was claimed yet."""
        return 0 if self.is_paused else max(0, self._balance)

    @property
    def waiting_ahead(self) -> int:
        """Attempts that were claimed before a worker was free for them, and have not started."""
        return max(0, -self._balance)

    @property
    def ahead(self) -> int:
        """So many more may be claimed ahead."""
        return 0 if self.is_paused else max(0, self._pace.ahead - self.waiting_ahead)

    @property
    def may_hold(self) -> bool:
        """What is only leased may wait for a worker however long that takes: so it was set."""
        return self._pace.is_fixed

    @property
    def short_types(self) -> frozenset[str]:
        return self._pace.short_types

    def leased(self, number: int) -> None:
        self._seen += number

    def worker_is_free(self, event: WorkerFree) -> None:
        self._balance += 1
        if event.after is not None:
            self._pace.note(event.after, event.seconds)

    def handed_over(self) -> None:
        self._balance -= 1

    def taken_back(self, number: int) -> None:
        """They waited for a worker, and none came free in time."""
        self._balance += number
        self._pace.stall()

    def news(
        self, *, waiting: int, types: Mapping[str, Hashable], places: Mapping[Any, int]
    ) -> Room | None:
        """What there are places for; None where the poller knows it already.

        Args:
            waiting: leases that wait for their claim.
            types, places: as in `TakePlan`.
        """
        free = max(0, self.free_workers - waiting)
        ahead = self.ahead - max(0, waiting - self.free_workers)
        # Half of them at a time, unless a worker waits: a few make a poor batch.
        if ahead <= 0 or (not free and 2 * ahead < self._pace.ahead):
            ahead = 0
        plan = TakePlan(
            worker=self._worker_name,
            free=free,
            ahead=ahead,
            types=types,
            ahead_types=self._pace.short_types,
            places=places,
        )
        room = Room(plan=plan, seen=self._seen)
        if room == self._told:
            return None
        self._told = room
        return room

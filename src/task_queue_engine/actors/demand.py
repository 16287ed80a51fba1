"""What the claimer has workers and places for, as it tells the poller."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import trio

from task_queue_engine.actors.messages import Room, WorkerFree
from task_queue_engine.actors.pace import Pace
from task_queue_engine.backends.base import TakePlan

logger = logging.getLogger("task_queue_engine.claimer")

# Seconds: a burst that is worked off by then needs nothing.
_WORTH_SAYING = 60.0


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
        self.freed = 0
        """How often a worker has come free."""
        self._told: Room | None = None
        self._all_busy_since: float | None = None
        self._has_said_so = False
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
    def holds_by_itself(self) -> bool:
        """What waits is held since there seemed to be work for it, and by no setting."""
        return not self._pace.is_fixed

    @property
    def short_types(self) -> frozenset[str]:
        return self._pace.short_types

    @property
    def all_busy_for(self) -> float:
        """Seconds for which there was no worker that waits for work."""
        since = self._all_busy_since
        return 0.0 if since is None else trio.current_time() - since

    def notes(self) -> tuple[str, ...]:
        """For a person who asks how this worker is."""
        if self.all_busy_for < _WORTH_SAYING:
            return ()
        said = (
            f"all {self._pace.workers} workers of this process have been busy for "
            f"{self.all_busy_for:.0f} s: where tasks wait, and handlers do so most of their time, "
            "a higher WORKER_COUNT runs more of them at once"
        )
        return (said,)

    def _note_whether_all_are_busy(self) -> None:
        """Asked when everything that can be handed over has been."""
        if self._balance > 0:
            self._all_busy_since, self._has_said_so = None, False
        elif self._all_busy_since is None:
            self._all_busy_since = trio.current_time()
        elif not self._has_said_so and (notes := self.notes()):
            self._has_said_so = True
            logger.info("%s", notes[0])

    def leased(self, number: int) -> None:
        self._seen += number

    def worker_is_free(self, event: WorkerFree) -> None:
        self._balance += 1
        self.freed += 1
        if event.after is not None:
            self._pace.note(event.after, event.seconds)

    def claim_took(self, seconds: float) -> None:
        self._pace.note_claim(seconds)

    def handed_over(self) -> None:
        self._balance -= 1

    def taken_back(self, number: int) -> None:
        """They waited for a worker, and none came free in time."""
        self._balance += number
        self._pace.stall()

    def news(
        self,
        *,
        waiting: int,
        types: Mapping[str, Hashable],
        places: Mapping[Any, int],
        holds_enough: bool = False,
    ) -> Room | None:
        """What there are places for; None where the poller knows it already.

        Args:
            waiting: leases that wait for a worker.
            types, places: as in `TakePlan`.
            holds_enough: so much waits for places that no more is to be received.
        """
        self._note_whether_all_are_busy()
        free = max(0, self.free_workers - waiting)
        ahead = self.ahead - max(0, waiting - self.free_workers)
        # Half of them at a time, unless a worker waits: a few make a poor batch.
        if holds_enough:
            free = ahead = 0
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

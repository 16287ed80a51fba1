"""How much work may wait in this process: so much that workers never wait for it.

Measured are handlers and claims, so that a network's latency is no setting.
"""

from __future__ import annotations

from task_queue_engine.task_actions import ACTION_TYPE

# Seconds of work that may wait here, at least and at most: too short for a task to be missed by
# another process.
HORIZON = 0.05
LONGEST_HORIZON = 0.5
# In between, so many times what a claim takes. More is fetched when half of it is worked off, and
# that is a receive and a claim, which may wait for those under way.
CLAIMS_OF_HORIZON = 8
# Seconds for which what was claimed ahead waits while no worker comes free: several times what it
# was meant to wait, since on a busy machine a process itself stands still for as long.
PATIENCE = 0.2
# Seconds. A type whose handlers take no longer is claimed before a worker is free for it: its turn
# comes within the horizon, and commits serve many tasks in place of one for each worker.
SHORT = 0.01
# Where claims take long, so is one whose worker would wait for them for a tenth of its time and
# more: up to what is half of the patience.
CLAIMS_OF_SHORT = 10
LONGEST_SHORT = 0.1
# Tasks: two batches of the store, the one that is worked off and the one that is fetched meanwhile.
MOST = 512
# Share of the latest attempt in the mean: a single slow one counts, and is forgotten after some
# thirty quick ones.
_LATEST = 1 / 16
# The same of claims, which are as many as there are batches.
_LATEST_CLAIM = 1 / 4


class Pace:
    """A part of the claimer, and no actor of its own: it is told how long attempts and claims took.

    Args:
        workers: how many run at a time.
        fixed: so many may wait, whatever attempts take; None: as many as there is time for.
    """

    def __init__(self, *, workers: int, fixed: int | None) -> None:
        self.workers = workers
        self._fixed = fixed
        self._mean: float | None = None
        self._mean_of: dict[str, float] = {}
        self._claim_takes = 0.0
        self._is_stalled = False
        self.short_types: frozenset[str] = frozenset()
        """Types that may be claimed ahead."""

    def note(self, task_type: str, seconds: float) -> None:
        """An attempt of this type has ended, after so many seconds in the worker's hands."""
        self._is_stalled = False
        self._mean = _mix(self._mean, seconds)
        if task_type == ACTION_TYPE:
            return  # each is over other tasks: what one takes says nothing of the next
        mean = self._mean_of[task_type] = _mix(self._mean_of.get(task_type), seconds)
        short = min(LONGEST_SHORT, max(SHORT, CLAIMS_OF_SHORT * self._claim_takes))
        if (mean <= short) is not (task_type in self.short_types):
            self.short_types ^= {task_type}

    def note_claim(self, seconds: float) -> None:
        """A claim has been answered after so many seconds."""
        # One that had to be made again and again tells nothing of the next.
        seconds = min(seconds, LONGEST_SHORT)
        self._claim_takes += (seconds - self._claim_takes) * _LATEST_CLAIM

    @property
    def is_fixed(self) -> bool:
        return self._fixed is not None

    def stall(self) -> None:
        """All workers are busy for longer than the horizon: hold nothing until one is free."""
        self._is_stalled = True

    @property
    def ahead(self) -> int:
        """Tasks that may wait here beside those that run."""
        if self._is_stalled:
            return 0
        if self._fixed is not None:
            return self._fixed
        if self._mean is None:
            return 0
        horizon = min(LONGEST_HORIZON, max(HORIZON, CLAIMS_OF_HORIZON * self._claim_takes))
        return min(MOST, int(self.workers * horizon / max(self._mean, 1e-6)))


def _mix(mean: float | None, latest: float) -> float:
    return latest if mean is None else mean + (latest - mean) * _LATEST

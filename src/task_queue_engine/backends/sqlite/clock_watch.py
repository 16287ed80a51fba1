"""Notices when the machine's clock is set back."""

from __future__ import annotations

import logging

from task_queue_engine.backends.sqlite.rows import to_us
from task_queue_engine.clock import Clock

logger = logging.getLogger("task_queue_engine.sqlite")

TOLERANCE = 5_000_000
"""Microseconds; a smaller step back is waited out. As long as a write may wait for the lock
(`threads.BUSY_TIMEOUT`): its time is from before that, and another process's may be later."""


class ClockWatch:
    """A queue's clock. Asked on the event loop alone, where every clock may be asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0
        self.times_set_back = 0

    def now(self) -> int:
        """The time of day in microseconds, as stored."""
        now = to_us(self._clock.now())
        if now < self._last - TOLERANCE:
            self.times_set_back += 1
            logger.warning("the machine's clock went back by %.0f s", (self._last - now) / 1e6)
        self._last = now
        return now

"""Let a database thread have Python's interpreter lock while the event loop is saturated.

A thread that comes back from SQLite needs the lock to go on. A loop that always has a task ready
gives it up for microseconds at a time, in the system calls it makes, and has it back before the
thread has woken (bugs.python.org/issue7946, the convoy effect). Measured with a loop kept busy: one
write took up to 0.4 s on a busy machine and 4 s on an idle one; with this, some 20 ms on both.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

# Seconds the loop may run on without a pause: with `_PAUSE`, at most a tenth of its time is given.
_EVERY = 0.001

# Seconds: about what a thread needs to wake up.
_PAUSE = 0.000_05


class YieldToThreads(trio.abc.Instrument):
    """Pauses a loop that has not waited for `_EVERY` seconds, while `is_waiting` says that an
    answer is due from a thread. An idle loop is left alone."""

    def __init__(self, is_waiting: Callable[[], bool]) -> None:
        self._is_waiting = is_waiting
        self._last_pause = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        if timeout > 0:
            self._last_pause = time.perf_counter()
        elif self._is_waiting() and time.perf_counter() - self._last_pause > _EVERY:
            time.sleep(_PAUSE)
            self._last_pause = time.perf_counter()

"""Ends a process that cannot end itself.

All deadlines of a shutdown (`engine/shutdown.py`) run on the event loop. A handler that blocks the
loop (an `async def` that calls something slow and synchronous) takes them with it; this thread is
what is left. The signal arms it, the end of the service calls it off.
"""

from __future__ import annotations

import logging
import math
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable

logger = logging.getLogger("task_queue_engine.watchdog")

# Seconds for the log line: where it is written to may be what everything hangs on.
_LAST_WORDS = 1.0
# Innermost calls to name: the one that blocks, and the handler's own line above it.
_FRAMES = 3


class Watchdog:
    """Asleep until a shutdown begins.

    Args:
        timeout: seconds from `arm` to the end.
        hurried_timeout: seconds from `hurry` to the end.
        end: called with nothing when the time is over; it does not come back.
    """

    def __init__(self, *, timeout: float, hurried_timeout: float, end: Callable[[], None]) -> None:
        self._timeout = timeout
        self._hurried_timeout = hurried_timeout
        self._end = end
        # Safe to be called inside a signal handler, which an Event is not: it may interrupt itself.
        self._orders: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def arm(self) -> None:
        """A shutdown has begun. May be called again, and from a signal handler: the earliest end
        counts."""
        self._orders.put(self._timeout)

    def hurry(self) -> None:
        """The shutdown is to be over at once."""
        self._orders.put(self._hurried_timeout)

    def stop(self) -> None:
        """All is well."""
        self._orders.put(None)
        self._thread.join()

    def _watch(self) -> None:
        deadline = math.inf
        while True:
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            try:
                order = self._orders.get(timeout=left)
            except queue.Empty:
                break
            if order is None:
                return
            deadline = min(deadline, time.monotonic() + order)
        words = threading.Thread(target=self._say_why, daemon=True)
        words.start()
        words.join(_LAST_WORDS)
        self._end()

    def _say_why(self) -> None:
        logger.critical(
            "the time to end is over and the event loop does not turn, most likely because a "
            "handler blocks it (%s): leaving now; held tasks are taken over when their leases end",
            _where_is_the_loop(),
        )


def _where_is_the_loop() -> str:
    """The innermost calls of the main thread, the innermost first."""
    main = threading.main_thread().ident
    frame = sys._current_frames().get(main) if main is not None else None
    if frame is None:
        return "where is not known"
    calls = traceback.extract_stack(frame)[-_FRAMES:]
    return ", called from ".join(
        f"{call.filename}:{call.lineno} in {call.name}" for call in reversed(calls)
    )

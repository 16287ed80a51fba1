"""How an engine ends: phases and their deadlines.

1. draining: the poller stops, what no worker has started goes back to the queue, running handlers
   have `grace` seconds to finish;
2. interrupting: the grace is over, handlers' scopes are cancelled, their tasks are given back;
3. the hard deadline, `flush` seconds after the grace: whatever still hangs is cancelled.

A second request (a second signal) skips what is left of the grace.
"""

from __future__ import annotations

from enum import StrEnum

import trio


class Phase(StrEnum):
    RUNNING = "running"
    DRAINING = "draining"
    INTERRUPTING = "interrupting"


class Shutdown:
    """The request to end, seen by whoever has to act on it."""

    def __init__(self, *, grace: float, flush: float) -> None:
        self._grace = grace
        self._flush = flush
        self._requested = trio.Event()
        self._hurried = trio.Event()
        self.phase = Phase.RUNNING

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    def request(self) -> None:
        """End gracefully. The second call means: now."""
        if self._requested.is_set():
            self._hurried.set()
            return
        self._requested.set()
        self.phase = Phase.DRAINING

    def hurry(self) -> None:
        """End without any grace."""
        if not self.requested:
            self.request()
        self._hurried.set()

    async def wait_requested(self) -> None:
        await self._requested.wait()

    async def wait_grace_over(self) -> None:
        with trio.move_on_after(self._grace):
            await self._hurried.wait()
        self.phase = Phase.INTERRUPTING

    @property
    def flush(self) -> float:
        """Seconds between the end of the grace and the hard deadline."""
        return self._flush

"""How long the event loop was held: nothing else ran meanwhile, no lease was renewed and no request
answered."""

from __future__ import annotations

import time

import trio

from task_queue_engine.measures import SHORT, Distribution, Histogram


class LoopLag(trio.abc.Instrument):
    """Every turn of the loop, from its waking to its next wait, and how late it woke.

    Not a timer that looks how late it is: that wakes an idle process, and sees a turn of 0.1 s once
    in as many times as it sleeps longer. This costs two calls a turn, and many tasks share one.
    """

    def __init__(self) -> None:
        self._turns = Histogram(SHORT)
        self._woke = self._waits_since = time.perf_counter()
        self._to_wake_in = 0.0
        self._worst = 0.0

    async def run(self) -> None:
        """Until cancelled, measure the loop that this runs in."""
        self._woke = time.perf_counter()
        trio.lowlevel.add_instrument(self)
        try:
            await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        now = self._waits_since = time.perf_counter()
        self._to_wake_in = timeout
        took = now - self._woke
        self._turns.observe(took)
        if took > self._worst:
            self._worst = took

    def after_io_wait(self, timeout: float) -> None:
        # A thread that holds the interpreter keeps the loop from waking: that is part of the turn.
        woke = time.perf_counter()
        self._woke = min(woke, self._waits_since + self._to_wake_in)

    @property
    def worst(self) -> float:
        """Seconds of the longest turn since `forget`."""
        return self._worst

    def forget(self) -> None:
        self._worst = 0.0

    def distributions(self) -> tuple[Distribution, ...]:
        return (self._turns.distribution("event_loop_turn_seconds"),)

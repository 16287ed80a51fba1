"""When the next batch sets out, while others are on their way."""

from __future__ import annotations

import math

import trio

# Batches on their way at a time, beside what is left of some that could not be carried out whole.
_BATCHES = 8
# A batch that takes so many times as long as they do is not waited for any more. Those that take
# their time are: what comes meanwhile shares a request.
_LATE = 1.5
# Seconds: a timer that is shorter is not exact, and none needs to be longer.
_SHORTEST_GAP = 0.01
_LONGEST_GAP = 0.05
# Share of the latest batch in the mean of what they take.
_LATEST = 1 / 8


class SideBySide:
    """A part of an actor that has batches carried out: a late one holds up none behind it.

    Args:
        most: items on their way at a time, those that are tried over and over among them.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._batches = self._items = 0
        self._takes = 0.0
        self._last_set_out = -math.inf
        self._one_is_back = trio.Event()
        self.is_blocked = False
        """Nothing sets out on top of what cannot be carried out."""

    async def until_next(self) -> None:
        """Wait until a further batch may set out."""
        while self._batches:
            gap = min(_LONGEST_GAP, max(_SHORTEST_GAP, _LATE * self._takes))
            is_full = self._batches >= _BATCHES or self._items >= self._most or self.is_blocked
            late_at = math.inf if is_full else self._last_set_out + gap
            if late_at <= trio.current_time():
                return
            await self._wait(late_at)
        while self._items >= self._most:
            await self._wait(math.inf)

    async def _wait(self, until: float) -> None:
        self._one_is_back = trio.Event()
        with trio.move_on_at(until):
            await self._one_is_back.wait()

    def sets_out(self, items: int) -> float:
        """Returns when, for `is_back`."""
        self._batches += 1
        self._items += items
        self._last_set_out = trio.current_time()
        return self._last_set_out

    def is_back(self, set_out: float, items: int) -> None:
        self._takes += (trio.current_time() - set_out - self._takes) * _LATEST
        self._batches -= 1
        self._items -= items
        self._one_is_back.set()

    def keeps(self, items: int) -> None:
        """So many are tried on, beside the batches."""
        self._items += items

    def has_done(self, items: int) -> None:
        """So many of `keeps` are done."""
        self._items -= items
        self._one_is_back.set()

"""How late the event loop comes to what is due: what a handler that blocks it shows by."""

from __future__ import annotations

import trio

# Seconds between two looks: what blocks the loop for a second is never missed, and what blocks it
# for less is seen as often as it happens. A look costs some 20 us.
_EVERY = 1.0


class LoopLag:
    """Looks once a second, while it runs."""

    def __init__(self) -> None:
        self._worst = 0.0

    async def run(self) -> None:
        while True:
            due = trio.current_time() + _EVERY
            await trio.sleep_until(due)
            self._worst = max(self._worst, trio.current_time() - due)

    @property
    def worst(self) -> float:
        """Seconds, of the looks since `forget`."""
        return self._worst

    def forget(self) -> None:
        self._worst = 0.0

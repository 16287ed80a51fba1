"""Expected trouble is met where it happens: try again, with backoff and jitter, and say so."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from task_queue_engine.actors.health import Health
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.retry import Backoff

T = TypeVar("T")

_BACKOFF = Backoff(base=0.1, cap=5.0)


class Patience:
    """One actor's way of waiting out a backend in trouble."""

    def __init__(self, *, actor: str, health: Health, rng: random.Random) -> None:
        self._actor = actor
        self._health = health
        self._rng = rng
        self._failures = 0

    async def until_done(
        self, operation: Callable[[], Awaitable[T]], *, give_up: Callable[[], bool] | None = None
    ) -> T:
        """`operation()`, repeated while it raises BackendUnavailable.

        Raises:
            BackendUnavailable: the last one, once `give_up()` says there is no use any more.
            Whatever else `operation` raises.
        """
        while True:
            try:
                result = await operation()
            except BackendUnavailable as error:
                if give_up is not None and give_up():
                    raise
                await self.pause(error)
            else:
                self.well()
                return result

    async def pause(self, error: BackendUnavailable) -> None:
        """Report the trouble and wait, a little longer every time in a row."""
        self._failures += 1
        self._health.trouble(self._actor, error)
        # Half of the bound at least: full jitter may draw 0, and a store in trouble needs a rest.
        bound = _BACKOFF.delay(self._failures, self._rng) / 2
        floor = min(_BACKOFF.cap, _BACKOFF.base * 2 ** min(self._failures - 1, 10)) / 2
        await trio.sleep(floor + bound)

    def well(self) -> None:
        if self._failures:
            self._failures = 0
            self._health.well(self._actor)

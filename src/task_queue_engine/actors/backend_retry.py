"""A backend in trouble is waited out where it is met, with backoff and jitter, and shows."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.retry import Backoff

T = TypeVar("T")

# The first pause costs a task next to nothing; the longest spares a backend that is down, and is
# short beside a lease.
_BACKOFF = Backoff(base=0.1, cap=5.0, jitter=False)


class BackendRetry:
    """How one actor calls its backend. `call` owns both ends: the actor shows as degraded from the
    first failure on, and as ok when the trying is over: with success, without it, or cancelled.
    (What is not expected is the supervisor's to report.) Nothing is kept between calls.
    """

    def __init__(self, *, actor: str, health: ActorHealth, rng: random.Random) -> None:
        self._actor = actor
        self._health = health
        self._rng = rng

    async def call(
        self, operation: Callable[[], Awaitable[T]], *, give_up: Callable[[], bool] | None = None
    ) -> T:
        """`operation()`, repeated while it raises BackendUnavailable.

        Raises:
            BackendUnavailable: the last one, where `give_up()` says after a failure that there is
                no use any more.
            Whatever else `operation` raises.
        """
        failures = 0
        try:
            while True:
                try:
                    result = await operation()
                except BackendUnavailable as error:
                    if give_up is not None and give_up():
                        self._over(failures)
                        raise
                    failures += 1
                    self._health.degraded(self._actor, error)
                else:
                    self._over(failures)
                    return result
                await trio.sleep(self._pause(failures))
        except trio.Cancelled:
            self._over(failures)
            raise

    def _over(self, failures: int) -> None:
        if failures:
            self._health.ok(self._actor)

    def _pause(self, failures: int) -> float:
        """Seconds, a little more after each failure in a row."""
        bound = _BACKOFF.delay(failures, self._rng)
        # Half of it at least: a backend in trouble needs a rest.
        return self._rng.uniform(bound / 2, bound)

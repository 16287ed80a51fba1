"""What many want to know of the backend at a time is asked once for all."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from task_queue_engine.errors import BackendError

T = TypeVar("T")

# Seconds for a backend to answer: less than a probe waits.
ANSWER_WITHIN = 2.0
# Seconds for which an answer is good. Probes come every few seconds, and from several places; on
# AWS each look is a paid request, and /ready is open to all that can connect.
_GOOD_FOR = 1.0


class RecentAnswer(Generic[T]):
    """The answer to one question, which is asked one at a time and once a second at most."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking = trio.Lock()
        self._latest: tuple[T, float] | None = None
        """And when it was given."""

    async def get(self, *, good_for: float = _GOOD_FOR) -> T:
        """
        Args:
            good_for: seconds for which an earlier answer will do.

        Raises:
            Whatever asking raises; the next one asks again.
        """
        latest = self._not_older_than(good_for)
        if latest is None:
            # One asks, the others wait for its answer; if it is cancelled the next one asks.
            async with self._asking:
                latest = self._not_older_than(good_for)
                if latest is None:
                    latest = self._latest = (await self._ask(), trio.current_time())
        return latest[0]

    def _not_older_than(self, seconds: float) -> tuple[T, float] | None:
        at = -math.inf if self._latest is None else self._latest[1]
        return self._latest if trio.current_time() - at < seconds else None


class BackendProbe:
    """`Backend.ping`, at most one at a time and one a second."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._answer = RecentAnswer(self._ask)

    async def trouble(self) -> str | None:
        """What is wrong with the backend; None where nothing is."""
        return await self._answer.get()

    async def _ask(self) -> str | None:
        try:
            with trio.fail_after(ANSWER_WITHIN):
                await self._ping()
        except BackendError as error:
            return f"backend: {error}"
        except trio.TooSlowError:
            return f"backend: no answer within {ANSWER_WITHIN:g} s"
        return None

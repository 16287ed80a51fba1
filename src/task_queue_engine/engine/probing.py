"""Whether the backend answers, asked once for all that want to know."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from task_queue_engine.errors import BackendError

# Seconds for a backend to answer: less than a probe waits.
ANSWER_WITHIN = 2.0
# Seconds for which an answer is good. Probes come every few seconds, and from several places; on
# AWS each look is a paid request, and /ready is open to all that can connect.
_GOOD_FOR = 1.0


class BackendProbe:
    """`Backend.ping`, at most one at a time and one a second."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._asking = trio.Lock()
        self._asked_at = -math.inf
        self._trouble: str | None = None

    async def trouble(self) -> str | None:
        """What is wrong with the backend; None where nothing is."""
        if self._is_old():
            # One asks, the others wait for its answer; if it is cancelled the next one asks.
            async with self._asking:
                if self._is_old():
                    self._trouble = await self._ask()
                    self._asked_at = trio.current_time()
        return self._trouble

    def _is_old(self) -> bool:
        return trio.current_time() - self._asked_at >= _GOOD_FOR

    async def _ask(self) -> str | None:
        try:
            with trio.fail_after(ANSWER_WITHIN):
                await self._ping()
        except BackendError as error:
            return f"backend: {error}"
        except trio.TooSlowError:
            return f"backend: no answer within {ANSWER_WITHIN:g} s"
        return None

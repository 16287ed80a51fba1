"""Has worker processes ready before what runs in them is claimed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from task_queue_engine.actors.messages import ClaimEvent, ProcessTried
from task_queue_engine.errors import HandlerNotStarted

logger = logging.getLogger("task_queue_engine.warmer")


@dataclass(frozen=True, slots=True)
class WarmerStatistics:
    started: int
    """Processes that were ready in the end."""
    failed: int


class Warmer:
    """Starts a process for each wish of the claimer, and says on `claim_events` what came of it."""

    def __init__(
        self,
        *,
        make_ready: Callable[[], Awaitable[None]],
        wishes: trio.MemoryReceiveChannel[None],
        claim_events: trio.MemorySendChannel[ClaimEvent],
    ) -> None:
        self._make_ready = make_ready
        self._wishes = wishes
        self._claim_events = claim_events
        self._stoppable = trio.CancelScope()
        self._started = self._failed = 0

    def statistics(self) -> WarmerStatistics:
        return WarmerStatistics(started=self._started, failed=self._failed)

    def stop(self) -> None:
        """Nothing is to start any more. Safe to call at any time."""
        self._stoppable.cancel()

    async def run(self) -> None:
        with self._wishes, self._claim_events, self._stoppable:
            async with trio.open_nursery() as nursery:
                async for _ in self._wishes:
                    nursery.start_soon(self._start_one)

    async def _start_one(self) -> None:
        tried = ProcessTried()
        try:
            await self._make_ready()
            self._started += 1
        except HandlerNotStarted as error:
            self._failed += 1
            logger.warning("%s; what is to run there waits, at no cost", error)
            tried = ProcessTried(error.retry_in)
        with suppress(trio.BrokenResourceError):  # the claimer has ended
            self._claim_events.send_nowait(tried)

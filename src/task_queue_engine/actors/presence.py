"""Says who this process is, and what it runs, in a row that others read."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import msgspec
import trio

from task_queue_engine.backends.base import WorkerStore
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendError
from task_queue_engine.execution.memory import resident_bytes
from task_queue_engine.worker import BEAT, MAX_RUNNING, RunningTask, Worker, WorkerState

logger = logging.getLogger("task_queue_engine.presence")

# Of a beat: processes that began together do not write together.
_JITTER = 0.1
# Seconds for the row to be removed. One that stays is taken for lost a minute later.
_LEAVE_WITHIN = 1.0


@dataclass(frozen=True, slots=True)
class PresenceStatistics:
    beats: int
    """Answered by the backend."""
    failures: int


class Lag(Protocol):
    """How long the event loop was held at most, since `forget`."""

    @property
    def worst(self) -> float:
        """Seconds."""
        ...

    def forget(self) -> None: ...


class Presence:
    """Writes the row at the start, every `worker.BEAT` seconds and when draining begins, and
    removes it at the end. Trouble with that is logged and is no reason not to be ready: tasks run
    all the same.

    Args:
        identity: the row, with what does not change.
        running: the attempts whose handler runs.
    """

    def __init__(
        self,
        *,
        workers: WorkerStore,
        identity: Worker,
        running: Callable[[], Sequence[RunningTask]],
        lag: Lag,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._workers = workers
        self._identity = identity
        self._running = running
        self._clock = clock
        self._rng = rng
        self._lag = lag
        self._news = trio.Event()
        self._may_be_there = self._has_left = False
        # A row that is on its way comes before its removal.
        self._calling = trio.Lock()
        self._is_in_trouble = False
        self._beats = self._failures = 0

    def statistics(self) -> PresenceStatistics:
        return PresenceStatistics(beats=self._beats, failures=self._failures)

    async def run(self) -> None:
        await self._beat()
        # Once: it costs a look at all rows, and what dies is mostly started anew.
        with suppress(BackendError):  # the next one to start does it
            await self._workers.forget_lost()
        while True:
            with trio.move_on_after(BEAT * self._rng.uniform(1 - _JITTER, 1 + _JITTER)):
                await self._news.wait()
            self._news = trio.Event()
            await self._beat()

    def drain(self) -> None:
        """No more work is taken. Said at once where there is something to wait for: else the row
        goes in a moment."""
        self._identity = msgspec.structs.replace(self._identity, state=WorkerState.DRAINING)
        if self._running():
            self._news.set()

    async def leave(self) -> None:
        """Remove the row, within a second, come what may."""
        self._has_left = True
        with trio.move_on_after(_LEAVE_WITHIN):
            async with self._calling:
                # With a backend in trouble it is left to grow old.
                if self._may_be_there and not self._is_in_trouble:
                    await self._try(lambda: self._workers.remove(self._identity.id))

    def describe(self) -> Worker:
        """The row as it would be now."""
        running = sorted(self._running(), key=lambda task: task.since)
        return msgspec.structs.replace(
            self._identity,
            busy=len(running),
            running=tuple(running[:MAX_RUNNING]),
            loop_lag_seconds=round(self._lag.worst, 3),
            memory_bytes=resident_bytes(),
            last_seen=self._clock.now(),
        )

    async def _beat(self) -> None:
        async with self._calling:
            if not self._has_left:
                self._may_be_there = True
                self._beats += await self._try(lambda: self._workers.put(self.describe()))
                self._lag.forget()

    async def _try(self, call: Callable[[], Awaitable[None]]) -> bool:
        try:
            await call()
        except BackendError as error:
            self._failures += 1
            if not self._is_in_trouble:
                logger.warning("others do not see this process: %s; trying again", error)
            self._is_in_trouble = True
            return False
        if self._is_in_trouble:
            logger.info("others see this process again")
        self._is_in_trouble = False
        return True

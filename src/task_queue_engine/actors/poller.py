"""The head of the line: receives what workers ask for, and hands on what was claimed of it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.claimer import Claimed, Claimer
from task_queue_engine.actors.messages import (
    Acquired,
    Attempt,
    Interrupted,
    Lease,
    LeaseEvent,
    Outcome,
    Release,
    Settlement,
)
from task_queue_engine.backends.base import Delivery, TaskQueue
from task_queue_engine.errors import BackendUnavailable

logger = logging.getLogger("task_queue_engine.poller")


@dataclass(frozen=True, slots=True)
class PollerStatistics:
    received: int
    claimed: int
    taken_over: int
    quarantined: int
    duplicates: int
    returned_unstarted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PollerChannels:
    """The ends that the poller holds, and closes when it ends."""

    demand: trio.MemoryReceiveChannel[int]
    deliveries: trio.MemorySendChannel[Attempt]
    unstarted: trio.MemoryReceiveChannel[Attempt]
    """A second receiver of `deliveries`, read only to take back what is still in its buffer."""
    outcomes: trio.MemorySendChannel[Outcome]
    settlements: trio.MemorySendChannel[tuple[Settlement, ...]]
    leases: trio.MemorySendChannel[LeaseEvent]


class Poller:
    """Receives a batch, has it claimed, hands on what is to run.

    It asks the queue for no more than the workers have asked for on `demand`, so that claimed work
    does not age in memory. `stop` ends it from the top: a receive under way is cancelled, whatever
    no worker has taken yet is given back, and closing `deliveries` lets the rest of the line run
    dry.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        claimer: Claimer,
        visibility: float,
        poll_wait: float,
        retry: BackendRetry,
        channels: PollerChannels,
    ) -> None:
        self._queue = queue
        self._claimer = claimer
        self._visibility = visibility
        self._poll_wait = poll_wait
        self._retry = retry
        self._demand = channels.demand
        self._deliveries = channels.deliveries
        self._unstarted = channels.unstarted
        self._outcomes = channels.outcomes
        self._settlements = channels.settlements
        self._leases = channels.leases
        self._credit = 0
        self._stopping = False
        self._stop_asked = trio.Event()
        self._stoppable = trio.CancelScope()
        self._is_polling = False
        # Taken back from the buffer, and not yet reported.
        self._taken_back: deque[Attempt] = deque()
        self._received = self._redelivered = self._returned = 0

    def statistics(self) -> PollerStatistics:
        claimer = self._claimer.statistics()
        return PollerStatistics(
            received=self._received,
            claimed=claimer.claimed,
            taken_over=claimer.taken_over,
            quarantined=claimer.quarantined,
            duplicates=self._redelivered + claimer.duplicates,
            returned_unstarted=self._returned + claimer.given_up,
        )

    def stop(self) -> None:
        """Receive nothing more. Safe to call at any time, and more than once.

        A receive under way is cancelled, unless it would go on at the queue's end
        (`QueueCapabilities.poll_outlives_cancel`): then it is left to its end, and what it brings
        is given back.
        """
        self._stopping = True
        self._stop_asked.set()
        if not (self._is_polling and self._queue.capabilities.poll_outlives_cancel):
            self._stoppable.cancel()

    def cut_short(self) -> None:
        """As `stop`, and wait for no receive any longer."""
        self.stop()
        self._stoppable.cancel()

    async def run(self) -> None:
        with (
            self._demand,
            self._deliveries,
            self._unstarted,
            self._outcomes,
            self._settlements,
            self._leases,
        ):
            while not self._stopping:
                leases = await self._acquire(await self._receive())
                if not leases:
                    continue
                if self._stopping:
                    # Not claimed yet: the store need not even know that they were here.
                    self._returned += len(leases)
                    await self._release(leases)
                    break
                await self._hand_on(await self._claim(leases))
            await self._take_back()

    # --- receiving --------------------------------------------------------------------------

    async def _receive(self) -> list[Delivery]:
        """Wait for demand, then for messages. Empty when there are none, or on `stop`."""
        deliveries: list[Delivery] = []
        self._stoppable = trio.CancelScope()
        with self._stoppable:
            if not self._stopping:  # stop() may come between two scopes
                await self._retry.call(lambda: self._poll(deliveries))
        self._received += len(deliveries)
        return deliveries

    async def _poll(self, deliveries: list[Delivery]) -> None:
        """Adds what was received, also when it is cancelled just then."""
        await self._gather_demand()

        async def poll() -> None:
            deliveries.extend(
                await self._queue.receive(
                    min(self._credit, self._queue.max_batch),
                    wait=self._poll_wait,
                    visibility=self._visibility,
                )
            )

        if not self._queue.capabilities.poll_outlives_cancel:
            await poll()
            return
        trouble: BackendUnavailable | None = None
        self._is_polling = True
        try:
            async with trio.open_nursery() as beside:
                beside.start_soon(self._take_back_at_once)
                try:
                    await poll()
                except BackendUnavailable as error:
                    trouble = error
                beside.cancel_scope.cancel()
        finally:
            self._is_polling = False
        if trouble is not None and not self._stopping:
            raise trouble

    async def _gather_demand(self) -> None:
        if not self._credit:
            self._credit = await self._demand.receive()
        try:
            while True:
                self._credit += self._demand.receive_nowait()
        except trio.WouldBlock:  # not `suppress`, since this runs for every batch
            return

    async def _take_back_at_once(self) -> None:
        """A stop that waits for the end of a poll gives back meanwhile what has not started."""
        await self._stop_asked.wait()
        logger.info(
            "waiting for the open long poll to end (at most %g s; a second signal cuts it short): "
            "messages that come in on it are given back",
            self._poll_wait,
        )
        await self._take_back()

    async def _acquire(self, deliveries: Sequence[Delivery]) -> tuple[Lease, ...]:
        """Have leases kept of what was received; returns those to go on with."""
        if not deliveries:
            return ()
        expires_at = trio.current_time() + self._visibility
        leases = tuple(Lease(delivery, expires_at) for delivery in deliveries)
        event = Acquired(leases)
        try:
            await self._leases.send(event)
            # Nearly all come for the first time. They are no attempt's that runs here, so the
            # answer is known.
            if any(delivery.receive_count > 1 for delivery in deliveries):
                leases = await event.reply.get()
        except trio.BrokenResourceError:
            # Without a lease keeper the engine ends.
            self._stopping = True
        self._redelivered += len(deliveries) - len(leases)
        self._credit -= len(leases)
        return leases

    # --- handing on -------------------------------------------------------------------------

    async def _claim(self, leases: Sequence[Lease]) -> Claimed:
        try:
            claimed = await self._claimer.claim(leases, is_stopping=lambda: self._stopping)
        except Exception:
            # A defect ends the engine. What is not known to have started goes back before.
            await self._release(leases)
            raise
        self._credit += len(claimed.postponed) + len(claimed.settlements)
        return claimed

    async def _hand_on(self, claimed: Claimed) -> None:
        for outcome in claimed.postponed:
            await self._outcomes.send(outcome)
        if claimed.settlements:
            await self._settlements.send(claimed.settlements)
        for index, attempt in enumerate(claimed.attempts):
            if self._stopping or not await self._hand_on_one(attempt):
                self._taken_back.extend(claimed.attempts[index:])
                await self._report_taken_back()
                return

    async def _hand_on_one(self, attempt: Attempt) -> bool:
        """False when `stop` came before a worker took it."""
        with suppress(trio.WouldBlock):
            self._deliveries.send_nowait(attempt)
            return True
        self._stoppable = trio.CancelScope()
        with self._stoppable:
            await self._deliveries.send(attempt)
            return True
        return False

    # --- giving back ------------------------------------------------------------------------

    async def _release(self, leases: Sequence[Lease]) -> None:
        await self._settlements.send(tuple(Release(lease) for lease in leases))

    async def _take_back(self) -> None:
        """What lies in the buffer was claimed but not started: give it back at once, instead of
        letting it wait for a worker to come free."""
        with suppress(trio.WouldBlock):
            while True:
                self._taken_back.append(self._unstarted.receive_nowait())
        await self._report_taken_back()

    async def _report_taken_back(self) -> None:
        while self._taken_back:
            await self._outcomes.send(Interrupted(self._taken_back[0]))
            self._taken_back.popleft()
            self._returned += 1

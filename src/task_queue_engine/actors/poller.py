"""The head of the line: receives as much as there is room for, and has it leased."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.messages import (
    Acquired,
    ClaimEvent,
    Lease,
    Leased,
    LeaseEvent,
    Release,
    Settlement,
)
from task_queue_engine.backends.base import Delivery, TaskQueue
from task_queue_engine.errors import BackendUnavailable

logger = logging.getLogger("task_queue_engine.poller")


@dataclass(frozen=True, slots=True)
class PollerStatistics:
    received: int
    duplicates: int
    """Messages that came again while they were held here."""
    returned: int
    """Received after the stop, and given back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollerChannels:
    """The ends that the poller holds, and closes when it ends."""

    room: trio.MemoryReceiveChannel[int]
    claim_events: trio.MemorySendChannel[ClaimEvent]
    settlements: trio.MemorySendChannel[tuple[Settlement, ...]]
    leases: trio.MemorySendChannel[LeaseEvent]


class Poller:
    """Receives a batch, has its leases kept, hands it to the claimer.

    It asks the queue for no more than the claimer has said on `room` that there are places for:
    free workers and the prefetch. `stop` ends it from the top: a receive under way is cancelled.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        visibility: float,
        poll_wait: float,
        retry: BackendRetry,
        channels: PollerChannels,
    ) -> None:
        self._queue = queue
        self._visibility = visibility
        self._poll_wait = poll_wait
        self._retry = retry
        self._channels = channels
        self._room = 0
        self._stopping = False
        self._stoppable = trio.CancelScope()
        self._is_polling = False
        self._received = self._duplicates = self._returned = 0

    def statistics(self) -> PollerStatistics:
        return PollerStatistics(
            received=self._received, duplicates=self._duplicates, returned=self._returned
        )

    def stop(self) -> None:
        """Receive nothing more. Safe to call at any time, and more than once.

        A receive under way is cancelled, unless it would go on at the queue's end
        (`QueueCapabilities.poll_outlives_cancel`): then it is left to its end, and what it brings
        is given back.
        """
        is_first = not self._stopping
        self._stopping = True
        if not (self._is_polling and self._queue.capabilities.poll_outlives_cancel):
            self._stoppable.cancel()
        elif is_first:
            logger.info(
                "waiting for the open long poll to end (at most %g s; a second signal cuts it "
                "short): messages that come in on it are given back",
                self._poll_wait,
            )

    def cut_short(self) -> None:
        """As `stop`, and wait for no receive any longer."""
        self.stop()
        self._stoppable.cancel()

    async def run(self) -> None:
        channels = self._channels
        with channels.room, channels.claim_events, channels.settlements, channels.leases:
            while not self._stopping:
                leases = await self._acquire(await self._receive())
                if leases and not self._hand_over(leases):
                    self._returned += len(leases)
                    await channels.settlements.send(tuple(map(Release, leases)))

    async def _receive(self) -> list[Delivery]:
        """Wait for room, then for messages. Empty when there are none, or on `stop`."""
        deliveries: list[Delivery] = []
        self._stoppable = trio.CancelScope()
        # After a stop, a poll that was left to its end may fail: it is not made again.
        with self._stoppable, suppress(BackendUnavailable):
            if not self._stopping:  # stop() may come between two scopes
                await self._retry.call(
                    lambda: self._poll(deliveries), give_up=lambda: self._stopping
                )
        self._received += len(deliveries)
        return deliveries

    async def _poll(self, deliveries: list[Delivery]) -> None:
        """Adds what was received, also when it is cancelled just then."""
        if not await self._gather_room():
            return
        self._is_polling = True
        try:
            deliveries += await self._queue.receive(
                min(self._room, self._queue.max_batch),
                wait=self._poll_wait,
                visibility=self._visibility,
            )
        finally:
            self._is_polling = False

    async def _gather_room(self) -> bool:
        """False: the claimer has ended, and so does the engine."""
        try:
            if not self._room:
                self._room = await self._channels.room.receive()
            while True:
                self._room += self._channels.room.receive_nowait()
        except trio.WouldBlock:
            return True
        except trio.EndOfChannel:
            self._stopping = True
            return False

    async def _acquire(self, deliveries: Sequence[Delivery]) -> tuple[Lease, ...]:
        """Have leases kept of what was received; returns those to go on with."""
        if not deliveries:
            return ()
        expires_at = trio.current_time() + self._visibility
        leases = tuple(Lease(delivery, expires_at) for delivery in deliveries)
        event = Acquired(leases)
        try:
            await self._channels.leases.send(event)
            # Nearly all come for the first time. They are not held here, so the answer is known.
            if any(delivery.receive_count > 1 for delivery in deliveries):
                leases = await event.reply.get()
        except trio.BrokenResourceError:
            # Without a lease keeper the engine ends.
            self._stopping = True
        self._duplicates += len(deliveries) - len(leases)
        self._room -= len(leases)
        return leases

    def _hand_over(self, leases: tuple[Lease, ...]) -> bool:
        """False: they are to be given back. The store need not even know that they were here."""
        if self._stopping:
            return False
        try:
            self._channels.claim_events.send_nowait(Leased(leases))
        except trio.BrokenResourceError:  # the claimer has ended, and so does the engine
            self._stopping = True
            return False
        return True

"""The head of the line: receives as much as there is room for, and has it leased."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio
from msgspec import structs

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.messages import (
    Acquired,
    Attempt,
    ClaimEvent,
    Interrupted,
    Lease,
    Leased,
    LeaseEvent,
    Outcome,
    Release,
    Room,
    Settlement,
)
from task_queue_engine.backends.base import Steps, Taken, TakePlan, TaskQueue
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

    room: trio.MemoryReceiveChannel[Room]
    claim_events: trio.MemorySendChannel[ClaimEvent]
    outcomes: trio.MemorySendChannel[Outcome]
    settlements: trio.MemorySendChannel[tuple[Settlement, ...]]
    leases: trio.MemorySendChannel[LeaseEvent]


class Poller:
    """Takes a batch, has its leases kept, hands it to the claimer.

    It takes no more than the claimer has said on `room` that there are places for: free workers,
    and what may wait. `stop` ends it from the top: a receive under way is cancelled.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        steps: Steps,
        visibility: float,
        poll_wait: float,
        retry: BackendRetry,
        channels: PollerChannels,
    ) -> None:
        self._queue = queue
        self._steps = steps
        self._visibility = visibility
        self._poll_wait = poll_wait
        self._retry = retry
        self._channels = channels
        self._room: Room | None = None
        self._handed_over = 0
        # Of what the claimer may not have seen yet: its number, and where its handler is to run.
        self._takes_place: deque[tuple[int, Hashable]] = deque()
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
        ends = self._channels
        with ends.room, ends.claim_events, ends.outcomes, ends.settlements, ends.leases:
            while not self._stopping:
                leased = await self._acquire(await self._take())
                if leased.leases and not self._hand_over(leased):
                    await self._give_back(leased.leases)

    async def _take(self) -> list[Taken]:
        """Wait for room, then for messages. Empty when there are none, or on `stop`."""
        taken: list[Taken] = []
        self._stoppable = trio.CancelScope()
        # After a stop, a poll that was left to its end may fail: it is not made again.
        with self._stoppable, suppress(BackendUnavailable):
            if not self._stopping:  # stop() may come between two scopes
                await self._retry.call(lambda: self._poll(taken), give_up=lambda: self._stopping)
        self._received += len(taken)
        return taken

    async def _poll(self, taken: list[Taken]) -> None:
        """Adds what was taken, also when it is cancelled just then."""
        plan = await self._next_plan()
        if plan is None:
            return
        self._is_polling, room = True, self._room
        try:
            if plan.without_place and self._steps.is_one_transaction:
                await self._take_what_has_place(plan, taken)
            else:
                await self._take_into(taken, plan)
            if not taken and not plan.free and self._room is room:
                # What is there has no place before a worker is free, or nothing is there.
                self._room = None
        finally:
            self._is_polling = False

    async def _take_into(self, taken: list[Taken], plan: TakePlan) -> None:
        taken += await self._steps.take(plan, wait=self._poll_wait, visibility=self._visibility)

    async def _take_what_has_place(self, plan: TakePlan, taken: list[Taken]) -> None:
        """Until there is a place for what such a take passes."""
        trouble: BackendUnavailable | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_more_places, plan, nursery.cancel_scope)
            try:
                await self._take_into(taken, plan)
            except BackendUnavailable as error:
                trouble = error
            nursery.cancel_scope.cancel()
        if trouble is not None:
            raise trouble

    async def _until_more_places(self, plan: TakePlan, take: trio.CancelScope) -> None:
        with suppress(trio.EndOfChannel):  # which is seen by who asks next
            while plan.without_place <= self._room_of(await self._channels.room.receive()):
                pass
            take.cancel()

    def _room_of(self, room: Room) -> frozenset[str]:
        """Note it; returns the types that have no place in it."""
        self._room = room
        return room.plan.without_place

    async def _next_plan(self) -> TakePlan | None:
        """Wait until there is room. None: the claimer has ended, and so does the engine."""
        try:
            while True:
                with suppress(trio.WouldBlock):
                    while True:
                        self._room = self._channels.room.receive_nowait()
                plan = self._left()
                if plan is not None:
                    return plan
                self._room = await self._channels.room.receive()
        except trio.EndOfChannel:
            self._stopping = True
            return None

    def _left(self) -> TakePlan | None:
        """What is left of the room; None where that is nothing."""
        if self._room is None:
            return None
        plan, taken = self._room.plan, self._handed_over - self._room.seen
        if not taken:
            self._takes_place.clear()
            return plan if plan.most else None
        free = max(0, plan.free - taken)
        ahead = max(0, plan.ahead - max(0, taken - plan.free))
        if not free + ahead:
            return None
        while self._takes_place and self._takes_place[0][0] < self._room.seen:
            self._takes_place.popleft()
        places = dict(plan.places)
        for _, where in self._takes_place:
            places[where] -= 1
        return structs.replace(plan, free=free, ahead=ahead, places=places)

    async def _acquire(self, taken: Sequence[Taken]) -> Leased:
        """Have leases kept of what was taken; returns those to go on with."""
        if not taken:
            return Leased(())
        expires_at = trio.current_time() + self._visibility
        leases = tuple(
            Lease(one.delivery, expires_at, started=one.started, claimed_ahead=one.ahead)
            for one in taken
        )
        event = Acquired(leases)
        try:
            try:
                self._channels.leases.send_nowait(event)
            except trio.WouldBlock:
                await self._channels.leases.send(event)
            # What comes for the first time is not held here: the answer is known. What was claimed
            # with its receive may have been cancelled before this, for the claimer to wait for:
            # the keeper has its turn meanwhile.
            if any(one.delivery.receive_count > 1 for one in taken):
                leases = await event.reply.get()
            elif any(one.started is not None for one in taken):
                return Leased(leases, noted=event.reply)
        except trio.BrokenResourceError:
            # Without a lease keeper the engine ends.
            self._stopping = True
        self._duplicates += len(taken) - len(leases)
        return Leased(leases)

    def _hand_over(self, leased: Leased) -> bool:
        """False: they are to be given back."""
        if self._stopping:
            return False
        try:
            self._channels.claim_events.send_nowait(leased)
        except trio.BrokenResourceError:  # the claimer has ended, and so does the engine
            self._stopping = True
            return False
        if self._room is not None:
            types, places = self._room.plan.types, self._room.plan.places
            for number, lease in enumerate(leased.leases, self._handed_over):
                where = types.get(lease.delivery.task_type)
                if where in places:
                    self._takes_place.append((number, where))
        self._handed_over += len(leased.leases)
        return True

    async def _give_back(self, leases: Sequence[Lease]) -> None:
        """Of what was only leased the store need not even know that it was here."""
        self._returned += len(leases)
        released: list[Settlement] = []
        for lease in leases:
            if lease.started is None:
                released.append(Release(lease))
            else:
                lease.attempt = Attempt(lease.started.task, lease)
                await self._channels.outcomes.send(Interrupted(lease.attempt))
        if released:
            await self._channels.settlements.send(tuple(released))

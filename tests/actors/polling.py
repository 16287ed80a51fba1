"""A poller with its claimer, and what stands around them: the far ends of its channels, and a lease
keeper that does as it is told."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from task_queue_engine.actors.claimer import Claimer
from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.messages import (
    Acquired,
    Attempt,
    AttemptKey,
    HeldAsked,
    Lease,
    LeaseEvent,
    Outcome,
    Settlement,
)
from task_queue_engine.actors.poller import Poller, PollerChannels
from task_queue_engine.backends.memory import MemoryBackend
from tests.actors.support import LEASE, retry


@dataclass
class Rig:
    poller: Poller
    demand: trio.MemorySendChannel[int]
    deliveries: trio.MemoryReceiveChannel[Attempt]
    outcomes: trio.MemoryReceiveChannel[Outcome]
    settlements: trio.MemoryReceiveChannel[tuple[Settlement, ...]]
    lease_events: trio.MemoryReceiveChannel[LeaseEvent]
    """Answered already, where the keeper runs."""
    health: ActorHealth
    done: trio.Event = field(default_factory=trio.Event)
    held: set[AttemptKey] = field(default_factory=set)
    """What the keeper says is held."""
    adopting: set[str] = field(default_factory=set)
    """Messages that the keeper says belong to an attempt that runs here."""
    asked: list[HeldAsked] = field(default_factory=list)

    async def settlement(self) -> Settlement:
        (settlement,) = await self.settlements.receive()
        return settlement

    async def lease(self) -> Lease:
        """The next one that the keeper is given."""
        event = await self.lease_events.receive()
        assert isinstance(event, Acquired)
        return event.leases[0]

    async def run(self) -> None:
        await self.poller.run()
        self.done.set()

    async def keep(
        self,
        events: trio.MemoryReceiveChannel[LeaseEvent],
        seen: trio.MemorySendChannel[LeaseEvent],
    ) -> None:
        with events, seen:
            async for event in events:
                match event:
                    case Acquired(leases, reply):
                        reply.give(
                            tuple(
                                lease
                                for lease in leases
                                if lease.delivery.message_id not in self.adopting
                            )
                        )
                    case HeldAsked(attempts, asked_reply):
                        self.asked.append(event)
                        asked_reply.give(attempts & self.held)
                seen.send_nowait(event)


@asynccontextmanager
async def polling(
    backend: MemoryBackend,
    *,
    demand: int = 1,
    prefetch: int = 0,
    keeper: bool = True,
    room_for_events: float = math.inf,
) -> AsyncIterator[Rig]:
    """`keeper=False`: its place is the test's, at the other end of `lease_events`."""
    demand_out, demand_in = trio.open_memory_channel[int](math.inf)
    deliveries_out, deliveries_in = trio.open_memory_channel[Attempt](prefetch)
    outcomes_out, outcomes_in = trio.open_memory_channel[Outcome](100)
    settlements_out, settlements_in = trio.open_memory_channel[tuple[Settlement, ...]](100)
    leases_out, leases_in = trio.open_memory_channel[LeaseEvent](room_for_events)
    seen_out, seen_in = trio.open_memory_channel[LeaseEvent](math.inf)
    health = ActorHealth()
    queue = backend.queue("default")
    poller = Poller(
        queue=queue,
        claimer=Claimer(
            queue=queue,
            store=backend.store,
            clock=backend.clock,
            worker_name="here",
            visibility=LEASE,
            retry=retry("poller", health),
            leases=leases_out,
        ),
        visibility=LEASE,
        poll_wait=20,
        retry=retry("poller", health),
        channels=PollerChannels(
            demand=demand_in,
            deliveries=deliveries_out,
            unstarted=deliveries_in.clone(),
            outcomes=outcomes_out,
            settlements=settlements_out,
            leases=leases_out,
        ),
    )
    for _ in range(demand):
        demand_out.send_nowait(1)
    rig = Rig(
        poller=poller,
        demand=demand_out,
        deliveries=deliveries_in,
        outcomes=outcomes_in,
        settlements=settlements_in,
        lease_events=seen_in if keeper else leases_in,
        health=health,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.run)
        if keeper:
            nursery.start_soon(rig.keep, leases_in, seen_out)
        yield rig
        nursery.cancel_scope.cancel()

"""A poller and a claimer, and what stands around them: the far ends of their channels, and a lease
keeper that does as it is told."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from task_queue_engine import TaskRegistry
from task_queue_engine.actors.claimer import Claimer
from task_queue_engine.actors.claimer_ends import ClaimerChannels
from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.messages import (
    Acquired,
    Attempt,
    ClaimEvent,
    Lease,
    LeaseEvent,
    Outcome,
    Recording,
    Room,
    Settlement,
    WorkerFree,
)
from task_queue_engine.actors.pace import Pace
from task_queue_engine.actors.poller import Poller, PollerChannels
from task_queue_engine.actors.type_check import TypeCheck
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.execution.checks import PayloadChecks
from task_queue_engine.registry import RunsIn
from tests.actors.support import LEASE, retry


@dataclass
class Rig:
    poller: Poller
    claimer: Claimer
    demand: trio.MemorySendChannel[ClaimEvent]
    deliveries: trio.MemoryReceiveChannel[Attempt]
    outcomes: trio.MemoryReceiveChannel[Outcome]
    settlements: trio.MemoryReceiveChannel[tuple[Settlement, ...]]
    lease_events: trio.MemoryReceiveChannel[LeaseEvent]
    """Answered already, where the keeper runs."""
    health: ActorHealth
    wishes: trio.MemoryReceiveChannel[None]
    """For worker processes."""
    done: trio.Event = field(default_factory=trio.Event)
    adopting: set[str] = field(default_factory=set)
    """Messages that the keeper says belong to an attempt that runs here."""

    async def settlement(self) -> Settlement:
        (settlement,) = await self.settlements.receive()
        return settlement

    async def lease(self) -> Lease:
        """The next one that the keeper is given."""
        event = await self.lease_events.receive()
        assert isinstance(event, Acquired)
        return event.leases[0]

    def free(self, workers: int = 1, *, after: str | None = None, seconds: float = 0.0) -> None:
        """So many workers say that they are."""
        for _ in range(workers):
            self.demand.send_nowait(WorkerFree(after, seconds))

    def recording(self, *, works: bool) -> None:
        """What the status writer says of the store."""
        self.demand.send_nowait(Recording(works))

    def stop(self) -> None:
        """What the line does."""
        self.poller.stop()
        self.claimer.stop()

    async def run(self) -> None:
        async with trio.open_nursery() as line:
            line.start_soon(self.poller.run)
            line.start_soon(self.claimer.run)
        self.done.set()

    async def keep(
        self,
        events: trio.MemoryReceiveChannel[LeaseEvent],
        seen: trio.MemorySendChannel[LeaseEvent],
    ) -> None:
        with events, seen:
            async for event in events:
                if isinstance(event, Acquired):
                    event.reply.give(
                        tuple(
                            lease
                            for lease in event.leases
                            if lease.delivery.message_id not in self.adopting
                        )
                    )
                seen.send_nowait(event)


def known(*names: str) -> TaskRegistry:
    """A registry of types that take anything."""
    registry = TaskRegistry()
    for name in names:

        @registry.task(name)
        async def handler(payload: Any) -> None: ...

    return registry


@asynccontextmanager
async def polling(
    backend: MemoryBackend,
    *,
    demand: int = 1,
    prefetch: int | None = 0,
    workers: int | None = None,
    keeper: bool = True,
    room_for_events: float = math.inf,
    registry: TaskRegistry | None = None,
    places: Mapping[RunsIn, int] | None = None,
    ready_processes: Callable[[int], int] = lambda promised: 1000,
) -> AsyncIterator[Rig]:
    """`keeper=False`: its place is the test's, at the other end of `lease_events`. `workers`: how
    many there are; as many as are free at the beginning where None."""
    demand_out, demand_in = trio.open_memory_channel[ClaimEvent](math.inf)
    room_out, room_in = trio.open_memory_channel[Room](math.inf)
    deliveries_out, deliveries_in = trio.open_memory_channel[Attempt](math.inf)
    outcomes_out, outcomes_in = trio.open_memory_channel[Outcome](100)
    settlements_out, settlements_in = trio.open_memory_channel[tuple[Settlement, ...]](100)
    wishes_out, wishes_in = trio.open_memory_channel[None](math.inf)
    leases_out, leases_in = trio.open_memory_channel[LeaseEvent](room_for_events)
    seen_out, seen_in = trio.open_memory_channel[LeaseEvent](math.inf)
    health = ActorHealth()
    queue = backend.queue("default")
    poller = Poller(
        queue=queue,
        steps=backend.steps("default"),
        visibility=LEASE,
        poll_wait=20,
        retry=retry("poller", health),
        channels=PollerChannels(
            room=room_in,
            claim_events=demand_out.clone(),
            outcomes=outcomes_out.clone(),
            settlements=settlements_out.clone(),
            leases=leases_out,
        ),
    )
    claimer = Claimer(
        queue=queue,
        store=backend.store,
        clock=backend.clock,
        worker_name="here",
        visibility=LEASE,
        retry=retry("claimer", health),
        type_check=TypeCheck(
            registry=registry or known("t"),
            checks=PayloadChecks(),
            clock=backend.clock,
            rng=random.Random(1),
            fail_after=86_400,
        ),
        pace=Pace(workers=demand if workers is None else workers, fixed=prefetch),
        places=places or {},
        ready_processes=ready_processes,
        channels=ClaimerChannels(
            claim_events=demand_in,
            room=room_out,
            deliveries=deliveries_out,
            handed_over=deliveries_in.clone(),
            outcomes=outcomes_out,
            settlements=settlements_out,
            wishes=wishes_out,
        ),
    )
    rig = Rig(
        poller=poller,
        claimer=claimer,
        demand=demand_out,
        deliveries=deliveries_in,
        outcomes=outcomes_in,
        settlements=settlements_in,
        wishes=wishes_in,
        lease_events=seen_in if keeper else leases_in,
        health=health,
    )
    rig.free(demand)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.run)
        if keeper:
            nursery.start_soon(rig.keep, leases_in, seen_out)
        yield rig
        nursery.cancel_scope.cancel()

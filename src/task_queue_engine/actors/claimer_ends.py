"""What the claimer holds, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from task_queue_engine.actors.messages import (
    Attempt,
    ClaimEvent,
    Outcome,
    Room,
    Settlement,
)


@dataclass(frozen=True, slots=True)
class ClaimerStatistics:
    claimed: int
    taken_over: int
    quarantined: int
    duplicates: int
    waiting: int
    """Received, and not claimed yet."""
    ahead: int
    """Claimed before a worker was free, and not started yet."""
    all_busy_for: float
    """Seconds for which no worker has waited for work."""
    returned: int
    """Given back unstarted: at the stop, or since the store did not answer in time."""
    given_back_by_type: dict[str, int]
    """Given back since this worker cannot run them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimerChannels:
    """The ends that the claimer holds, and closes when it ends."""

    claim_events: trio.MemoryReceiveChannel[ClaimEvent]
    room: trio.MemorySendChannel[Room]
    deliveries: trio.MemorySendChannel[Attempt]
    """With a place for every worker and for all that is claimed ahead, so that handing over never
    waits."""
    handed_over: trio.MemoryReceiveChannel[Attempt]
    """Its other end: what was claimed ahead is taken back by it."""
    outcomes: trio.MemorySendChannel[Outcome]
    wishes: trio.MemorySendChannel[None]
    """For a worker process each."""
    settlements: trio.MemorySendChannel[tuple[Settlement, ...]]

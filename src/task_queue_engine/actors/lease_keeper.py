"""Keeps the leases of everything between receive and ack; stops attempts that must not go on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import trio

from task_queue_engine.actors.health import Health
from task_queue_engine.actors.messages import (
    AbortReason,
    Acquired,
    CancelAsked,
    Lease,
    LeaseEvent,
    Settled,
)
from task_queue_engine.backends.base import (
    Done,
    LeaseLost,
    QueueVerdict,
    Rejected,
    TaskQueue,
    TaskStore,
    TryAgain,
)
from task_queue_engine.errors import BackendUnavailable

logger = logging.getLogger("task_queue_engine.lease_keeper")

# A lease is renewed when two thirds of it are left: two more tries fit in before it ends.
_RENEW_BELOW = 2 / 3
_LOOK_EVERY = 1 / 6
# Given up for lost this much before its end, so that a handler has stopped by the time somebody
# else can have the message.
_SAFETY = 1 / 15


@dataclass(frozen=True, slots=True)
class LeaseKeeperStatistics:
    held: int
    renewed: int
    lost: int
    cancels_seen: int


class LeaseKeeper:
    """Owns the table of leases in hand.

    A lease that the queue says is gone, or that could not be renewed before it ran out, is lost:
    the attempt under it is stopped. So is an attempt whose task somebody asked to cancel, in this
    process (told on `events`) or in another (found in the store).
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        store: TaskStore,
        visibility: float,
        cancel_poll: float,
        health: Health,
        events: trio.MemoryReceiveChannel[LeaseEvent],
    ) -> None:
        self._queue = queue
        self._store = store
        self._visibility = visibility
        self._cancel_poll = cancel_poll
        self._health = health
        self._events = events
        # By identity: a duplicate delivery may come with the very same receipt.
        self._held: dict[Lease, None] = {}
        self._renewed = self._lost = self._cancels_seen = 0

    def statistics(self) -> LeaseKeeperStatistics:
        return LeaseKeeperStatistics(
            held=len(self._held),
            renewed=self._renewed,
            lost=self._lost,
            cancels_seen=self._cancels_seen,
        )

    def holds(self, task_id: str, attempt: int) -> bool:
        """Whether this attempt is in hand here."""
        return any(
            lease.attempt is not None
            and (lease.attempt.task.id, lease.attempt.task.attempt) == (task_id, attempt)
            for lease in self._held
        )

    async def run(self) -> None:
        """Until `events` ends. Listening never waits for the queue: renewing has its own task."""
        with self._events:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_renewing)
                nursery.start_soon(self._keep_expiring)
                nursery.start_soon(self._keep_asking_for_cancels)
                async for event in self._events:
                    self._note(event)
                nursery.cancel_scope.cancel()

    def _note(self, event: LeaseEvent) -> None:
        match event:
            case Acquired(leases):
                for lease in leases:
                    self._held[lease] = None
            case Settled(leases):
                for lease in leases:
                    self._held.pop(lease, None)
            case CancelAsked(task_id):
                for lease in self._held:
                    if lease.delivery.task_id == task_id:
                        lease.cancel_asked = True
                        if lease.attempt is not None:
                            lease.attempt.abort(AbortReason.CANCELLED)
            case _:
                assert_never(event)

    async def _keep_renewing(self) -> None:
        while True:
            await trio.sleep(self._visibility * _LOOK_EVERY)
            soon = trio.current_time() + self._visibility * _RENEW_BELOW
            waning = [lease for lease in self._held if lease.expires_at < soon and not lease.lost]
            if not waning:
                self._health.well("lease_keeper")
            size = self._queue.max_batch
            for i in range(0, len(waning), size):
                await self._renew(waning[i : i + size])

    async def _renew(self, leases: Sequence[Lease]) -> None:
        asked_at = trio.current_time()
        try:
            # Bounded, so that one hanging call does not let every other lease run out.
            with trio.fail_after(self._visibility * _LOOK_EVERY):
                verdicts = await self._queue.extend(
                    [lease.delivery for lease in leases], visibility=self._visibility
                )
        except BackendUnavailable as error:
            self._health.trouble("lease_keeper", error)
            return
        except trio.TooSlowError:
            self._health.trouble(
                "lease_keeper", BackendUnavailable("renewing leases takes too long")
            )
            return
        self._health.well("lease_keeper")
        for lease, verdict in zip(leases, verdicts, strict=True):
            self._apply(lease, verdict, asked_at)

    def _apply(self, lease: Lease, verdict: QueueVerdict, asked_at: float) -> None:
        match verdict:
            case Done():
                self._renewed += 1
                lease.expires_at = asked_at + self._visibility
            case LeaseLost() | Rejected():
                # Where the acker has just deleted it, its receipt is stale for a good reason.
                if lease in self._held and not (lease.settling or lease.lost):
                    self._lose(lease, "the queue says it is gone")
            case TryAgain():
                pass
            case _:
                assert_never(verdict)

    async def _keep_expiring(self) -> None:
        while True:
            await trio.sleep(self._visibility * _SAFETY / 2)
            latest = trio.current_time() + self._visibility * _SAFETY
            for lease in self._held:
                if lease.expires_at <= latest and not lease.lost:
                    self._lose(lease, "it could not be renewed in time")

    def _lose(self, lease: Lease, why: str) -> None:
        self._lost += 1
        logger.warning("lost the lease of task %s: %s", lease.delivery.task_id, why)
        lease.lose()

    async def _keep_asking_for_cancels(self) -> None:
        seen: set[str] = set()
        while True:
            await trio.sleep(self._cancel_poll)
            running = {
                lease.attempt.task.id: lease.attempt
                for lease in self._held
                if lease.attempt is not None and lease.attempt.abort_reason is None
            }
            # One that just arrived was claimed a moment ago: whoever is short-lived is never asked
            # about, which keeps this free for a queue of quick tasks.
            settled_in = [task_id for task_id in running if task_id in seen]
            seen = set(running)
            size = self._store.max_batch
            for i in range(0, len(settled_in), size):
                ids = settled_in[i : i + size]
                try:
                    asked = await self._store.cancel_requested(ids)
                except BackendUnavailable as error:
                    self._health.trouble("cancel_watch", error)
                    break
                for task_id, cancel in zip(ids, asked, strict=True):
                    if cancel:
                        self._cancels_seen += 1
                        running[task_id].abort(AbortReason.CANCELLED)
            else:
                self._health.well("cancel_watch")

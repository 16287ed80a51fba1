"""Keeps the leases of everything between receive and ack; stops attempts that must not go on."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

import trio

from task_queue_engine.actors.batching import in_batches
from task_queue_engine.actors.health import ActorHealth
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

# Shares of the visibility timeout. A lease is renewed when two thirds of it are left and looked at
# six times: two more tries fit in before it ends.
RENEW_BELOW = 2 / 3
_RENEW_INTERVAL = 1 / 6
# Given up for lost this much before its end, so that a handler has stopped by the time another
# worker can have the message.
_EXPIRY_MARGIN = 1 / 15
# Cancels of attempts that are not held here, kept for as long as a lease: far more than can come in
# while one receive is answered.
_CANCELS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class LeaseKeeperStatistics:
    held: int
    renewed: int
    lost: int
    cancels_seen: int


class LeaseKeeper:
    """Owns the table of leases, and of each lease all that the queue or a cancel can change.

    A lease that the queue says is gone, or that could not be renewed before it ran out, is lost:
    the attempt under it is stopped. So is an attempt whose task was cancelled, in this process
    (told on `events`) or in another (found in the store; at once where it can be heard).

    Other actors reach it by events alone. It takes them in the order in which they came, so that
    an answer takes in all that was sent before the question.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        store: TaskStore,
        visibility: float,
        cancel_poll: float,
        health: ActorHealth,
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
        self._holds = trio.Event()
        self._heard_cancels: set[str] = set()
        self._heard = trio.Event()
        # Attempt, and how long to remember it, by task. None: the store knows.
        self._cancels_to_come: dict[str, tuple[int | None, float]] = {}
        self._renewed = self._lost = self._cancels_seen = 0

    def hear_of_cancels(self, task_ids: Collection[str] | None) -> None:
        """Another process says that it has asked for these cancels. The store is asked whether that
        is so, at once; of what is claimed with its receive, as soon as that is answered. None: for
        some. What is not held yet is then found as if nothing had been heard."""
        held = {lease.delivery.task_id for lease in self._held}
        if task_ids is None:
            self._look_for_cancels(held)
            return
        self._look_for_cancels(held.intersection(task_ids))
        for task_id in task_ids:
            if task_id not in held:
                self._remember_cancel(task_id, None)

    def _look_for_cancels(self, task_ids: Collection[str]) -> None:
        if task_ids:
            self._heard_cancels.update(task_ids)
            self._heard.set()

    def statistics(self) -> LeaseKeeperStatistics:
        return LeaseKeeperStatistics(
            held=len(self._held),
            renewed=self._renewed,
            lost=self._lost,
            cancels_seen=self._cancels_seen,
        )

    async def run(self) -> None:
        """Until `events` ends. Listening never waits for the queue: renewing has its own task."""
        with self._events:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_renewing)
                    nursery.start_soon(self._keep_expiring)
                    nursery.start_soon(self._keep_asking_for_cancels)
                    async for event in self._events:
                        try:
                            self._note(event)
                        except BaseException:  # whatever ends this, the sender waits for it
                            _refuse(event)
                            raise
                    nursery.cancel_scope.cancel()
            finally:
                self._refuse_unanswered()

    def _refuse_unanswered(self) -> None:
        """A defect ends this actor, and the rest of the line still has to run dry: no sender may
        wait for an answer that never comes."""
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                _refuse(self._events.receive_nowait())

    def _note(self, event: LeaseEvent) -> None:
        match event:
            case Acquired(leases, reply):
                reply.give(tuple(lease for lease in leases if self._take(lease)))
            case Settled(leases):
                for lease in leases:
                    self._held.pop(lease, None)
            case CancelAsked(task_id, attempt, asked):
                is_held = False
                for lease in self._held:
                    if lease.delivery.task_id == task_id:
                        is_held = True
                        self._cancel(lease)
                if not is_held:
                    self._remember_cancel(task_id, attempt)
                asked.give(None)
            case _:
                assert_never(event)

    def _take(self, lease: Lease) -> bool:
        """False: it brought a message again that is held right here, as if its lease had lapsed.
        The machine's clock jumped ahead or it woke from sleep, where the queue measures leases by
        it. What runs is alive and keeps the message, under the new receipt; what waits for its
        claim must not be claimed twice, since the second would count the first as a crash."""
        new = lease.delivery
        if new.receive_count > 1:  # few are: spare the others the search
            for held in self._held:
                old = held.delivery
                # A duplicate delivery has the same count, and is for the claim to recognise.
                if (
                    old.message_id == new.message_id
                    and old.receive_count < new.receive_count
                    and held.goes_on
                ):
                    held.delivery, held.expires_at = new, lease.expires_at
                    return False
        self._held[lease] = None
        self._holds.set()
        if self._cancels_to_come and lease.started is not None:
            attempt, _ = self._cancels_to_come.pop(new.task_id, (0, 0.0))
            if attempt is None:
                self._look_for_cancels([new.task_id])
            elif attempt == lease.started.task.attempt:
                self._cancel(lease)
        return True

    def _cancel(self, lease: Lease) -> None:
        lease.cancel_asked = True
        if lease.attempt is not None:
            lease.attempt.abort(AbortReason.CANCELLED)

    def _remember_cancel(self, task_id: str, attempt: int | None) -> None:
        """It may have been claimed with its receive, and the answer is under way to the poller."""
        now = trio.current_time()
        while self._cancels_to_come:
            earliest = next(iter(self._cancels_to_come))
            if (
                len(self._cancels_to_come) < _CANCELS_KEPT
                and self._cancels_to_come[earliest][1] > now
            ):
                break
            del self._cancels_to_come[earliest]
        self._cancels_to_come[task_id] = attempt, now + self._visibility

    async def _until_held(self, job: str | None = None) -> None:
        """At once where a lease is held; an engine without work is not woken for its leases.

        Args:
            job: in `/ready`. With nothing held there is nothing that it fails to do.
        """
        if not self._held:
            if job is not None:
                self._health.ok(job)
            if self._holds.is_set():
                self._holds = trio.Event()
            await self._holds.wait()

    async def _keep_renewing(self) -> None:
        while True:
            await self._until_held("lease_keeper")
            await trio.sleep(self._visibility * _RENEW_INTERVAL)
            soon = trio.current_time() + self._visibility * RENEW_BELOW
            due = [lease for lease in self._held if lease.expires_at < soon and not lease.lost]
            if not due:  # what could not be renewed is held no more
                self._health.ok("lease_keeper")
            for batch in in_batches(due, self._queue.max_batch):
                with self._health.attempt("lease_keeper"):
                    await self._renew(batch)

    async def _renew(self, leases: Sequence[Lease]) -> None:
        asked_at = trio.current_time()
        deliveries = [lease.delivery for lease in leases]
        try:
            # Bounded, so that one hanging call does not let every other lease run out.
            with trio.fail_after(self._visibility * _RENEW_INTERVAL):
                verdicts = await self._queue.extend(deliveries, visibility=self._visibility)
        except trio.TooSlowError:
            raise BackendUnavailable("renewing leases takes too long") from None
        for lease, delivery, verdict in zip(leases, deliveries, verdicts, strict=True):
            if lease.delivery is delivery:  # else it has got a new receipt meanwhile
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
            await self._until_held()
            await trio.sleep(self._visibility * _EXPIRY_MARGIN / 2)
            latest = trio.current_time() + self._visibility * _EXPIRY_MARGIN
            for lease in self._held:
                if lease.expires_at <= latest and not lease.lost:
                    self._lose(lease, "it could not be renewed in time")

    def _lose(self, lease: Lease, why: str) -> None:
        self._lost += 1
        lease.lost = True
        logger.warning("lost the lease of task %s: %s", lease.delivery.task_id, why)
        if lease.attempt is not None:
            lease.attempt.abort(AbortReason.LEASE_LOST)

    async def _keep_asking_for_cancels(self) -> None:
        seen: set[str] = set()
        while True:
            await self._until_held("cancel_watch")
            with trio.move_on_after(self._cancel_poll):
                await self._heard.wait()
            heard, self._heard_cancels = self._heard_cancels, set()
            self._heard = trio.Event()
            # By task: a duplicate delivery may be held beside the one that runs.
            going_on: dict[str, list[Lease]] = {}
            for lease in self._held:
                if lease.attempt is None or lease.attempt.abort_reason is None:
                    going_on.setdefault(lease.delivery.task_id, []).append(lease)
            # One that just arrived was claimed a moment ago: short tasks are never asked about,
            # which keeps this free for a queue of them. What was heard may be of an attempt that
            # the store has started, and the answer has not come yet.
            to_ask = [task_id for task_id in going_on if task_id in seen or task_id in heard]
            seen = {
                task_id
                for task_id, leases in going_on.items()
                if any(lease.attempt is not None for lease in leases)
            }
            with self._health.attempt("cancel_watch"):
                for ids in in_batches(to_ask, self._store.max_batch):
                    asked = await self._store.cancel_requested(ids)
                    for task_id, cancel in zip(ids, asked, strict=True):
                        if cancel:
                            self._cancels_seen += 1
                            for lease in going_on[task_id]:
                                self._cancel(lease)


def _refuse(event: LeaseEvent) -> None:
    if isinstance(event, Acquired | CancelAsked):
        event.reply.refuse()

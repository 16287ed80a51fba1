"""Settles messages: deletes, gives back, dead-letters, in batches."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

import trio

from task_queue_engine.actors.backend_retry import Patience
from task_queue_engine.actors.batching import Batcher
from task_queue_engine.actors.messages import (
    Ack,
    DeadLetterIt,
    Lease,
    LeaseEvent,
    Leave,
    Release,
    Settled,
    Settlement,
)
from task_queue_engine.backends.base import (
    DeadLettering,
    Done,
    LeaseLost,
    QueueVerdict,
    Rejected,
    TaskQueue,
    TryAgain,
)
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable

logger = logging.getLogger("task_queue_engine.acker")

_MOST = 100
"""What the line hands over at once may be many settlements or one."""


@dataclass(frozen=True, slots=True)
class AckerStatistics:
    deleted: int
    released: int
    dead_lettered: int
    left: int
    stale: int
    """Settlements that came too late: the message was somebody else's by then."""


class Acker:
    """The end of the line. It tries every settlement until the queue has answered for it or its
    lease is lost; a message it could not settle comes back by itself, and the claim sorts it out.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        clock: Clock,
        patience: Patience,
        settlements: trio.MemoryReceiveChannel[tuple[Settlement, ...]],
        leases: trio.MemorySendChannel[LeaseEvent],
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._patience = patience
        self._settlements = settlements
        self._batches = Batcher(settlements, size=_MOST, linger=queue.capabilities.settle_linger)
        self._leases = leases
        self._deleted = self._released = self._dead_lettered = self._left = self._stale = 0

    def statistics(self) -> AckerStatistics:
        return AckerStatistics(
            deleted=self._deleted,
            released=self._released,
            dead_lettered=self._dead_lettered,
            left=self._left,
            stale=self._stale,
        )

    async def run(self) -> None:
        with self._settlements, self._leases:
            while batch := await self._batches.next():
                await self._settle([item for settlements in batch for item in settlements])

    async def _settle(self, settlements: Sequence[Settlement]) -> None:
        acks: list[Ack] = []
        releases: list[Release] = []
        dead: list[DeadLetterIt] = []
        left: list[Lease] = []
        for settlement in settlements:
            match settlement:
                case Ack():
                    acks.append(settlement)
                case Release():
                    releases.append(settlement)
                case DeadLetterIt():
                    dead.append(settlement)
                case Leave(lease):
                    left.append(lease)
                case _:
                    assert_never(settlement)
        self._left += len(left)
        for lease in left:
            lease.settling = True
        if left:
            await self._let_go(left)
        for ack_batch in self._chunks(acks):
            self._deleted += await self._carry_out(ack_batch)
        for release_batch in self._chunks(releases):
            self._released += await self._carry_out(release_batch)
        for dead_batch in self._chunks(dead):
            self._dead_lettered += await self._carry_out(dead_batch)

    def _chunks(self, items: Sequence[Settlement]) -> list[list[Settlement]]:
        size = self._queue.max_batch
        return [list(items[i : i + size]) for i in range(0, len(items), size)]

    async def _carry_out(self, settlements: list[Settlement]) -> int:
        """One batch of one kind; only what failed in passing is tried again. Returns how many
        were carried out."""
        done = 0
        finished = tuple(settlement.lease for settlement in settlements)
        for lease in finished:
            lease.settling = True
        while settlements:
            again: list[Settlement] = []
            trouble: BackendUnavailable | None = None
            try:
                verdicts = await self._call(settlements)
            except BackendUnavailable as error:
                again, trouble = settlements, error
            else:
                for settlement, verdict in zip(settlements, verdicts, strict=True):
                    match verdict:
                        case Done():
                            done += 1
                        case LeaseLost():
                            self._stale += 1
                        case Rejected(reason):
                            logger.error(
                                "the queue refuses to settle task %s: %s",
                                settlement.lease.delivery.task_id,
                                reason,
                            )
                        case TryAgain(reason):
                            again.append(settlement)
                            trouble = BackendUnavailable(reason)
                        case _:
                            assert_never(verdict)
            if trouble is not None:
                await self._patience.pause(trouble)
                self._stale += sum(settlement.lease.lost for settlement in again)
                again = [settlement for settlement in again if not settlement.lease.lost]
            settlements = again
        # Also where all was lost: who waits for no answer any more is in no trouble.
        self._patience.well()
        await self._let_go(finished)
        return done

    async def _let_go(self, leases: Sequence[Lease]) -> None:
        # Without a lease keeper the engine ends; what can still be settled is settled.
        with suppress(trio.BrokenResourceError):
            await self._leases.send(Settled(tuple(leases)))

    def _call(self, settlements: Sequence[Settlement]) -> Awaitable[list[QueueVerdict]]:
        first = settlements[0]
        if isinstance(first, Ack):
            return self._queue.delete([item.lease.delivery for item in settlements])
        if isinstance(first, Release):
            return self._queue.release(
                [
                    (item.lease.delivery, item.delay)
                    for item in settlements
                    if isinstance(item, Release)
                ]
            )
        return self._queue.dead_letter(
            [self._dead_lettering(item) for item in settlements if isinstance(item, DeadLetterIt)]
        )

    def _dead_lettering(self, item: DeadLetterIt) -> DeadLettering:
        return DeadLettering(
            delivery=item.lease.delivery,
            reason=item.reason,
            task_type=item.task.type if item.task else "",
            attempts=item.task.attempt if item.task else 0,
            error=item.error,
            at=self._clock.now(),
        )

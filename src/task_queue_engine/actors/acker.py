"""Settles messages: deletes, gives back, dead-letters, in batches."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.batching import Batcher, in_batches
from task_queue_engine.actors.messages import (
    Ack,
    LeaseEvent,
    Leave,
    MoveToDeadLetters,
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

# Of what the line hands over, at once: each may be many settlements or one.
_MAX_HANDED_OVER = 100


@dataclass(frozen=True, slots=True)
class AckerStatistics:
    deleted: int
    released: int
    dead_lettered: int
    left: int
    stale: int
    """Settlements that came too late: another worker had the message by then."""


class Acker:
    """The end of the line. It tries every settlement until the queue has answered for it or its
    lease is lost; a message it could not settle comes back by itself, and the claim sorts it out.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        clock: Clock,
        retry: BackendRetry,
        settlements: trio.MemoryReceiveChannel[tuple[Settlement, ...]],
        leases: trio.MemorySendChannel[LeaseEvent],
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._retry = retry
        self._settlements = settlements
        self._batches = Batcher(
            settlements, size=_MAX_HANDED_OVER, linger=queue.capabilities.settle_linger
        )
        self._leases = leases
        self._carried_out: Counter[type[Settlement]] = Counter()
        self._stale = 0

    def statistics(self) -> AckerStatistics:
        return AckerStatistics(
            deleted=self._carried_out[Ack],
            released=self._carried_out[Release],
            dead_lettered=self._carried_out[MoveToDeadLetters],
            left=self._carried_out[Leave],
            stale=self._stale,
        )

    async def run(self) -> None:
        with self._settlements, self._leases:
            while batch := await self._batches.next():
                await self._settle([item for settlements in batch for item in settlements])

    async def _settle(self, settlements: Sequence[Settlement]) -> None:
        by_kind: dict[type[Settlement], list[Settlement]] = {
            Leave: [],
            Ack: [],
            Release: [],
            MoveToDeadLetters: [],
        }
        for settlement in settlements:
            by_kind[type(settlement)].append(settlement)
        left = by_kind.pop(Leave)
        if left:
            self._carried_out[Leave] += len(left)
            _mark_settling(left)
            await self._let_go(left)
        for of_one_kind in by_kind.values():
            for batch in in_batches(of_one_kind, self._queue.max_batch):
                await self._carry_out(batch)

    async def _carry_out(self, batch: Sequence[Settlement]) -> None:
        """One batch of one kind; only what failed in passing is tried again."""
        _mark_settling(batch)
        rest = batch
        is_first_try = True

        async def settle_rest() -> None:
            nonlocal rest, is_first_try
            if not is_first_try:
                self._stale += sum(settlement.lease.lost for settlement in rest)
                rest = [settlement for settlement in rest if not settlement.lease.lost]
            is_first_try = False
            if rest:
                rest, reason = self._sort(rest, await self._call(rest))
                if rest:
                    raise BackendUnavailable(reason)

        await self._retry.call(settle_rest)
        await self._let_go(batch)

    def _sort(
        self, settlements: Sequence[Settlement], verdicts: Sequence[QueueVerdict]
    ) -> tuple[list[Settlement], str]:
        """Returns what failed in passing, and why."""
        again: list[Settlement] = []
        why = ""
        for settlement, verdict in zip(settlements, verdicts, strict=True):
            match verdict:
                case Done():
                    self._carried_out[type(settlement)] += 1
                case LeaseLost():
                    self._stale += 1
                case Rejected(reason):
                    logger.error(
                        "the queue refuses to settle task %s: %s",
                        settlement.lease.delivery.task_id,
                        reason,
                    )
                case TryAgain(why):
                    again.append(settlement)
                case _:
                    assert_never(verdict)
        return again, why

    async def _let_go(self, settlements: Sequence[Settlement]) -> None:
        # Without a lease keeper the engine ends; what can still be settled is settled.
        with suppress(trio.BrokenResourceError):
            await self._leases.send(Settled(tuple(item.lease for item in settlements)))

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
            [
                self._dead_lettering(item)
                for item in settlements
                if isinstance(item, MoveToDeadLetters)
            ]
        )

    def _dead_lettering(self, item: MoveToDeadLetters) -> DeadLettering:
        return DeadLettering(
            delivery=item.lease.delivery,
            reason=item.reason,
            task_type=item.task.type if item.task else "",
            attempts=item.task.attempt if item.task else 0,
            error=item.error,
            at=self._clock.now(),
        )


def _mark_settling(settlements: Sequence[Settlement]) -> None:
    for settlement in settlements:
        settlement.lease.settling = True

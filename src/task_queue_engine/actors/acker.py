"""Settles messages: deletes, gives back, dead-letters, in batches, each kind by itself."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
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

# Settlements of one kind that may wait while a batch of them is carried out. Each holds a lease,
# which is renewed meanwhile, and on AWS its message: a mebibyte at most, a few KB mostly.
_MAX_WAITING = 100

# By kind: as what its trouble shows in /ready.
_ACTORS: dict[type[Settlement], str] = {
    Ack: "acker",
    Release: "acker (giving back)",
    MoveToDeadLetters: "acker (dead letters)",
}


@dataclass(frozen=True, slots=True)
class AckerStatistics:
    deleted: int
    released: int
    dead_lettered: int
    left: int
    stale: int
    """Settlements that came too late: another worker had the message by then."""
    let_go: int
    """Not carried out, since too many of their kind waited for a queue in trouble: their messages
    come back when their leases end."""


class Acker:
    """The end of the line. It tries every settlement until the queue has answered for it or its
    lease is lost; a message it could not settle comes back by itself, and the claim sorts it out.

    Each kind is carried out by itself: a dead-letter queue that is gone holds up nothing but dead
    letters. Where too many of a kind wait the next ones are let go: what is recorded stands,
    their messages come back when their leases end, and the claim has them hidden or dead-lettered
    then. Only deletions make the line wait: while these fail there is no healthy work.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        clock: Clock,
        retry: Callable[[str], BackendRetry],
        settlements: trio.MemoryReceiveChannel[tuple[Settlement, ...]],
        leases: trio.MemorySendChannel[LeaseEvent],
    ) -> None:
        """
        Args:
            retry: by the name that its trouble shows under.
        """
        self._queue = queue
        self._clock = clock
        self._retries = {kind: retry(name) for kind, name in _ACTORS.items()}
        self._settlements = settlements
        self._leases = leases
        self._is_ending = False
        self._carried_out: Counter[type[Settlement]] = Counter()
        self._stale = self._let_go = 0

    def statistics(self) -> AckerStatistics:
        return AckerStatistics(
            deleted=self._carried_out[Ack],
            released=self._carried_out[Release],
            dead_lettered=self._carried_out[MoveToDeadLetters],
            left=self._carried_out[Leave],
            stale=self._stale,
            let_go=self._let_go,
        )

    async def run(self) -> None:
        with self._settlements, self._leases, ExitStack() as channels:
            async with trio.open_nursery() as nursery:
                lanes: dict[type[Settlement], trio.MemorySendChannel[Settlement]] = {}
                for kind in _ACTORS:
                    waiting, to_settle = trio.open_memory_channel[Settlement](_MAX_WAITING)
                    lanes[kind] = channels.enter_context(waiting)
                    nursery.start_soon(self._settle, kind, to_settle)
                async for settlements in self._settlements:
                    await self._hand_over(settlements, lanes)
                self._is_ending = True
                channels.close()

    async def _hand_over(
        self,
        settlements: Sequence[Settlement],
        lanes: dict[type[Settlement], trio.MemorySendChannel[Settlement]],
    ) -> None:
        left: list[Settlement] = []
        for settlement in settlements:
            kind = type(settlement)
            if kind is Leave:
                left.append(settlement)
                continue
            try:
                lanes[kind].send_nowait(settlement)
            except trio.WouldBlock:
                if kind is Ack:
                    await lanes[kind].send(settlement)
                else:
                    left.append(settlement)
        if left:
            _mark_settling(left)
            self._carried_out[Leave] += sum(isinstance(one, Leave) for one in left)
            self._let_go += sum(not isinstance(one, Leave) for one in left)
            await self._forget(left)

    async def _settle(
        self, kind: type[Settlement], to_settle: trio.MemoryReceiveChannel[Settlement]
    ) -> None:
        batches = Batcher(
            to_settle, size=_MAX_WAITING, linger=self._queue.capabilities.settle_linger
        )
        with to_settle:
            while of_one_kind := await batches.next():
                for batch in in_batches(of_one_kind, self._queue.max_batch):
                    await self._carry_out(kind, batch)

    async def _carry_out(self, kind: type[Settlement], batch: Sequence[Settlement]) -> None:
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

        def give_up() -> bool:
            """At the end a dead-letter queue in trouble is not waited for: messages come back."""
            return self._is_ending and kind is MoveToDeadLetters

        try:
            await self._retries[kind].call(settle_rest, give_up=give_up)
        except BackendUnavailable as error:
            self._let_go += len(rest)
            logger.warning("%d dead letters are left to another worker: %s", len(rest), error)
        await self._forget(batch)

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

    async def _forget(self, settlements: Sequence[Settlement]) -> None:
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

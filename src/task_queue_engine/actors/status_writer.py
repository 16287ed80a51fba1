"""Turns outcomes into conditional store writes, and what was written into settlements."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

import trio

from task_queue_engine.actors.attempt_log import log_error
from task_queue_engine.actors.attempt_order import AttemptOrder
from task_queue_engine.actors.attempt_writes import to_write
from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.batching import Batcher
from task_queue_engine.actors.messages import (
    Ack,
    Attempt,
    ClaimEvent,
    Errored,
    Interrupted,
    Lease,
    LeaseEvent,
    Leave,
    Lost,
    MoveToDeadLetters,
    Outcome,
    Progressed,
    Recording,
    Release,
    Settled,
    Settlement,
    Stopped,
    Succeeded,
)
from task_queue_engine.actors.side_by_side import SideBySide
from task_queue_engine.backends.base import (
    DeadLettering,
    Done,
    Finish,
    Finished,
    GiveBack,
    LeaseLost,
    Rejected,
    Steps,
    TryAgain,
)
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Fenced,
    Progress,
    Recorded,
    RecordVerdict,
)
from task_queue_engine.retry import Decision, GiveUp, RetryAt, SnoozeUntil
from task_queue_engine.task import TaskError, TaskStatus

logger = logging.getLogger("task_queue_engine.status_writer")

# Batches' worth of outcomes that may be on their way: each holds a lease and a result.
_BATCHES_OF_OUTCOMES = 8


@dataclass(frozen=True, slots=True)
class StatusWriterStatistics:
    recorded: int
    completed: int
    failed: int
    retried: int
    snoozed: int
    cancelled: int
    interrupted: int
    fenced: int
    flushes_by_size: int
    flushes_by_time: int
    flushes_by_end: int
    deleted: int
    """Messages settled together with the record; so are the next three."""
    released: int
    dead_lettered: int
    stale: int


OnRecorded = Callable[[Outcome, TaskStatus | None], None]  # None: it came too late to count


class StatusWriter:
    """The only actor that writes what attempts came to.

    A message is settled only after its status is durable: an outcome goes on to the acker when the
    store has answered for it, however long that takes. The leases are kept meanwhile.

    Where queue and store are two services, batches go side by side, and what could not be recorded
    is tried on by itself. An attempt's own writes keep their order: what comes behind a progress
    that is on its way waits for it.
    """

    def __init__(
        self,
        *,
        steps: Steps,
        max_delay: float,
        linger: float,
        retry: BackendRetry,
        outcomes: trio.MemoryReceiveChannel[Outcome],
        settlements: trio.MemorySendChannel[tuple[Settlement, ...]],
        leases: trio.MemorySendChannel[LeaseEvent],
        claim_events: trio.MemorySendChannel[ClaimEvent],
        clock: Clock,
        on_recorded: OnRecorded,
    ) -> None:
        self._steps = steps
        self._leases = leases
        self._claim_events = claim_events
        self._works = True
        self._clock = clock
        # Longer waits do not ride on the message: the scheduler sends a new one.
        self._max_delay = max_delay
        self._retry = retry
        self._outcomes = outcomes
        self._batches = Batcher(outcomes, size=steps.max_batch, linger=linger)
        self._settlements = settlements
        self._on_recorded = on_recorded
        self._side_by_side = SideBySide(most=_BATCHES_OF_OUTCOMES * steps.max_batch)
        self._order = AttemptOrder()
        self._settled: Counter[type[Settlement]] = Counter()
        self._recorded = self._fenced = self._settled_too_late = 0
        self._completed = self._failed = self._cancelled = 0
        self._retried = self._snoozed = self._interrupted = 0

    def statistics(self) -> StatusWriterStatistics:
        return StatusWriterStatistics(
            recorded=self._recorded,
            completed=self._completed,
            failed=self._failed,
            retried=self._retried,
            snoozed=self._snoozed,
            cancelled=self._cancelled,
            interrupted=self._interrupted,
            fenced=self._fenced,
            flushes_by_size=self._batches.flushes["size"],
            flushes_by_time=self._batches.flushes["time"],
            flushes_by_end=self._batches.flushes["end"],
            deleted=self._settled[Ack],
            released=self._settled[Release],
            dead_lettered=self._settled[MoveToDeadLetters],
            stale=self._settled_too_late,
        )

    async def run(self) -> None:
        with self._outcomes, self._settlements, self._leases, self._claim_events:
            if self._steps.is_one_transaction:  # one thread writes
                while batch := await self._batches.next():
                    await self._serve(batch)
                return
            async with trio.open_nursery() as nursery:
                while True:
                    await self._side_by_side.until_next()
                    if not (batch := await self._batches.next()):
                        return
                    self._set_out(nursery, self._order.of(batch))

    def _set_out(self, nursery: trio.Nursery, batch: Sequence[Outcome]) -> None:
        if batch:
            set_out = self._side_by_side.sets_out(len(batch))
            nursery.start_soon(self._serve_beside, nursery, batch, set_out)

    async def _serve_beside(
        self, nursery: trio.Nursery, batch: Sequence[Outcome], set_out: float
    ) -> None:
        left = await self._serve(batch)
        self._side_by_side.is_back(set_out, len(batch))
        self._set_out(nursery, self._order.behind(batch, left))
        if left:
            self._side_by_side.keeps(len(left))
            nursery.start_soon(self._try_on, nursery, left)

    async def _try_on(self, nursery: trio.Nursery, rest: Sequence[Outcome]) -> None:
        while rest:
            left = await self._serve(rest, is_rest=True)
            self._side_by_side.has_done(len(rest) - len(left))
            self._set_out(nursery, self._order.behind(rest, left))
            rest = left

    async def _serve(self, batch: Sequence[Outcome], *, is_rest: bool = False) -> list[Outcome]:
        """Returns what the store could not record, having recorded others."""
        to_settle, settled, left = await self._write(batch, is_rest)
        if settled:
            # Without a lease keeper the engine ends; what can still be settled is settled.
            with suppress(trio.BrokenResourceError):
                await self._leases.send(Settled(settled))
        if to_settle:
            await self._settlements.send(to_settle)
        return left

    async def _write(
        self, batch: Sequence[Outcome], is_rest: bool
    ) -> tuple[tuple[Settlement, ...], tuple[Lease, ...], list[Outcome]]:
        """Returns what is still to be settled, the leases of what is, and what to try on."""
        to_settle: list[Settlement] = []
        outcomes, writes = self._to_writes(batch)
        settled: list[Lease] = []
        left: list[Outcome] = []
        finished = await self._retry.call(lambda: self._finish(outcomes, writes, is_rest))
        for outcome, one in zip(outcomes, finished, strict=True):
            if isinstance(one.recorded, TryAgain):
                left.append(outcome)
                continue
            settlement = self._settle(outcome, one.recorded)
            if settlement is None:
                continue
            if one.settled is None:
                to_settle.append(settlement)
                continue
            match one.settled:
                case Done():
                    self._settled[type(settlement)] += 1
                case LeaseLost():
                    self._settled_too_late += 1
                case Rejected(why) | TryAgain(why):
                    logger.error("task %s was not settled: %s", outcome.attempt.task.id, why)
            settled.append(settlement.lease)
        return tuple(to_settle), tuple(settled), left

    async def _finish(
        self, outcomes: Sequence[Outcome], writes: Sequence[AttemptWrite], is_rest: bool
    ) -> list[Finished]:
        # Made anew for each try: the lease keeper may have got a new receipt meanwhile.
        items = [
            Finish(write, outcome.attempt.lease.delivery, self._then(outcome))
            for outcome, write in zip(outcomes, writes, strict=True)
        ]
        settling: list[Lease] = []
        if self._steps.is_one_transaction:
            settling = [one.attempt.lease for one in outcomes if not isinstance(one, Progressed)]
        for lease in settling:
            lease.settling = True
        try:
            finished = await self._steps.finish(items)
            unrecorded = [one.recorded for one in finished if isinstance(one.recorded, TryAgain)]
            if len(unrecorded) == len(finished):
                raise BackendUnavailable(unrecorded[0].reason)
        except BackendUnavailable:
            for lease in settling:
                lease.settling = False
            if not is_rest:  # of which it is known that others can be recorded
                self._say_whether_it_works(False)
            raise
        self._say_whether_it_works(True)
        return finished

    def _say_whether_it_works(self, works: bool) -> None:  # it is the message
        if works is not self._works:
            self._works = works
            self._side_by_side.is_blocked = not works
            with suppress(trio.BrokenResourceError):  # the claimer has stopped
                self._claim_events.send_nowait(Recording(works))

    def _then(self, outcome: Outcome) -> GiveBack | DeadLettering | None:
        """What becomes of the message, as `_settle` says it to the acker."""
        match outcome:
            case Interrupted():
                return GiveBack()
            case Errored(attempt, error, GiveUp(reason)):
                return DeadLettering(
                    delivery=attempt.lease.delivery,
                    reason=reason,
                    task_type=attempt.task.type,
                    attempts=attempt.task.attempt,
                    error=error,
                    at=self._clock.now(),
                )
            case Errored(_, _, RetryAt(_, delay) | SnoozeUntil(_, delay)):
                return GiveBack(delay) if delay <= self._max_delay else None
            case _:
                return None

    def _to_writes(self, batch: Sequence[Outcome]) -> tuple[list[Outcome], list[AttemptWrite]]:
        outcomes: list[Outcome] = []
        writes: list[AttemptWrite] = []
        latest_progress: dict[Attempt, int] = {}
        for outcome in batch:
            write = to_write(outcome, max_delay=self._max_delay)
            if isinstance(write, Progress):
                # Only the latest of a batch is worth a write.
                earlier = latest_progress.get(outcome.attempt)
                if earlier is not None:
                    outcomes[earlier], writes[earlier] = outcome, write
                    continue
                latest_progress[outcome.attempt] = len(writes)
            outcomes.append(outcome)
            writes.append(write)
        return outcomes, writes

    def _settle(self, outcome: Outcome, verdict: RecordVerdict) -> Settlement | None:
        lease = outcome.attempt.lease
        if not isinstance(outcome, Progressed):
            outcome.attempt.recorded = True
        match verdict:
            case Recorded(status):
                self._recorded += 1
                self._on_recorded(outcome, status)
            case Fenced():
                self._fenced += 1
                self._on_recorded(outcome, None)
                return None if isinstance(outcome, Progressed) else Leave(lease)
            case _:
                assert_never(verdict)

        if isinstance(outcome, Progressed):
            return None
        if status is TaskStatus.COMPLETED:
            self._completed += 1
            return Ack(lease)
        if status is TaskStatus.CANCELLED:
            self._cancelled += 1
            return Ack(lease)
        match outcome:
            case Errored(attempt, error, decision):
                return self._settle_error(attempt, error, decision)
            case Interrupted():
                self._interrupted += 1
                return Release(lease)
            case Succeeded() | Stopped() | Lost():
                # The store answers these with COMPLETED, CANCELLED or Fenced.
                return Leave(lease)
            case _:
                assert_never(outcome)

    def _settle_error(self, attempt: Attempt, error: TaskError, decision: Decision) -> Settlement:
        lease = attempt.lease
        log_error(attempt.task, error, decision)
        if isinstance(decision, GiveUp):
            self._failed += 1
            return MoveToDeadLetters(lease, decision.reason, task=attempt.task, error=error)
        if isinstance(decision, RetryAt):
            self._retried += 1
        else:
            self._snoozed += 1
        if decision.delay > self._max_delay:
            return Ack(lease)
        return Release(lease, decision.delay)

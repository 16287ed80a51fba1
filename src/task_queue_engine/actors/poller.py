"""Receives batches, claims them in the store, hands them to the workers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

import trio

from task_queue_engine.actors.backend_retry import Patience
from task_queue_engine.actors.crash_isolation import Suspects
from task_queue_engine.actors.messages import (
    AbortReason,
    Ack,
    Acquired,
    Attempt,
    DeadLetterIt,
    Errored,
    Interrupted,
    Lease,
    LeaseEvent,
    Leave,
    Outcome,
    Release,
    Settlement,
)
from task_queue_engine.backends.base import Delivery, TaskQueue, TaskStore
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import (
    CRASH_ERROR_TYPE,
    ClaimRequest,
    ClaimVerdict,
    DuplicateDelivery,
    Exhausted,
    ExtraCopy,
    Finished,
    Missing,
    NeedsDeadLetter,
    NotDue,
    Started,
    crash_error,
    delay_until,
)
from task_queue_engine.retry import SnoozeUntil
from task_queue_engine.task import Task, TaskStatus

logger = logging.getLogger("task_queue_engine.poller")

_POSTPONED_FOR = 5.0
"""Seconds until a task that may not run beside another is looked at again."""


@dataclass(frozen=True, slots=True)
class PollerStatistics:
    received: int
    claimed: int
    taken_over: int
    quarantined: int
    duplicates: int
    returned_unstarted: int


class Poller:
    """The head of the line.

    It asks the queue for no more than the workers have asked for on `demand`, so that claimed work
    does not age in memory. `stop` ends it from the top: a receive under way is cancelled, whatever
    no worker has taken yet is given back, and closing `deliveries` lets the rest of the line run
    dry. `is_in_hand` says of a task id and attempt whether this engine is at it already,
    `lease_in_hand` gives the lease of a message whose attempt runs here.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        store: TaskStore,
        clock: Clock,
        worker_name: str,
        visibility: float,
        poll_wait: float,
        patience: Patience,
        demand: trio.MemoryReceiveChannel[int],
        deliveries: trio.MemorySendChannel[Attempt],
        unstarted: trio.MemoryReceiveChannel[Attempt],
        outcomes: trio.MemorySendChannel[Outcome],
        settlements: trio.MemorySendChannel[tuple[Settlement, ...]],
        leases: trio.MemorySendChannel[LeaseEvent],
        is_in_hand: Callable[[str, int], bool],
        lease_in_hand: Callable[[str], Lease | None],
    ) -> None:
        self._queue = queue
        self._store = store
        self._clock = clock
        self._worker_name = worker_name
        self._visibility = visibility
        self._poll_wait = poll_wait
        self._patience = patience
        self._demand = demand
        self._deliveries = deliveries
        # A second receiver of `deliveries`, read only to take back what is still in its buffer.
        self._unstarted = unstarted
        self._outcomes = outcomes
        self._settlements = settlements
        self._leases = leases
        self._is_in_hand = is_in_hand
        self._lease_in_hand = lease_in_hand
        self._suspects = Suspects()
        self._credit = 0
        self._stopping = False
        self._stop_asked = trio.Event()
        self._stoppable = trio.CancelScope()
        self._is_polling = False
        # Taken back from the buffer, and not yet reported.
        self._taken_back: deque[Attempt] = deque()
        self._received = self._claimed = self._taken_over = self._quarantined = 0
        self._duplicates = self._returned = 0

    def statistics(self) -> PollerStatistics:
        return PollerStatistics(
            received=self._received,
            claimed=self._claimed,
            taken_over=self._taken_over,
            quarantined=self._quarantined,
            duplicates=self._duplicates,
            returned_unstarted=self._returned,
        )

    def stop(self) -> None:
        """Receive nothing more. Safe to call at any time, and more than once.

        A receive under way is cancelled, unless it would go on without us: then
        (`QueueCapabilities.poll_outlives_cancel`) it is left to its end, and what it brings is
        given back.
        """
        self._stopping = True
        self._stop_asked.set()
        if not (self._is_polling and self._queue.capabilities.poll_outlives_cancel):
            self._stoppable.cancel()

    def cut_short(self) -> None:
        """As `stop`, and wait for no receive any longer."""
        self.stop()
        self._stoppable.cancel()

    async def run(self) -> None:
        with (
            self._demand,
            self._deliveries,
            self._unstarted,
            self._outcomes,
            self._settlements,
            self._leases,
        ):
            while not self._stopping:
                held = await self._receive()
                if not held:
                    continue
                if not await self._keep(held) or self._stopping:
                    # Not claimed yet: the store need not even know that they were here.
                    self._returned += len(held)
                    await self._settlements.send(tuple(Release(lease) for lease in held))
                    break
                await self._hand_on(await self._claim(held))
            await self._take_back()

    async def _keep(self, held: tuple[Lease, ...]) -> bool:
        """False: nobody keeps leases any more, the engine is about to end."""
        try:
            await self._leases.send(Acquired(held))
        except trio.BrokenResourceError:
            return False
        return True

    async def _receive(self) -> tuple[Lease, ...]:
        """Wait for demand, then for messages. Empty when there are none, or on `stop`."""
        deliveries: list[Delivery] = []
        self._stoppable = trio.CancelScope()
        with self._stoppable:
            if self._stopping:  # stop() came between two scopes
                return ()
            await self._gather_demand()
            try:
                await self._poll(deliveries)
            except BackendUnavailable as error:
                await self._patience.pause(error)
                return ()
            self._patience.well()
        self._received += len(deliveries)
        expires_at = trio.current_time() + self._visibility
        held = tuple(
            Lease(delivery, expires_at)
            for delivery in deliveries
            if not self._adopt(delivery, expires_at)
        )
        self._credit -= len(held)
        return held

    async def _poll(self, deliveries: list[Delivery]) -> None:
        """Adds what was received, also when it is cancelled just then."""

        async def poll() -> None:
            deliveries.extend(
                await self._queue.receive(
                    min(self._credit, self._queue.max_batch),
                    wait=self._poll_wait,
                    visibility=self._visibility,
                )
            )

        if not self._queue.capabilities.poll_outlives_cancel:
            await poll()
            return
        trouble: BackendUnavailable | None = None
        self._is_polling = True
        try:
            async with trio.open_nursery() as beside:
                beside.start_soon(self._take_back_at_once)
                try:
                    await poll()
                except BackendUnavailable as error:
                    trouble = error
                beside.cancel_scope.cancel()
        finally:
            self._is_polling = False
        if trouble is not None:
            if self._stopping:
                return
            raise trouble

    async def _take_back_at_once(self) -> None:
        """A stop that waits for the end of a poll gives back meanwhile what has not started."""
        await self._stop_asked.wait()
        logger.info(
            "waiting for the open long poll to end (at most %g s; a second signal cuts it short): "
            "messages that come in on it are given back",
            self._poll_wait,
        )
        await self._take_back()

    def _adopt(self, delivery: Delivery, expires_at: float) -> bool:
        """A message of an attempt that runs right here came again, as if its lease had lapsed: the
        machine's clock jumped ahead or it woke from sleep, where the queue measures leases by it.
        The attempt is alive, so it keeps the message, under the new receipt."""
        if delivery.receive_count == 1:  # nearly all: spare the search
            return False
        lease = self._lease_in_hand(delivery.message_id)
        if lease is None or delivery.receive_count <= lease.delivery.receive_count:
            return False
        self._duplicates += 1
        lease.renewed(delivery, expires_at)
        return True

    async def _gather_demand(self) -> None:
        if not self._credit:
            self._credit = await self._demand.receive()
        try:
            while True:
                self._credit += self._demand.receive_nowait()
        except trio.WouldBlock:
            pass

    async def _claim(self, held: tuple[Lease, ...]) -> list[Attempt]:
        """Claim a batch; settle at once what is not to run; return what is."""
        requests = [
            ClaimRequest(
                task_id=lease.delivery.task_id,
                message_id=lease.delivery.message_id,
                receive_count=lease.delivery.receive_count,
                worker=self._worker_name,
                copy_of=lease.delivery.copy_of,
            )
            for lease in held
        ]
        answer_lost = False

        async def claim() -> list[ClaimVerdict]:
            nonlocal answer_lost
            try:
                return await self._store.claim(requests)
            except BackendUnavailable:
                answer_lost = True
                raise

        def give_up() -> bool:
            return self._stopping or all(lease.lost for lease in held)

        try:
            verdicts = await self._patience.until_done(claim, give_up=give_up)
            if answer_lost:
                verdicts = await self._patience.until_done(
                    lambda: self._recognise_own(held, verdicts), give_up=give_up
                )
        except BackendUnavailable:
            self._credit += len(held)
            self._returned += len(held)
            await self._settlements.send(tuple(Release(lease) for lease in held))
            return []
        except Exception:
            # A defect ends the engine. What is not known to have started goes back before.
            await self._settlements.send(tuple(Release(lease) for lease in held))
            raise

        attempts: list[Attempt] = []
        settled: list[Settlement] = []
        for lease, verdict in zip(held, verdicts, strict=True):
            settlement = self._judge(lease, verdict)
            if not isinstance(settlement, Attempt):
                settled.append(settlement)
            elif self._suspects.admit(settlement):
                attempts.append(settlement)
            else:
                await self._postpone(settlement)
        self._credit += len(settled)
        if settled:
            await self._settlements.send(tuple(settled))
        return attempts

    async def _postpone(self, attempt: Attempt) -> None:
        self._credit += 1
        run_at = self._clock.now() + timedelta(seconds=_POSTPONED_FOR)
        error = attempt.task.error or crash_error(attempt.task.attempt, attempt.task.worker)
        await self._outcomes.send(Errored(attempt, error, SnoozeUntil(run_at, _POSTPONED_FOR)))

    async def _recognise_own(
        self, held: Sequence[Lease], verdicts: Sequence[ClaimVerdict]
    ) -> list[ClaimVerdict]:
        """A claim whose answer was lost may have taken effect. Made again, it meets its own work:
        an attempt that looks like one running elsewhere, a task that has just failed. Left alone,
        an attempt that never ran would count as a crash, and a dead letter would be missing."""
        seen = dict(enumerate(verdicts))
        unclear = [
            index
            for index, verdict in seen.items()
            if verdict in (DuplicateDelivery(), Finished(TaskStatus.FAILED))
        ]
        if not unclear:
            return list(verdicts)
        tasks = await self._store.get([held[index].delivery.task_id for index in unclear])
        mine = {
            (verdict.task.id, verdict.task.attempt)
            for verdict in verdicts
            if isinstance(verdict, Started)
        }
        for index, task in zip(unclear, tasks, strict=True):
            if task is None:
                continue
            attempt = (task.id, task.attempt)
            if task.status is TaskStatus.FAILED:
                if task.error is not None and task.error.type == CRASH_ERROR_TYPE:
                    seen[index] = Exhausted(task)
            elif (
                task.status is TaskStatus.PROCESSING
                and task.worker == self._worker_name
                and attempt not in mine
                and not self._is_in_hand(*attempt)
            ):
                mine.add(attempt)
                seen[index] = Started(task)
        return list(seen.values())

    def _judge(self, lease: Lease, verdict: ClaimVerdict) -> Attempt | Settlement:
        match verdict:
            case Started(task, takeover):
                self._claimed += 1
                if takeover:
                    self._taken_over += 1
                    _log_silence(task, "starting it again")
                lease.attempt = attempt = Attempt(task, lease)
                if lease.lost:
                    lease.lose()
                elif lease.cancel_asked:
                    attempt.abort(AbortReason.CANCELLED)
                return attempt
            case Finished():
                self._duplicates += 1
                return Ack(lease)
            case NeedsDeadLetter(task):
                self._duplicates += 1
                return DeadLetterIt(
                    lease,
                    "FAILED, and the worker that wrote this died before the message was settled",
                    task=task,
                    error=task.error,
                )
            case DuplicateDelivery():
                self._duplicates += 1
                return Leave(lease)
            case ExtraCopy():
                self._duplicates += 1
                return Release(lease, min(self._visibility, self._queue.max_delay))
            case NotDue(run_at):
                wait = delay_until(run_at, self._clock.now())
                return Release(lease, min(wait, self._queue.max_delay))
            case Exhausted(task):
                self._quarantined += 1
                _log_silence(task, "FAILED, and not started again")
                return DeadLetterIt(
                    lease,
                    f"its worker died {task.retry_count} times of {task.max_attempts} allowed",
                    task=task,
                    error=task.error,
                )
            case Missing():
                return DeadLetterIt(lease, "no such task in the store")
            case _:
                assert_never(verdict)

    async def _hand_on(self, attempts: Sequence[Attempt]) -> None:
        for index, attempt in enumerate(attempts):
            if self._stopping or not await self._hand_on_one(attempt):
                await self._give_back(attempts[index:])
                return

    async def _hand_on_one(self, attempt: Attempt) -> bool:
        """False when `stop` came before a worker took it."""
        with suppress(trio.WouldBlock):
            self._deliveries.send_nowait(attempt)
            return True
        self._stoppable = trio.CancelScope()
        with self._stoppable:
            await self._deliveries.send(attempt)
            return True
        return False

    async def _take_back(self) -> None:
        """What lies in the buffer was claimed but not started: give it back at once, instead of
        letting it wait for a worker to come free."""
        try:
            while True:
                self._taken_back.append(self._unstarted.receive_nowait())
        except trio.WouldBlock:
            pass
        await self._report_taken_back()

    async def _give_back(self, attempts: Sequence[Attempt]) -> None:
        self._taken_back.extend(attempts)
        await self._report_taken_back()

    async def _report_taken_back(self) -> None:
        while self._taken_back:
            await self._outcomes.send(Interrupted(self._taken_back[0]))
            self._taken_back.popleft()
            self._returned += 1


def _log_silence(task: Task, what_follows: str) -> None:
    logger.warning(
        "%s task %s: the worker that had it died or lost its lease (failure %d of %d allowed): %s",
        task.type,
        task.id,
        task.retry_count,
        task.max_attempts,
        what_follows,
        extra={"task_id": task.id, "task_type": task.type},
    )

"""Claims what was received: which deliveries start their task, and what becomes of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.crash_isolation import CrashIsolation
from task_queue_engine.actors.messages import (
    AbortReason,
    Ack,
    Attempt,
    AttemptKey,
    Errored,
    HeldAsked,
    Lease,
    LeaseEvent,
    Leave,
    MoveToDeadLetters,
    Release,
    Settlement,
)
from task_queue_engine.backends.base import TaskQueue, TaskStore
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

# The poller's: what operators filter by stays, and the claimer is a part of it.
logger = logging.getLogger("task_queue_engine.poller")

# Seconds until a task that may not run beside another is looked at again: few claims for one that
# has killed its worker before, and not long for one that has not.
_ISOLATION_DELAY = 5.0

_FAILED = Finished(TaskStatus.FAILED)
# What a claim made again answers both to its own work and to a duplicate.
_UNCLEAR: tuple[ClaimVerdict, ...] = (DuplicateDelivery(), _FAILED)

_NotStarted = (
    Exhausted | Finished | NeedsDeadLetter | DuplicateDelivery | ExtraCopy | NotDue | Missing | None
)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A batch, sorted."""

    attempts: tuple[Attempt, ...]
    """To run."""
    postponed: tuple[Errored, ...]
    """Started, and not to run beside what runs now."""
    settlements: tuple[Settlement, ...]
    """Not to run."""


@dataclass(frozen=True, slots=True)
class ClaimerStatistics:
    claimed: int
    taken_over: int
    quarantined: int
    duplicates: int
    given_up: int
    """Given back, because the store did not answer in time."""


class Claimer:
    """A part of the poller, and no actor of its own.

    An actor would need a channel in front: a wake-up more for every batch, and one more place where
    received messages wait, to be emptied at a stop. So the poller calls it with a batch, gets it
    back sorted, and does the sending. Nothing of a batch is kept between calls.

    It is the one place that recognises a claim of its own whose answer was lost, as the contract of
    `TaskStore.claim` asks of its caller: made again, such a claim is judged like that of any other
    delivery. This counts on every start of this engine being known to the lease keeper by then, so
    on one call at a time.
    """

    def __init__(
        self,
        *,
        queue: TaskQueue,
        store: TaskStore,
        clock: Clock,
        worker_name: str,
        visibility: float,
        retry: BackendRetry,
        leases: trio.MemorySendChannel[LeaseEvent],
    ) -> None:
        self._max_delay = queue.max_delay
        self._store = store
        self._clock = clock
        self._worker_name = worker_name
        self._visibility = visibility
        self._retry = retry
        # The poller's end, which the poller closes.
        self._leases = leases
        self._isolation = CrashIsolation()
        self._claimed = self._taken_over = self._quarantined = 0
        self._duplicates = self._given_up = 0

    def statistics(self) -> ClaimerStatistics:
        return ClaimerStatistics(
            claimed=self._claimed,
            taken_over=self._taken_over,
            quarantined=self._quarantined,
            duplicates=self._duplicates,
            given_up=self._given_up,
        )

    async def claim(self, leases: Sequence[Lease], *, is_stopping: Callable[[], bool]) -> Claimed:
        """Claim a batch, however long the store takes: until the poller stops or every lease is
        lost. What could not be claimed by then is to be released."""
        verdicts = await self._claim(leases, lambda: is_stopping() or _are_lost(leases))
        attempts: list[Attempt] = []
        postponed: list[Errored] = []
        settlements: list[Settlement] = []
        # No checkpoint from here to the end: what the lease keeper says of a lease is either seen
        # by `_start`, or finds the attempt there.
        for lease, verdict in zip(leases, verdicts, strict=True):
            if not isinstance(verdict, Started):
                settlements.append(self._settle(lease, verdict))
                continue
            attempt = self._start(lease, verdict)
            if self._isolation.admit(attempt):
                attempts.append(attempt)
            else:
                postponed.append(self._postpone(attempt))
        return Claimed(tuple(attempts), tuple(postponed), tuple(settlements))

    # --- asking the store -------------------------------------------------------------------

    async def _claim(
        self, leases: Sequence[Lease], give_up: Callable[[], bool]
    ) -> Sequence[ClaimVerdict | None]:
        """One verdict a lease; None: the store did not say."""
        requests = [
            ClaimRequest(
                task_id=lease.delivery.task_id,
                message_id=lease.delivery.message_id,
                receive_count=lease.delivery.receive_count,
                worker=self._worker_name,
                copy_of=lease.delivery.copy_of,
            )
            for lease in leases
        ]
        tries = 0

        async def claim() -> list[ClaimVerdict]:
            nonlocal tries
            tries += 1
            return await self._store.claim(requests)

        try:
            verdicts = await self._retry.call(claim, give_up=give_up)
        except BackendUnavailable:
            return [None] * len(leases)
        return verdicts if tries == 1 else await self._recognise_own(leases, verdicts, give_up)

    async def _recognise_own(
        self,
        leases: Sequence[Lease],
        verdicts: Sequence[ClaimVerdict],
        give_up: Callable[[], bool],
    ) -> Sequence[ClaimVerdict | None]:
        """The last of several tries. An earlier one may have taken effect though its answer was
        lost, and this one met its work: an attempt that looks like one running elsewhere, a task
        that has just FAILED. Left alone, an attempt that never ran would count as a crash, and a
        dead letter would be missing. (A task CANCELLED by an earlier try needs nothing more: its
        message is deleted either way.)"""
        unclear = [index for index, verdict in enumerate(verdicts) if verdict in _UNCLEAR]
        if not unclear:
            return verdicts
        ids = [leases[index].delivery.task_id for index in unclear]
        try:
            tasks = await self._retry.call(lambda: self._store.get(ids), give_up=give_up)
            known = await self._held_here(tasks)
        except (BackendUnavailable, trio.BrokenResourceError):
            # A duplicate is left alone, as its verdict says: it may be one. A message that FAILED
            # goes back, and finds at its next receive that its dead letter is missing.
            return [None if verdict == _FAILED else verdict for verdict in verdicts]
        known |= {_key(verdict.task) for verdict in verdicts if isinstance(verdict, Started)}
        recognised: list[ClaimVerdict | None] = list(verdicts)
        for index, task in zip(unclear, tasks, strict=True):
            if task is None:
                continue
            after_crash = task.error is not None and task.error.type == CRASH_ERROR_TYPE
            if task.status is TaskStatus.FAILED:
                if after_crash:
                    recognised[index] = Exhausted(task)
            elif self._runs_as_mine(task) and _key(task) not in known:
                known.add(_key(task))  # the batch may hold its duplicate
                recognised[index] = Started(task, takeover=after_crash)
        return recognised

    async def _held_here(self, tasks: Sequence[Task | None]) -> set[AttemptKey]:
        """Of the attempts that run under this worker's name those that it knows of."""
        asked = frozenset(_key(task) for task in tasks if task and self._runs_as_mine(task))
        if not asked:
            return set()
        event = HeldAsked(asked)
        await self._leases.send(event)
        return set(await event.reply.get())

    def _runs_as_mine(self, task: Task) -> bool:
        return task.status is TaskStatus.PROCESSING and task.worker == self._worker_name

    # --- judging ----------------------------------------------------------------------------

    def _start(self, lease: Lease, started: Started) -> Attempt:
        task = started.task
        self._claimed += 1
        if started.takeover:
            self._taken_over += 1
            _log_silence(task, "starting it again")
        lease.attempt = attempt = Attempt(task, lease)
        if lease.lost:
            attempt.abort(AbortReason.LEASE_LOST)
        # The row says it where the cancel came between two tries of the claim.
        elif lease.cancel_asked or task.cancel_requested:
            attempt.abort(AbortReason.CANCELLED)
        return attempt

    def _postpone(self, attempt: Attempt) -> Errored:
        task = attempt.task
        run_at = self._clock.now() + timedelta(seconds=_ISOLATION_DELAY)
        error = task.error or crash_error(task.attempt, task.worker)
        return Errored(attempt, error, SnoozeUntil(run_at, _ISOLATION_DELAY))

    def _settle(self, lease: Lease, verdict: _NotStarted) -> Settlement:
        match verdict:
            case Finished():
                self._duplicates += 1
                return Ack(lease)
            case NeedsDeadLetter(task):
                self._duplicates += 1
                return MoveToDeadLetters(
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
                return Release(lease, min(self._visibility, self._max_delay))
            case NotDue(run_at):
                wait = delay_until(run_at, self._clock.now())
                return Release(lease, min(wait, self._max_delay))
            case Exhausted(task):
                self._quarantined += 1
                _log_silence(task, "FAILED, and not started again")
                return MoveToDeadLetters(
                    lease,
                    f"its worker died {task.retry_count} times of {task.max_attempts} allowed",
                    task=task,
                    error=task.error,
                )
            case Missing():
                return MoveToDeadLetters(lease, "no such task in the store")
            case None:
                self._given_up += 1
                return Release(lease)
            case _:
                assert_never(verdict)


def _key(task: Task) -> AttemptKey:
    return task.id, task.attempt


def _are_lost(leases: Sequence[Lease]) -> bool:
    return all(lease.lost for lease in leases)


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

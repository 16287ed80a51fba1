"""Turns outcomes into conditional store writes, and what was written into settlements."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.batching import Batcher
from task_queue_engine.actors.messages import (
    Ack,
    Attempt,
    Errored,
    Interrupted,
    Leave,
    Lost,
    MoveToDeadLetters,
    Outcome,
    Progressed,
    Release,
    Settlement,
    Stopped,
    Succeeded,
)
from task_queue_engine.backends.base import TaskStore
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Cancel,
    Complete,
    Fail,
    Fenced,
    Interrupt,
    Progress,
    Recorded,
    RecordVerdict,
    ScheduleRetry,
    ScheduleSnooze,
)
from task_queue_engine.retry import Decision, GiveUp, RetryAt, SnoozeUntil
from task_queue_engine.task import Task, TaskError, TaskStatus

logger = logging.getLogger("task_queue_engine.status_writer")


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


OnRecorded = Callable[[Outcome, TaskStatus], None]


class StatusWriter:
    """The only actor that writes what attempts came to.

    A message is settled only after its status is durable: a batch goes on to the acker when the
    store has answered for it, however long that takes. The leases are kept meanwhile.
    """

    def __init__(
        self,
        *,
        store: TaskStore,
        max_delay: float,
        linger: float,
        retry: BackendRetry,
        outcomes: trio.MemoryReceiveChannel[Outcome],
        settlements: trio.MemorySendChannel[tuple[Settlement, ...]],
        on_recorded: OnRecorded,
    ) -> None:
        self._store = store
        # Longer waits do not ride on the message: the scheduler sends a new one.
        self._max_delay = max_delay
        self._retry = retry
        self._outcomes = outcomes
        self._batches = Batcher(outcomes, size=store.max_batch, linger=linger)
        self._settlements = settlements
        self._on_recorded = on_recorded
        self._recorded = self._fenced = 0
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
        )

    async def run(self) -> None:
        with self._outcomes, self._settlements:
            while batch := await self._batches.next():
                settled = await self._write(batch)
                if settled:
                    await self._settlements.send(settled)

    async def _write(self, batch: Sequence[Outcome]) -> tuple[Settlement, ...]:
        settled: list[Settlement] = [
            Leave(outcome.attempt.lease) for outcome in batch if isinstance(outcome, Lost)
        ]
        outcomes, writes = self._to_writes(batch)
        if not writes:
            return tuple(settled)
        verdicts = await self._retry.call(lambda: self._store.record(writes))
        for outcome, verdict in zip(outcomes, verdicts, strict=True):
            settlement = self._settle(outcome, verdict)
            if settlement is not None:
                settled.append(settlement)
        return tuple(settled)

    def _to_writes(self, batch: Sequence[Outcome]) -> tuple[list[Outcome], list[AttemptWrite]]:
        outcomes: list[Outcome] = []
        writes: list[AttemptWrite] = []
        latest_progress: dict[Attempt, int] = {}
        for outcome in batch:
            write = self._to_write(outcome)
            if write is None:
                continue
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

    def _to_write(self, outcome: Outcome) -> AttemptWrite | None:
        task_id, attempt = outcome.attempt.task.id, outcome.attempt.task.attempt
        match outcome:
            case Succeeded(_, result):
                return Complete(task_id=task_id, attempt=attempt, result=result)
            case Errored(_, error, decision):
                return self._write_error(task_id, attempt, error, decision)
            case Interrupted():
                return Interrupt(task_id=task_id, attempt=attempt)
            case Stopped(_, error):
                return Cancel(task_id=task_id, attempt=attempt, error=error)
            case Progressed(_, value):
                return Progress(task_id=task_id, attempt=attempt, value=value)
            case Lost():
                self._fenced += 1
                return None
            case _:
                assert_never(outcome)

    def _settle(self, outcome: Outcome, verdict: RecordVerdict) -> Settlement | None:
        lease = outcome.attempt.lease
        match verdict:
            case Recorded(status):
                self._recorded += 1
                self._on_recorded(outcome, status)
            case Fenced():
                self._fenced += 1
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

    def _write_error(
        self, task_id: str, attempt: int, error: TaskError, decision: Decision
    ) -> AttemptWrite:
        match decision:
            case RetryAt(run_at, delay):
                return ScheduleRetry(
                    task_id=task_id,
                    attempt=attempt,
                    error=error,
                    run_at=run_at,
                    scheduled=delay > self._max_delay,
                )
            case SnoozeUntil(run_at, delay):
                return ScheduleSnooze(
                    task_id=task_id,
                    attempt=attempt,
                    run_at=run_at,
                    scheduled=delay > self._max_delay,
                )
            case GiveUp():
                return Fail(task_id=task_id, attempt=attempt, error=error)
            case _:
                assert_never(decision)

    def _settle_error(self, attempt: Attempt, error: TaskError, decision: Decision) -> Settlement:
        lease = attempt.lease
        _log_error(attempt.task, error, decision)
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


def _log_error(task: Task, error: TaskError, decision: Decision) -> None:
    about = {"task_id": task.id, "task_type": task.type}
    why = error.in_one_line()
    match decision:
        case GiveUp(reason):
            logger.warning(
                "%s task %s FAILED (%s): %s", task.type, task.id, reason, why, extra=about
            )
        case RetryAt(_, delay):
            logger.info(
                "%s task %s: attempt failed (%d of %d), next in %.1f s: %s",
                task.type,
                task.id,
                task.retry_count + 1,
                task.max_attempts,
                delay,
                why,
                extra=about,
            )
        case SnoozeUntil(_, delay):
            logger.debug("%s task %s: snoozed for %.1f s", task.type, task.id, delay, extra=about)
        case _:
            assert_never(decision)

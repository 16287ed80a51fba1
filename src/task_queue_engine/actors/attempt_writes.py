"""What an outcome is for the store, and what goes into the history with it."""

from __future__ import annotations

from typing import assert_never

from task_queue_engine._version import __version__
from task_queue_engine.actors.messages import (
    Attempt,
    Errored,
    Interrupted,
    Lost,
    Outcome,
    Progressed,
    Stopped,
    Succeeded,
)
from task_queue_engine.attempt_record import AttemptOutcome, AttemptRecord
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Cancel,
    Complete,
    Fail,
    Interrupt,
    LoseLease,
    Progress,
    ScheduleRetry,
    ScheduleSnooze,
)
from task_queue_engine.retry import GiveUp, RetryAt, SnoozeUntil
from task_queue_engine.trace_context import TraceContext, after_attempt


def to_write(outcome: Outcome, *, max_delay: float) -> AttemptWrite:
    """
    Args:
        max_delay: seconds; a longer wait does not ride on the message, the scheduler sends a new
            one.
    """
    attempt = outcome.attempt
    task_id, number = attempt.task.id, attempt.task.attempt
    match outcome:
        case Succeeded(_, result):
            if attempt.log is None:
                return Complete(task_id=task_id, attempt=number, result=result)
            record = record_of(attempt)
            return Complete(task_id=task_id, attempt=number, result=result, record=record)
        case Progressed(_, value):
            return Progress(task_id=task_id, attempt=number, value=value)
        case Errored():
            return _of_error(outcome, max_delay)
        case Interrupted():
            return Interrupt(
                task_id=task_id,
                attempt=number,
                record=record_of(attempt),
                trace_context=_traced(attempt),
            )
        case Stopped(_, error):
            return Cancel(
                task_id=task_id,
                attempt=number,
                error=error,
                record=_if_logged(attempt),
                trace_context=_traced(attempt),
            )
        case Lost():
            return LoseLease(task_id=task_id, attempt=number, record=record_of(attempt))
        case _:
            assert_never(outcome)


def _of_error(outcome: Errored, max_delay: float) -> AttemptWrite:
    attempt, error = outcome.attempt, outcome.error
    task_id, number = attempt.task.id, attempt.task.attempt
    match outcome.decision:
        case GiveUp():
            return Fail(
                task_id=task_id,
                attempt=number,
                error=error,
                record=_if_logged(attempt),
                trace_context=_traced(attempt),
            )
        case RetryAt(run_at, delay):
            return ScheduleRetry(
                task_id=task_id,
                attempt=number,
                error=error,
                run_at=run_at,
                scheduled=delay > max_delay,
                record=record_of(attempt),
                trace_context=_traced(attempt),
            )
        case SnoozeUntil(run_at, delay):
            return ScheduleSnooze(
                task_id=task_id,
                attempt=number,
                run_at=run_at,
                scheduled=delay > max_delay,
                record=record_of(attempt),
                trace_context=_traced(attempt),
            )
        case _:
            assert_never(outcome.decision)


def _traced(attempt: Attempt) -> TraceContext | None:
    """For the attempt after this one, which links to it."""
    span = attempt.span
    return None if span is None else after_attempt(attempt.task.trace_context, span.context)


def _if_logged(attempt: Attempt) -> AttemptRecord | None:
    """Where the task has come to its end, its row says all but that."""
    return None if attempt.log is None else record_of(attempt)


def record_of(attempt: Attempt) -> AttemptRecord | None:
    """The attempt as this worker knows it, still running."""
    task, log = attempt.task, attempt.log
    if task.started_at is None:
        return None
    logs = () if log is None else log.kept()
    return AttemptRecord(
        number=task.attempt,
        outcome=AttemptOutcome.RUNNING,
        worker=task.worker,
        version=__version__,
        started_at=task.started_at,
        progress=attempt.progress,
        logs=logs,
        logs_omitted=0 if log is None else log.seen - len(logs),
    )

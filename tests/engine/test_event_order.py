"""A state never goes back, from wherever it is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from task_queue_engine.engine.event_order import Seen
from task_queue_engine.task import TaskStatus
from task_queue_engine.task_events import ProgressEvent, StateEvent

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PENDING, PROCESSING, COMPLETED = (
    TaskStatus.PENDING,
    TaskStatus.PROCESSING,
    TaskStatus.COMPLETED,
)
FAILED, CANCELLED = TaskStatus.FAILED, TaskStatus.CANCELLED

State = tuple[TaskStatus, int, int]
"""Status, attempt, and seconds since then."""


def state(status: TaskStatus, attempt: int, at: int, *, cancel: bool = False) -> StateEvent:
    return StateEvent(
        task_id="1",
        type="t",
        queue="q",
        status=status,
        attempt=attempt,
        retry_count=0,
        at=NOW + timedelta(seconds=at),
        cancel_requested=cancel,
    )


def progress(attempt: int) -> ProgressEvent:
    return ProgressEvent(task_id="1", type="t", queue="q", attempt=attempt, at=NOW, progress=1)


@pytest.mark.parametrize(
    ("known", "then", "is_news"),
    [
        ((PENDING, 0, 0), (PROCESSING, 1, 1), True),
        ((PROCESSING, 1, 1), (PENDING, 0, 0), False),
        ((PROCESSING, 1, 1), (PROCESSING, 1, 1), False),
        ((PROCESSING, 1, 1), (PENDING, 1, 2), True),
        ((PENDING, 1, 2), (PROCESSING, 1, 1), False),
        # By a clock that is slow: the end of an attempt comes after its start.
        ((PROCESSING, 1, 5), (COMPLETED, 1, 2), True),
        ((COMPLETED, 1, 2), (PROCESSING, 1, 5), False),
        ((PENDING, 1, 2), (PROCESSING, 2, 1), True),
        ((PROCESSING, 2, 3), (FAILED, 1, 9), False),
        # Rounds: with the same number of attempts either may come first.
        ((FAILED, 3, 4), (PENDING, 3, 5), True),
        ((PENDING, 3, 5), (FAILED, 3, 4), False),
        ((PENDING, 0, 0), (CANCELLED, 0, 1), True),
        ((CANCELLED, 0, 1), (PENDING, 0, 0), False),
        ((CANCELLED, 0, 1), (PENDING, 0, 2), True),
    ],
)
def test_what_comes_after_what(known: State, then: State, is_news: bool) -> None:
    seen = Seen()
    assert seen.is_news(state(*known))
    seen.note(state(*known))
    assert seen.is_news(state(*then)) is is_news
    assert seen.agrees_with(state(*then)) is (is_news or known[:2] == then[:2])


def test_a_cancel_that_was_asked_for_is_news_once() -> None:
    seen = Seen()
    seen.note(state(PROCESSING, 1, 0))
    assert seen.is_news(state(PROCESSING, 1, 1, cancel=True))
    seen.note(state(PROCESSING, 1, 1, cancel=True))
    assert not seen.is_news(state(PROCESSING, 1, 1, cancel=True))


def test_progress_belongs_to_an_attempt_that_runs() -> None:
    seen = Seen()
    assert seen.is_news(progress(1))
    seen.note(state(PROCESSING, 2, 0))
    assert not seen.is_news(progress(1))
    assert seen.is_news(progress(2))
    seen.note(state(COMPLETED, 2, 0))
    assert not seen.is_news(progress(2))

"""The retry policy: what follows which error, and when."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from task_queue_engine import Backoff, Discard, Retry, Snooze, Task
from task_queue_engine.errors import UnknownTaskType
from task_queue_engine.retry import (
    MAX_SECONDS,
    Decision,
    GiveUp,
    RetryAt,
    SnoozeUntil,
    decide,
    to_seconds,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
FIVE = Backoff(base=5, factor=1, jitter=False)
NINE = Backoff(base=9, factor=1, jitter=False)


def after(error: BaseException, *, rules: Any = None, **fields: Any) -> Decision:
    task = Task(id="1", type="t", payload=1, created_at=NOW, updated_at=NOW, **fields)
    return decide(task, error, NOW, backoff=FIVE, rules=rules or {}, rng=random.Random(1))


def at(seconds: float) -> RetryAt:
    return RetryAt(NOW + timedelta(seconds=seconds), seconds)


def test_an_error_is_followed_by_another_attempt() -> None:
    assert after(ValueError()) == at(5)


@pytest.mark.parametrize(
    ("retry_count", "max_attempts", "gives_up"),
    [(0, 1, True), (0, 2, False), (1, 2, True), (2, 4, False), (3, 4, True), (9, 4, True)],
)
def test_until_the_attempts_are_exhausted(
    retry_count: int, max_attempts: int, gives_up: bool
) -> None:
    for error in (ValueError(), Retry(3), Retry()):
        decision = after(error, retry_count=retry_count, max_attempts=max_attempts)
        assert isinstance(decision, GiveUp) is gives_up
        if isinstance(decision, GiveUp):
            assert decision.reason == f"attempts exhausted ({retry_count + 1} of {max_attempts})"


def test_a_handler_may_say_when() -> None:
    assert after(Retry(77)) == at(77)
    assert after(Retry(timedelta(minutes=2))) == at(120)
    assert after(Retry()) == at(5)
    assert after(Snooze(77)) == SnoozeUntil(NOW + timedelta(seconds=77), 77)


def test_a_snooze_is_granted_at_the_last_attempt_too() -> None:
    assert isinstance(after(Snooze(1), retry_count=9, max_attempts=1), SnoozeUntil)


def test_a_discard_gives_up_at_once() -> None:
    assert after(Discard("no use"), max_attempts=10) == GiveUp("discarded by its handler")


def test_rules_for_errors_and_the_most_specific_wins() -> None:
    rules = {OSError: NINE, ConnectionError: None, Exception: Backoff(base=1, jitter=False)}
    assert after(FileNotFoundError(), rules=rules) == at(9)
    assert after(ConnectionResetError(), rules=rules) == GiveUp(
        "ConnectionResetError is not retried"
    )
    assert after(ValueError(), rules=rules) == at(1)


def test_a_rule_for_all_errors_does_not_overrule_what_the_handler_asks_for() -> None:
    never: dict[type[BaseException], Backoff | None] = {Exception: None}
    assert after(Retry(7), rules=never) == at(7)
    assert after(Retry(), rules=never) == at(5)
    assert isinstance(after(Snooze(7), rules=never), SnoozeUntil)
    assert isinstance(after(ValueError(), rules=never), GiveUp)


def test_a_rule_for_retry_itself_holds() -> None:
    assert after(Retry(), rules={Retry: NINE}) == at(9)
    assert isinstance(after(Retry(), rules={Retry: None}), GiveUp)


def test_an_unknown_type_is_tried_again() -> None:
    assert after(UnknownTaskType("t", ())) == at(5)


# --- backoff --------------------------------------------------------------------------------


def test_without_jitter_it_doubles_to_its_cap() -> None:
    backoff = Backoff(base=1, factor=2, cap=10, jitter=False)
    assert [backoff.delay(n, random.Random()) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_jitter_draws_from_the_whole_range() -> None:
    rng = random.Random(1)
    draws = [Backoff(base=10, jitter=True).delay(1, rng) for _ in range(1000)]
    assert 0 <= min(draws) < 1
    assert 9 < max(draws) <= 10
    assert 4.5 < sum(draws) / 1000 < 5.5


amounts = st.floats(0, MAX_SECONDS)


@given(
    base=amounts,
    factor=st.floats(1, 1e6),
    cap=amounts,
    failures=st.integers(1, 1000),
    jitter=st.booleans(),
    seed=st.integers(),
)
def test_a_wait_is_within_its_bounds_and_fits_a_calendar(
    base: float, factor: float, cap: float, failures: int, jitter: bool, seed: int
) -> None:
    backoff = Backoff(base=base, factor=factor, cap=cap, jitter=jitter)
    delay = backoff.delay(failures, random.Random(seed))
    assert 0 <= delay <= cap
    assert NOW + timedelta(seconds=delay)
    if base == 0:
        assert delay == 0
    if not jitter:
        assert delay <= backoff.delay(failures + 1, random.Random(seed))


def test_no_wait_stays_none_after_any_number_of_failures() -> None:
    assert Backoff(base=0, factor=1e6, jitter=False).delay(1000, random.Random()) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"base": -1},
        {"cap": -1},
        {"factor": 0.5},
        {"base": math.nan},
        {"factor": math.nan},
        {"cap": math.nan},
        {"cap": math.inf},
        {"base": math.inf},
        {"factor": math.inf},
        {"cap": MAX_SECONDS * 2},
        {"base": "1"},
        {"base": True},
        {"cap": None},
        {"cap": 10**5000},
        {"factor": 10**400},
        {"factor": timedelta(1)},
        {"jitter": "no"},
    ],
)
def test_a_backoff_that_makes_no_sense_is_refused_where_it_is_written(
    wrong: dict[str, float],
) -> None:
    with pytest.raises(ValueError, match="Backoff"):
        Backoff(**wrong)


# --- seconds --------------------------------------------------------------------------------


def test_seconds_or_a_timedelta() -> None:
    assert to_seconds(5, name="x") == 5.0
    assert to_seconds(timedelta(minutes=1), name="x") == 60.0


@pytest.mark.parametrize(
    "value",
    [-1, math.nan, math.inf, MAX_SECONDS * 2, timedelta(-1), "5", True, 10**400, 10**5000, [1]],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_duration_is_refused_by_name(value: Any) -> None:
    for refuses in (
        lambda: to_seconds(value, name="the wait"),
        lambda: Retry(value),
        lambda: Snooze(value),
    ):
        with pytest.raises(ValueError, match=r"the wait|Retry\.delay|Snooze\.delay"):
            refuses()


def test_each_says_why() -> None:
    assert str(Retry(1, "the server is busy")) == "the server is busy"
    assert str(Snooze(1, "not yet")) == "not yet"
    assert str(Discard("gone")) == "gone"
    for error in (Retry(), Snooze(1), Discard()):
        assert str(error)

"""The retry policy: what follows which error, and when."""

from __future__ import annotations

import errno
import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from task_queue_engine import Backoff, Discard, Retry, Settings, Snooze, Task, TaskRegistry
from task_queue_engine.errors import (
    ResultNotStorable,
    UnknownTaskType,
    WorkerProcessDied,
    WrongAsyncLibrary,
)
from task_queue_engine.handlers import registry as handlers
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


@pytest.mark.parametrize("error", [ResultNotStorable("result: too large"), WrongAsyncLibrary()])
def test_what_can_never_succeed_is_not_tried_again(error: Exception) -> None:
    """Its side effects have happened, and would again. Only a rule for just that overrules it."""
    decision = after(error, rules={Exception: NINE}, max_attempts=5)
    assert decision == GiveUp(f"no attempt can succeed: {type(error).__name__}")
    assert after(error, rules={type(error): NINE}, max_attempts=5) == at(9)


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


def test_jitter_takes_off_up_to_a_quarter() -> None:
    rng = random.Random(1)
    draws = [Backoff(base=100, jitter=True).delay(1, rng) for _ in range(1000)]
    assert 75 <= min(draws) < 77
    assert 98 < max(draws) <= 100
    assert 86 < sum(draws) / 1000 < 89


class _Luck(random.Random):
    """Always draws the lowest, or the highest."""

    def __init__(self, drawn: float) -> None:
        self._drawn = drawn
        super().__init__()

    def random(self) -> float:
        return self._drawn


def _waits(attempts: int, luck: float) -> list[float]:
    """Between the attempts of a type that says nothing about its waits."""
    tasks = TaskRegistry()

    @tasks.task("plain")
    async def plain(payload: object) -> None: ...

    backoff = tasks.get("plain").backoff
    return [backoff.delay(n, _Luck(luck)) for n in range(1, attempts)]


def test_the_defaults_ride_out_ten_minutes_with_the_first_retry_soon() -> None:
    attempts = Settings.model_fields["max_attempts"].default
    assert sum(_waits(attempts, luck=0.0)) >= 600
    assert _waits(attempts, luck=1.0)[0] <= 20


def test_the_defaults_ride_on_the_message() -> None:
    """On SQS a longer one is a write and a look more."""
    assert max(_waits(3, luck=1.0)) <= 900


def test_35_attempts_ride_out_a_day() -> None:
    assert sum(_waits(35, luck=0.0)) >= 86_400
    assert max(_waits(35, luck=1.0)) <= 3600


def test_mail_rides_out_ten_minutes_too() -> None:
    email = handlers.get("email")
    assert email.max_attempts is not None
    waits = [email.backoff.delay(n, _Luck(0.0)) for n in range(1, email.max_attempts)]
    assert sum(waits) >= 600


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


# --- a process that is short of something -------------------------------------------------------


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


EMFILE = OSError(errno.EMFILE, "Too many open files")
FORK = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.mark.parametrize(
    "error",
    [
        EMFILE,
        OSError(errno.ENFILE, "Too many open files in system"),
        caused(ConnectionError("cannot connect"), EMFILE),
        # trio, for several addresses
        caused(OSError("all attempts failed"), ExceptionGroup("each", [OSError(111, ""), EMFILE])),
        caused(WorkerProcessDied("no worker process could be started"), FORK),
        RuntimeError("can't start new thread"),
    ],
    ids=repr,
)
def test_a_process_that_is_short_of_something_costs_no_attempt(error: BaseException) -> None:
    decision = after(error, max_attempts=1, rules={OSError: None})
    assert isinstance(decision, SnoozeUntil)
    assert 0 < decision.delay < 60


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        FORK,  # a handler's socket, for one, has nothing to read
        WorkerProcessDied("killed"),
        RuntimeError("thread"),
    ],
    ids=repr,
)
def test_what_is_the_handler_s_own_counts(error: BaseException) -> None:
    error.__context__ = error  # chains may go round
    assert isinstance(after(error, max_attempts=1), GiveUp)

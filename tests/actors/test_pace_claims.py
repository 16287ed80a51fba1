"""How much may wait in a process."""

from __future__ import annotations

import pytest

from task_queue_engine.actors.pace import LONGEST_HORIZON, LONGEST_SHORT, Pace


def told(*, claims: float, attempts: float, times: int = 100) -> Pace:
    """Told of so many claims and attempts, each of so many seconds."""
    pace = Pace(workers=5, fixed=None)
    for _ in range(times):
        pace.note_claim(claims)
        pace.note("t", attempts)
    return pace


@pytest.mark.parametrize(("claims", "attempts"), [(0.001, 0.009), (0.008, 0.05), (0.02, 0.09)])
def test_what_its_worker_would_wait_for_is_claimed_ahead(claims: float, attempts: float) -> None:
    assert "t" in told(claims=claims, attempts=attempts).short_types


@pytest.mark.parametrize(("claims", "attempts"), [(0.001, 0.02), (0.008, 0.1)])
def test_what_takes_long_beside_its_claim_is_not(claims: float, attempts: float) -> None:
    assert not told(claims=claims, attempts=attempts).short_types


def test_a_claim_that_waited_for_its_backend_makes_nothing_be_hoarded() -> None:
    pace = told(claims=60.0, attempts=2 * LONGEST_SHORT)
    assert not pace.short_types
    assert pace.ahead <= 5 * LONGEST_HORIZON / (2 * LONGEST_SHORT) * 1.01


def test_one_slow_claim_is_forgotten() -> None:
    pace = told(claims=0.001, attempts=0.05)
    before = pace.ahead
    pace.note_claim(60.0)
    for _ in range(20):
        pace.note_claim(0.001)
    pace.note("t", 0.05)
    assert pace.ahead == before
    assert not pace.short_types


def test_as_many_wait_as_are_worked_off_while_more_is_fetched() -> None:
    near, far = told(claims=0.001, attempts=0.005), told(claims=0.02, attempts=0.005)
    # In seconds of work for five workers: 0.05, and a receive and a claim four times over.
    assert near.ahead == pytest.approx(50, abs=1)
    assert far.ahead == pytest.approx(160, abs=1)

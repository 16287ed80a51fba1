"""How many tasks the sweep keeps up with, by how many processes ask for its turn."""

from __future__ import annotations

import pytest
from benchmarks.capacity.sweep_turns import tasks_per_second

from task_queue_engine.backends.aws.dynamodb import sweep

PIECE = 1.5


def test_one_process_rests_for_three_seconds_between_two_pieces() -> None:
    assert tasks_per_second(1, PIECE) == pytest.approx(sweep._PIECE / (3.0 + PIECE), rel=0.02)


def test_more_processes_are_at_most_as_fast_as_the_turn_is_passed_on() -> None:
    rates = [tasks_per_second(number, PIECE) for number in (1, 30, 1_000)]
    assert rates == sorted(rates)
    assert rates[-1] <= sweep._PIECE / (sweep._PAUSE.total_seconds() + PIECE)

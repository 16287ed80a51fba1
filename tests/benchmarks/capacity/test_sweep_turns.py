"""How many tasks the sweep keeps up with, by how many processes ask for its turns."""

from __future__ import annotations

import pytest
from benchmarks.capacity.sweep_turns import page_seconds, tasks_per_second

from task_queue_engine.backends.aws.dynamodb import schema, sweep

PAGE = 0.04


def test_one_process_rests_for_three_seconds_between_two_turns() -> None:
    at_work = sweep._TURN / (sweep._TURN + 3.0)
    assert tasks_per_second(1, PAGE) == pytest.approx(at_work * sweep._PAGE / PAGE / 2, rel=0.02)


def test_more_processes_are_at_most_as_fast_as_there_are_shards() -> None:
    rates = [tasks_per_second(number, PAGE) for number in (1, 5, 30, 1_000)]
    assert rates == sorted(rates)
    assert rates[-1] <= schema.STATUS_SHARDS * sweep._PAGE / PAGE / 2 * 1.01


@pytest.mark.parametrize("interval", [5.0, 10.0, 30.0, 60.0])
def test_some_processes_keep_up_with_more_than_a_table_takes(interval: float) -> None:
    """Twice what the keys of `status-index` take, at any interval."""
    assert tasks_per_second(6, PAGE, interval=interval) > 20_000


def test_a_slow_machine_is_slower_than_the_pace() -> None:
    fast, slow = (
        page_seconds(cpu_us_per_entry=cpu, request_seconds=0.008) for cpu in (20.0, 200.0)
    )
    assert fast == sweep._PAGE / sweep._PACE
    assert slow == pytest.approx(0.116)

"""How many slots an autoscaler is told to want."""

from __future__ import annotations

from typing import Any

import pytest

from task_queue_engine.backends.base import QueueDepth
from task_queue_engine.engine.metrics import scale
from task_queue_engine.measures import Rates


def wanted(*, due: int = 0, in_flight: int = 0, arriving: float = 0.0, each: float | None) -> int:
    depth = QueueDepth(waiting=due + 7, delayed=7, in_flight=in_flight, dead=0)
    rates = Rates(arriving=arriving, ending=0.0, seconds_per_task=each)
    return scale("default", depth, rates, worker_count=5).wanted_slots


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        (0, {"each": None}),
        (0, {"each": 1.0}),
        pytest.param(1, {"due": 1, "each": 0.01}, id="one task needs one slot"),
        pytest.param(10, {"due": 600, "each": 1.0}, id="600 seconds of work in a minute"),
        pytest.param(2, {"arriving": 100.0, "each": 0.02}, id="two seconds of work a second"),
        pytest.param(12, {"due": 6000, "arriving": 100.0, "each": 0.06}, id="both"),
        pytest.param(5, {"in_flight": 5, "each": 600.0}, id="what runs for long keeps its slot"),
        pytest.param(11, {"in_flight": 5, "arriving": 0.1, "each": 600.0}, id="and what comes"),
        pytest.param(1, {"in_flight": 500, "each": 0.01}, id="claimed ahead is not running"),
        pytest.param(5, {"due": 1000, "each": None}, id="from nothing: one process's worth"),
        pytest.param(2, {"due": 2, "each": None}, id="or less, where less waits"),
        pytest.param(12, {"in_flight": 7, "due": 9, "each": None}, id="all are long: one more"),
        pytest.param(7, {"in_flight": 7, "each": None}, id="all are long, and none waits"),
    ],
)
def test_wanted_slots(expected: int, given: dict[str, Any]) -> None:
    assert wanted(**given) == expected

"""How much may wait in this process: as much as is worked off within a moment."""

from __future__ import annotations

import pytest

from task_queue_engine.actors.demand import Demand
from task_queue_engine.actors.messages import WorkerFree
from task_queue_engine.actors.pace import HORIZON, MOST, SHORT, Pace
from task_queue_engine.backends.base import TakePlan
from task_queue_engine.task_actions import ACTION_TYPE

# --- the pace -------------------------------------------------------------------------------


def auto(workers: int = 5) -> Pace:
    return Pace(workers=workers, fixed=None)


def test_before_anything_has_run_nothing_waits() -> None:
    pace = auto()
    assert (pace.ahead, pace.short_types) == (0, frozenset())


@pytest.mark.parametrize(("seconds", "ahead"), [(0.0, MOST), (1e-5, MOST), (0.005, 50), (0.01, 25)])
def test_as_much_as_is_worked_off_within_the_horizon(seconds: float, ahead: int) -> None:
    pace = auto()
    for _ in range(100):
        pace.note("t", seconds)
    assert pace.ahead == pytest.approx(ahead, abs=1)
    assert pace.short_types == {"t"}


@pytest.mark.parametrize("seconds", [HORIZON * 6, 1.0, 3600.0])
def test_where_attempts_take_long_nothing_waits(seconds: float) -> None:
    pace = auto()
    pace.note("t", seconds)
    assert (pace.ahead, pace.short_types) == (0, frozenset())


def test_a_type_that_turns_slow_is_noticed_at_once_and_forgotten_after_a_while() -> None:
    pace = auto()
    for _ in range(100):
        pace.note("t", 0.001)
    pace.note("t", 10.0)
    assert (pace.ahead, pace.short_types) == (0, frozenset())
    for _ in range(200):
        pace.note("t", 0.001)
    assert pace.short_types == {"t"}
    assert pace.ahead > 100


def test_an_action_on_many_tasks_is_never_short() -> None:
    """The next one may take an hour."""
    pace = auto()
    for _ in range(100):
        pace.note(ACTION_TYPE, 0.001)
    assert pace.short_types == frozenset()
    assert pace.ahead > 100, "its slot is free as soon as any other"


def test_types_are_told_apart() -> None:
    pace = auto()
    for _ in range(50):
        pace.note("short", 0.0001)
        pace.note("slow", 0.03)
    assert pace.short_types == {"short"}
    assert 0 < pace.ahead < 30, "in the mean of what runs here"


def test_a_fixed_number_is_kept_whatever_attempts_take() -> None:
    pace = Pace(workers=5, fixed=7)
    assert pace.ahead == 7
    pace.note("t", 3600)
    assert (pace.ahead, pace.short_types) == (7, frozenset())
    assert Pace(workers=5, fixed=0).ahead == 0


@pytest.mark.parametrize("fixed", [None, 7])
async def test_after_a_stall_nothing_waits_until_a_worker_has_come_free(fixed: int | None) -> None:
    pace = Pace(workers=5, fixed=fixed)
    pace.note("t", SHORT / 10)
    assert pace.ahead
    pace.stall()
    assert pace.ahead == 0
    pace.note("t", SHORT / 10)
    assert pace.ahead


# --- what is asked of the poller ------------------------------------------------------------


def demanding(workers: int = 2, fixed: int | None = 10) -> Demand:
    return Demand(worker_name="here", pace=Pace(workers=workers, fixed=fixed))


def plan_of(demand: Demand, *, waiting: int = 0) -> TakePlan | None:
    news = demand.news(waiting=waiting, types={"t": "trio"}, places={})
    return None if news is None else news.plan


async def test_free_workers_are_asked_for_and_told_once() -> None:
    demand = demanding(fixed=0)
    assert plan_of(demand) == TakePlan(worker="here", free=0, types={"t": "trio"})
    demand.worker_is_free(WorkerFree())
    demand.worker_is_free(WorkerFree())
    plan = plan_of(demand)
    assert plan is not None
    assert (plan.free, plan.ahead) == (2, 0)
    assert plan_of(demand) is None
    demand.handed_over()
    plan = plan_of(demand)
    assert plan is not None
    assert plan.free == 1


async def test_what_waits_takes_places_first_of_workers_then_ahead() -> None:
    demand = demanding()
    demand.worker_is_free(WorkerFree())
    for waiting, free, ahead in [(0, 1, 10), (1, 0, 10), (4, 0, 7)]:
        plan = plan_of(demand, waiting=waiting)
        assert plan is not None
        assert (plan.free, plan.ahead) == (free, ahead)


async def test_with_no_worker_free_more_is_asked_for_by_halves() -> None:
    """A commit for each few would cost more than it brings."""
    demand = demanding()
    for _ in range(4):
        demand.handed_over()
    assert demand.waiting_ahead == 4
    plan = plan_of(demand)
    assert plan is not None
    assert plan.ahead == 6
    demand.handed_over()
    demand.handed_over()
    plan = plan_of(demand)
    assert plan is not None
    assert plan.ahead == 0


async def test_while_it_is_paused_nothing_is_asked_for() -> None:
    demand = demanding()
    demand.worker_is_free(WorkerFree())
    demand.is_paused = True
    assert (demand.free_workers, demand.ahead) == (0, 0)
    plan = plan_of(demand)
    assert plan is not None
    assert plan.most == 0
    demand.is_paused = False
    assert demand.free_workers == 1


async def test_what_was_taken_back_has_no_worker_to_wait_for() -> None:
    demand = demanding()
    for _ in range(3):
        demand.handed_over()
    demand.taken_back(3)
    assert (demand.waiting_ahead, demand.ahead) == (0, 0)
    demand.worker_is_free(WorkerFree("t", 0.001))
    assert (demand.free_workers, demand.ahead) == (1, 10)


async def test_a_worker_that_takes_what_waits_ahead_is_not_free() -> None:
    demand = demanding()
    demand.handed_over()
    demand.worker_is_free(WorkerFree("t", 0.001))
    assert (demand.free_workers, demand.waiting_ahead) == (0, 0)

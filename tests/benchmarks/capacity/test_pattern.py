"""The write pattern is the engine's: it asks for as many units as were counted on real servers."""

from __future__ import annotations

import random

import pytest
from benchmarks.capacity.pattern import BEGIN as NOON
from benchmarks.capacity.pattern import (
    CANCELLED,
    ONCE,
    RETRIED,
    SCHEDULED,
    SHAPES,
    TABLE,
    WAITS,
    Shape,
    task_id_at,
)

from benchmarks.capacity import inputs
from task_queue_engine.task import is_task_id


def touched(shape: Shape) -> list[tuple[str, str, str]]:
    """Step, store and group of keys, as they come."""
    steps = shape.steps(created=0.0, rng=random.Random(1))
    return [
        (step.name, touch.store, touch.partition_key.partition("#")[0])
        for step in steps
        for touch in step.touches
        if touch.store != TABLE
    ]


@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape.measured], ids=lambda shape: shape.name
)
def test_a_task_takes_the_units_that_were_measured(shape: Shape) -> None:
    measured = inputs.read().shapes[shape.measured or ""].write_units
    steps = shape.steps(created=0.0, rng=random.Random(1))
    reckoned = sum(touch.units for step in steps for touch in step.touches)
    # What a run writes besides its tasks (counters, turns) is in the measured figure.
    assert reckoned == pytest.approx(measured, abs=0.2)
    assert reckoned <= measured


def test_a_task_that_runs_once_touches_its_index_once() -> None:
    assert touched(ONCE) == [("create", "status-index", "ROUTINE")]


def test_a_retried_task_leaves_its_place_and_comes_back() -> None:
    assert touched(RETRIED) == [
        ("create", "status-index", "ROUTINE"),
        ("retry", "status-index", "ROUTINE"),
        ("retry", "status-index", "OPEN"),
        ("complete", "status-index", "OPEN"),
        ("complete", "status-index", "ROUTINE"),
    ]


def test_a_waiting_task_is_moved_by_the_sweep() -> None:
    assert [step for step, *_ in touched(WAITS)] == ["create", "sweep", "sweep"] + ["complete"] * 2


def test_a_scheduled_task_has_its_due_mark_put_moved_and_cleared() -> None:
    due = [step for step, store, _ in touched(SCHEDULED) if store == "due-index"]
    assert due == ["create", "take due", "take due", "clear due"]


def test_a_cancelled_task_is_in_the_one_key_of_its_index() -> None:
    assert [step for step, store, _ in touched(CANCELLED) if store == "cancel-index"] == [
        "cancel request",
        "cancelled",
    ]


def test_ids_are_as_the_engine_makes_them_and_the_same_in_every_run() -> None:
    ids = [task_id_at(NOON, random.Random(7)) for _ in range(2)]
    assert ids[0] == ids[1]
    assert is_task_id(ids[0])
    assert ids[0][14] == "7"

"""The simulation throttles where the model says: small sizes, seeded, no clock."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from benchmarks.capacity.inputs import SIMULATED
from benchmarks.capacity.pattern import (
    CANCELLED,
    FAILED,
    ONCE,
    RETRIED,
    SHAPES,
    TABLE,
    Shape,
    Touch,
)
from benchmarks.partition_simulation import Conditions, Tasks, simulate, simulate_counters

from benchmarks import partition_simulation as simulation
from benchmarks.capacity import counter_items, model, quotas
from tests.sizes import size

# A key takes 2 units a second (in full: 4), and saves for five minutes: what chance makes uneven
# evens out.
SMALL = Conditions(scale=size(500, in_full=250), seconds=420)


def hottest(shape: Shape) -> float:
    """Tasks a second."""
    return min(limit.tasks_per_second for limit in model.key_limits(shape))


@pytest.mark.parametrize("shape", [RETRIED, FAILED], ids=lambda shape: shape.name)
def test_a_grown_table_throttles_at_its_hottest_keys_as_the_model_says(shape: Shape) -> None:
    tasks = Tasks(shape, SMALL.seed)
    below = simulate(shape, 0.85 * hottest(shape), SMALL, tasks)
    assert below.holds, below
    short = replace(SMALL, seconds=150, splits=False)
    above = simulate(shape, 1.3 * hottest(shape), short, tasks)
    assert not above.holds
    assert above.hottest == "status-index, keys ROUTINE#"


def test_splitting_parts_keys_but_does_not_help_those_that_only_grow() -> None:
    few = replace(SMALL, scale=size(1_000, in_full=500))
    tasks = Tasks(ONCE, few.seed)
    assert simulate(ONCE, 0.8 * hottest(ONCE), few, tasks).holds
    found = simulate(ONCE, 1.15 * hottest(ONCE), few, tasks)
    assert not found.holds
    assert found.hottest == "status-index, keys ROUTINE#"


def test_one_key_of_the_cancel_index_ends_first_where_all_are_cancelled() -> None:
    assert hottest(CANCELLED) == 500
    found = simulate(CANCELLED, 700, Conditions(scale=100, seconds=120))
    assert not found.holds
    assert found.hottest == "cancel-index, one key"


def test_a_new_table_ends_at_what_a_new_one_takes() -> None:
    quota = quotas.NEW_TABLE_WRITES.value / model.units_by_store(ONCE)[TABLE]
    new = replace(SMALL, scale=100, seconds=60, grown=False, splits=False)
    assert simulate(ONCE, 0.85 * quota, new).holds
    above = simulate(ONCE, 1.2 * quota, new)
    assert not above.holds
    # The quota is what its four partitions take, so either may say so.
    assert above.hottest in ("table, its quota", "table, task ids")


def test_an_index_without_room_holds_up_the_table() -> None:
    stores = simulation.stores_for(1_000, SMALL)
    before = stores[TABLE].partition_of("id", "").bucket.units
    full = stores["status-index"].partition_of("ROUTINE#0", "x").bucket
    full.units = 0
    touches = [Touch(TABLE, "id", "", 1), Touch("status-index", "ROUTINE#0", "x", 1)]
    assert not simulation.carry_out(stores, touches)
    assert stores[TABLE].partition_of("id", "").bucket.units == before


@pytest.mark.parametrize("kind", counter_items.KINDS)
def test_counter_items_are_hot_where_the_model_says(kind: str) -> None:
    most = counter_items.most_processes(quotas.PARTITION_WRITES.value, kind)
    short = Conditions(seconds=10)
    # The names of processes are not spread evenly over four items, and two of these may lie in one
    # partition until it is split.
    assert simulate_counters(int(0.45 * most), kind, short).holds
    above = simulate_counters(int(1.3 * most), kind, short)
    assert not above.holds
    assert above.hottest == "table, keys @counts#"


def test_the_same_seed_gives_the_same_answer() -> None:
    short = replace(SMALL, scale=1_000, seconds=60)
    assert simulate(ONCE, 12_000, short) == simulate(ONCE, 12_000, short)


def test_what_is_stored_is_of_the_keys_that_the_engine_has() -> None:
    """Else: python -m benchmarks.partition_simulation \
--json benchmarks/results/partition_simulation.json"""
    stored = json.loads(SIMULATED.read_text(encoding="utf-8"))
    assert stored["shards"] == simulation.shards()
    assert list(stored["tasks"]) == [shape.name for shape in SHAPES]
    for name, shape in ((shape.name, shape) for shape in (ONCE, RETRIED, FAILED, CANCELLED)):
        assert stored["tasks"][name]["split for heat"]["rate"] >= 0.95 * hottest(shape)


def test_the_model_agrees_with_what_is_stored_for_keys_that_only_grow() -> None:
    stored = json.loads(SIMULATED.read_text(encoding="utf-8"))["tasks"]
    found = stored[ONCE.name]["split for heat"]["rate"]
    assert found == pytest.approx(hottest(ONCE), rel=0.05)

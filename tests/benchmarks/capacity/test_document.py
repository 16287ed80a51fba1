"""docs/scaling.md says what the program says."""

from __future__ import annotations

import pytest
from benchmarks.capacity.pattern import ONCE
from benchmarks.capacity.report import DOCUMENT, TABLES, Known, written

from benchmarks.capacity import model


@pytest.fixture(scope="module")
def known() -> Known:
    return Known.read()


def test_the_tables_of_the_document_are_those_of_the_program(known: Known) -> None:
    """Else: python -m benchmarks.capacity --write"""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert written(text, known) == text


def test_a_table_that_is_missing_is_named(known: Known) -> None:
    text = DOCUMENT.read_text(encoding="utf-8").replace("<!-- table: rates -->", "")
    with pytest.raises(ValueError, match="rates"):
        written(text, known)


def test_every_table_has_a_row_and_even_columns(known: Known) -> None:
    for name, table in TABLES.items():
        lines = table(known).splitlines()
        assert len(lines) > 2, name
        assert len({line.count(" | ") for line in (lines[0], *lines[2:])}) == 1, name


# --- the model --------------------------------------------------------------------------------


def test_a_task_costs_the_same_at_any_rate_but_a_low_one(known: Known) -> None:
    low, _, high, highest = (model.plan(rate, known.inputs) for rate in model.RATES)
    assert highest.dollars_a_million == pytest.approx(high.dollars_a_million, rel=0.05)
    assert low.dollars_a_million > high.dollars_a_million


def test_tables_are_planned_below_what_ends_first(known: Known) -> None:
    plan = model.plan(1_000_000, known.inputs)
    fixed = [limit for limit in model.limits(ONCE, known.inputs) if limit.remedy == "more shards"]
    assert plan.rate / plan.tables < min(limit.tasks_per_second for limit in fixed)


def test_requests_shrink_with_the_load_to_what_was_measured(known: Known) -> None:
    alone, busy = (model.sqs_requests(rate, known.inputs) for rate in (1, 5_000))
    assert alone == 3
    assert busy == known.inputs.shapes["100 B"].sqs_requests


def test_a_slow_disk_ends_one_worker_sooner_than_many(known: Known) -> None:
    few, many = (model.file_rate(known.inputs, name, 0.010) for name in ("as it comes", "tuned"))
    assert many > 5 * few


def test_more_processes_help_until_the_one_writer_is_spent(known: Known) -> None:
    one, two, ten = (
        model.file_rate(known.inputs, "tuned", 0.0, processes=number) for number in (1, 2, 10)
    )
    writer = known.inputs.files["tuned"].writer_cpu_us
    assert one < two <= ten == pytest.approx(1e6 / writer)

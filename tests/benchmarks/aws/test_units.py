"""The reckoning of `benchmarks.aws.cost`, on cases worked out by hand from AWS's rules."""

from __future__ import annotations

from itertools import pairwise

import pytest
from benchmarks.aws.cost import units
from benchmarks.aws.cost.units import Index
from benchmarks.aws.cost.written import Change, bill


def sized(size: int, **attributes: str) -> dict[str, dict[str, str]]:
    """An item of exactly so many bytes: these attributes, and one called "x" that fills it up."""
    item = {name: {"S": value} for name, value in attributes.items()}
    return item | {"x": {"S": "x" * (size - units.item_size(item) - 1)}}


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ({"S": ""}, 0),
        ({"S": "abc"}, 3),
        ({"S": "ü€"}, 5),
        ({"N": "0"}, 1),
        ({"N": "5"}, 2),
        ({"N": "-5"}, 3),
        ({"N": "12"}, 2),
        ({"N": "123"}, 3),
        ({"N": "1200"}, 2),  # trailing zeroes are trimmed
        ({"N": "0.0012"}, 2),  # leading ones too
        ({"N": "1.5E+10"}, 2),
        ({"BOOL": False}, 1),
        ({"NULL": True}, 1),
        ({"B": "AAEC"}, 3),  # base64, as it comes over the wire
        ({"B": b"\0\1\2"}, 3),
        ({"SS": ["a", "bc"]}, 3),
        ({"NS": ["1", "12"]}, 4),
        ({"L": []}, 3),
        ({"L": [{"S": "ab"}, {"BOOL": True}]}, 3 + (1 + 2) + (1 + 1)),
        ({"M": {}}, 3),
        ({"M": {"key": {"S": "ab"}}}, 3 + (1 + 3 + 2)),
    ],
)
def test_sizes_of_values(value: dict[str, object], size: int) -> None:
    assert units.value_size(value) == size


def test_names_count_too() -> None:
    assert units.item_size({"id": {"S": "a1"}, "naïve": {"N": "7"}}) == (2 + 2) + (6 + 2)


@pytest.mark.parametrize(("size", "found"), [(0, 1), (1, 1), (1024, 1), (1025, 2), (2048, 2)])
def test_write_units(size: int, found: int) -> None:
    assert units.write_units(size) == found


@pytest.mark.parametrize(
    ("size", "strong", "eventual"), [(0, 1, 0.5), (4096, 1, 0.5), (4097, 2, 1), (12_288, 3, 1.5)]
)
def test_read_units(size: int, strong: float, eventual: float) -> None:
    assert units.read_units(size, consistent=True) == strong
    assert units.read_units(size, consistent=False) == eventual


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [(None, 1000, 1), (None, 1500, 2), (1500, 500, 2), (500, 2500, 3), (3000, None, 3)],
)
def test_the_larger_of_before_and_after_counts(
    old: int | None, new: int | None, found: int
) -> None:
    before = None if old is None else sized(old)
    after = None if new is None else sized(new)
    assert units.table_write(before, after) == found


def test_a_refused_write_costs_what_stood_in_its_way() -> None:
    assert units.refused_write(sized(1500)) == 2
    assert units.refused_write(None) == 1


@pytest.mark.parametrize(("payload", "found"), [(0, 1), (65_536, 1), (65_537, 2), (262_144, 4)])
def test_sqs_bills_by_64_kb(payload: int, found: int) -> None:
    assert units.sqs_requests(payload) == found


# --- indexes ----------------------------------------------------------------------------------

BY_STATUS = Index(name="by-status", keys=("status",), table_keys=("id",))
BY_STATUS_ALL = Index(name="all", keys=("status",), table_keys=("id",), projected=None)
BY_STATUS_AND_TYPE = Index(
    name="with-type", keys=("status", "at"), table_keys=("id",), projected=("type",)
)


def test_an_entry_put_or_removed_is_one_write() -> None:
    item = sized(500, id="a", status="PENDING")
    assert units.index_write(BY_STATUS, None, item) == 1
    assert units.index_write(BY_STATUS, item, None) == 1


def test_an_item_without_the_key_is_not_in_the_index() -> None:
    without, with_key = sized(500, id="a"), sized(500, id="a", status="PENDING")
    assert units.index_write(BY_STATUS, None, without) == 0
    assert units.index_write(BY_STATUS, without, sized(900, id="a")) == 0
    assert units.index_write(BY_STATUS, without, with_key) == 1
    assert units.index_write(BY_STATUS, with_key, without) == 1
    # Of a key of two attributes both have to be there.
    assert units.index_write(BY_STATUS_AND_TYPE, None, with_key) == 0


def test_a_changed_key_is_two_writes() -> None:
    old, new = sized(500, id="a", status="PENDING"), sized(500, id="a", status="PROCESSING")
    assert units.index_write(BY_STATUS, old, new) == 2


def test_what_is_not_projected_costs_the_index_nothing() -> None:
    old, new = sized(500, id="a", status="PENDING"), sized(700, id="a", status="PENDING")
    assert units.index_write(BY_STATUS, old, new) == 0
    assert units.index_write(BY_STATUS, old, old) == 0
    assert units.index_write(BY_STATUS_ALL, old, new) == 1
    assert units.index_write(BY_STATUS_ALL, old, old) == 0


def test_a_changed_projected_attribute_is_one_write() -> None:
    old = sized(500, id="a", status="PENDING", at="1", type="email")
    assert units.index_write(BY_STATUS_AND_TYPE, old, old | {"type": {"S": "fax"}}) == 1
    assert units.index_write(BY_STATUS_AND_TYPE, old, old | {"x": {"S": "y"}}) == 0


def test_entries_are_rounded_up_each_by_itself() -> None:
    old, new = sized(900, id="a", status="PENDING"), sized(1500, id="a", status="COMPLETED")
    assert units.index_write(BY_STATUS_ALL, old, new) == 1 + 2
    assert units.index_write(BY_STATUS_ALL, old, sized(1500, id="a", status="PENDING")) == 2
    # What the leaner index holds is small, however large the item.
    assert units.index_write(BY_STATUS, old, new) == 2


def test_indexes_as_a_table_describes_them() -> None:
    described = {
        "IndexName": "status-index",
        "KeySchema": [{"AttributeName": "status"}, {"AttributeName": "at"}],
        "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["type"]},
    }
    assert Index.of(described, ("id",)).projected == ("type",)
    keys_only = described | {"Projection": {"ProjectionType": "KEYS_ONLY"}}
    assert Index.of(keys_only, ("id",)).projected == ()
    everything = described | {"Projection": {"ProjectionType": "ALL"}}
    assert Index.of(everything, ("id",)).projected is None


def test_a_tasks_life_as_the_tutorial_writes_it() -> None:
    """Three writes of less than 1 KB: 3 units of the table, and 1 + 2 + 2 of its index."""
    states = [
        None,
        *(sized(500, id="a", status=status) for status in ("PENDING", "PROCESSING", "COMPLETED")),
    ]
    changes = [Change(old, new) for old, new in pairwise(states)]

    found = bill(changes, [BY_STATUS_ALL])

    assert found.table.total() == 3
    assert dict(found.indexes) == {
        "new > PENDING": 1,
        "PENDING > PROCESSING": 2,
        "PROCESSING > COMPLETED": 2,
    }
    assert found.total == 8
    assert bill(changes, []).total == 3

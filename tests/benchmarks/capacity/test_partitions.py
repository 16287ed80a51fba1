"""Partitions throttle, save and split as DynamoDB's are documented to."""

from __future__ import annotations

from benchmarks.capacity.partitions import HEAT_SECONDS, Store


def store(*, partitions: int = 1, saved_seconds: float = 0.0, splits: bool = False) -> Store:
    return Store(
        "index",
        partitions=partitions,
        limit=10,
        quota=1_000,
        saved_seconds=saved_seconds,
        splits=splits,
    )


def ask(of: Store, key: str, sort_key: str, times: int) -> int:
    """How many of so many writes of one unit are carried out."""
    done = 0
    for _ in range(times):
        if of.has_room(key, sort_key, 1):
            of.take(key, sort_key, 1)
            done += 1
    return done


def test_a_partition_takes_its_limit_in_a_second_and_no_more() -> None:
    one = store()
    assert ask(one, "a", "", 30) == 10
    one.tick()
    assert ask(one, "a", "", 30) == 10
    assert one.throttled_by_key == {"a": 40}


def test_unused_capacity_is_saved_up_to_its_seconds() -> None:
    one = store(saved_seconds=5)
    for _ in range(20):
        one.tick()
    assert ask(one, "a", "", 100) == 50


def test_a_whole_table_takes_its_quota_however_many_partitions_it_has() -> None:
    one = Store("table", partitions=4_000, limit=10, quota=25, saved_seconds=0, splits=False)
    assert sum(ask(one, f"id-{n}", "", 1) for n in range(100)) == 25
    assert one.throttled_by_quota == 75


def heat(one: Store, keys: list[str], *, ever_increasing: bool, seconds: int) -> int:
    """Ask for 20 a second between these keys; how many are carried out in the last one."""
    done = 0
    for second in range(seconds):
        done = sum(
            ask(one, keys[n % len(keys)], f"{second if ever_increasing else n:09}-{n:03}", 1)
            for n in range(20)
        )
        one.tick()
    return done


def test_two_hot_keys_in_one_partition_are_parted() -> None:
    one = store(splits=True)
    assert heat(one, ["a", "b"], ever_increasing=True, seconds=HEAT_SECONDS) == 10
    assert heat(one, ["a", "b"], ever_increasing=True, seconds=2) == 20
    assert len(one) == 2


def test_one_key_is_split_by_sort_key_where_it_is_written_everywhere() -> None:
    one = store(splits=True)
    assert heat(one, ["a"], ever_increasing=False, seconds=HEAT_SECONDS + 2) == 20


def test_no_split_helps_a_key_whose_entries_only_increase() -> None:
    one = store(splits=True)
    assert heat(one, ["a"], ever_increasing=True, seconds=6 * HEAT_SECONDS) == 10
    assert one.splits > 0


def test_one_item_cannot_be_split() -> None:
    one = store(splits=True)
    for _ in range(3 * HEAT_SECONDS):
        assert ask(one, "@counts#0", "", 30) == 10
        one.tick()
    assert len(one) == 1

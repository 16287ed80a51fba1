"""How often a process writes to its counter item: the more the item costs, the rarer. On virtual
time, against a table that counts."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count, pairwise
from typing import Any

import pytest
import trio
import trio.testing

from task_queue_engine.backends.aws.dynamodb.counters import Counters
from task_queue_engine.backends.aws.dynamodb.crash_recovery import DEAD_AFTER
from task_queue_engine.backends.aws.dynamodb.schema import counter_ids
from task_queue_engine.backends.aws.dynamodb.table_client import TableClient
from task_queue_engine.clock import ManualClock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.task import TaskStatus
from tests.backends.aws.dynamodb.tables import Table

BEGIN = ManualClock().now()


def now() -> datetime:
    return BEGIN + timedelta(seconds=trio.current_time())


@dataclass
class Costly:
    """A table in which a write to a counter item takes so many units."""

    units: float
    fails: Callable[[], bool] = lambda: False
    flushes: list[float] = field(default_factory=list)
    removals: list[float] = field(default_factory=list)

    async def update(
        self, _: str, _id: str, expression: str, *, consumed: Any = None, **__: Any
    ) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if expression.startswith("REMOVE"):
            self.removals.append(trio.current_time())
            return {}
        if self.fails():
            await trio.sleep(4)  # as long as the client tries
            raise BackendUnavailable("by a test")
        self.flushes.append(trio.current_time())
        consumed(self.units)
        return {}


@asynccontextmanager
async def counting(table: Costly, process: str = "0123456789ab") -> AsyncIterator[Counters]:
    fake: Any = table
    counters = Counters(fake, process=process, settled=lambda: 0, now=now, flush_interval=1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(counters.run)
        yield counters
        nursery.cancel_scope.cancel()


async def work(counters: Counters, seconds: float, *, created_at: datetime | None = None) -> None:
    """A task is created every tenth of a second; with `created_at`, one is started that was
    created then."""
    ends_at = trio.current_time() + seconds
    while trio.current_time() < ends_at:
        counters.about_to_write()
        counters.move(None, TaskStatus.PENDING, created_at=created_at or now())
        await trio.sleep(0.1)


@pytest.mark.parametrize(("units", "flushes"), [(1, 100), (2, 50), (5, 20), (50, 12.5)])
async def test_a_flush_pays_for_as_many_seconds_as_it_takes_units(
    autojump_clock: trio.testing.MockClock, units: int, flushes: float
) -> None:
    """One unit a second and process, however many processes there are, up to eight seconds."""
    table = Costly(units)
    async with counting(table) as counters:
        await work(counters, 100)
    # Two more at the beginning: the mark, and the first change.
    assert len(table.flushes) == pytest.approx(flushes, rel=0.1, abs=3)


@pytest.mark.parametrize(("units", "most"), [(1, 1_000), (10, 100)])
async def test_what_could_not_be_found_takes_ten_units_a_second_at_most(
    autojump_clock: trio.testing.MockClock, units: int, most: int
) -> None:
    table = Costly(units)
    async with counting(table) as counters:
        await work(counters, 100, created_at=BEGIN - timedelta(hours=1))
    assert 0.8 * most <= len(table.flushes) <= most + 3


async def test_processes_that_began_together_do_not_flush_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one, two = Costly(5), Costly(5)
    async with (
        counting(one, "0123456789ab") as first,
        counting(two, "ba9876543210") as second,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(work, first, 60)
        nursery.start_soon(work, second, 60)
    apart = [abs(a - b) for a, b in zip(one.flushes, two.flushes, strict=False)]
    assert min(apart[3:]) > 0.01


async def test_the_mark_of_one_that_lives_never_stands_still_for_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Older processes on the table go by the same number. Not with large items, and not where two
    tries get no answer before it goes on."""
    tries = count(1)
    # What was not answered is followed at once by what has come meanwhile.
    table = Costly(100, fails=lambda: next(tries) % 4 in (1, 2))
    async with counting(table) as counters:
        await work(counters, 600)
    assert max(later - earlier for earlier, later in pairwise(table.flushes)) < DEAD_AFTER


async def test_the_mark_of_one_that_is_idle_goes_before_it_counts_as_dead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    table = Costly(100)
    async with counting(table) as counters:
        await work(counters, 20)
        await trio.sleep(60)
    assert len(table.removals) == 1
    assert table.removals[0] - table.flushes[-1] < DEAD_AFTER * 0.6


@pytest.mark.parametrize("table", ["dynamodb-local/batch"], indirect=True)
async def test_what_a_write_takes_is_what_the_server_says(table: Table) -> None:
    padding = {f"flushed_{n:012x}": {"N": "1767225600123"} for n in range(120)}
    await table.put({"id": {"S": counter_ids()[0]}, **padding})
    client = TableClient(
        table.client, table=table.name, concurrency=1, timeout=10.0, rng=random.Random()
    )
    client.is_open = True
    told: list[float] = []
    await client.update(
        "counters",
        counter_ids()[0],
        "ADD #n :one",
        names={"#n": "moves"},
        values={":one": {"N": "1"}},
        consumed=told.append,
    )
    assert told == [4.0]

"""No operation costs more in a full file than in an empty one, as counted by SQLite itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from task_queue_engine.backends.base import DueChange, ListQuery, Message, NewTask
from task_queue_engine.lifecycle import Complete, Fail, Progress
from task_queue_engine.task import TaskStatus
from task_queue_engine.testing.conformance.harness import claim_request
from tests.backends.sqlite.harness import BOOM, SqliteHarness

BATCH = 200


@dataclass
class Meter:
    """Adds up the steps of SQLite's virtual machine over all statements of both threads."""

    harness: SqliteHarness
    steps: int = 0
    statements: list[str] = field(default_factory=list)

    async def attach(self) -> None:
        for thread in (self.harness.backend._file.writer, self.harness.backend._file.reader):
            await thread.run(
                lambda t: t.connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, self._count)
            )

    def _count(self, event: dict[str, Any]) -> None:
        self.steps += event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]
        self.statements.append(event["sql"])


async def fill(harness: SqliteHarness, number: int) -> None:
    """Of everything this many: waiting, sent, running, due, ended, dead."""
    for start in range(0, number, BATCH):
        size = min(BATCH, number - start)
        waiting = [harness.make_task(type="a") for _ in range(size)]
        await harness.store.create([NewTask(task=task) for task in waiting])
        await harness.queue.send([Message(task=task) for task in waiting])
        scheduled = [harness.make_task(type="b") for _ in range(size)]
        await harness.store.create(
            [NewTask(task=task, due_at=harness.later(10**6)) for task in scheduled]
        )
        rest = [harness.make_task(type="c") for _ in range(size)]
        await harness.store.create([NewTask(task=task) for task in rest])
        await harness.store.cancel([task.id for task in rest[: size // 2]])
        taken = await harness.queue.receive(size // 2, wait=0, visibility=10**6)
        await harness.store.claim([claim_request(delivery) for delivery in taken])
        third = len(taken) // 3
        await harness.store.record(
            [Complete(task_id=d.task_id, attempt=1, result=1) for d in taken[:third]]
        )
        await harness.queue.delete(taken[:third])
        await harness.store.record(
            [Fail(task_id=d.task_id, attempt=1, error=BOOM) for d in taken[third : 2 * third]]
        )
        await harness.queue.dead_letter(
            [harness.dead_lettering(d) for d in taken[third : 2 * third]]
        )
    await harness.advance(100)


Operation = Callable[[SqliteHarness], Awaitable[object]]


async def whole_life(harness: SqliteHarness) -> None:
    await harness.send(await harness.create(type="a"))
    delivery = await harness.receive_one()
    await harness.claim(delivery)
    await harness.record(Complete(task_id=delivery.task_id, attempt=1, result=1))
    await harness.delete(delivery)


async def one_of_each_write(harness: SqliteHarness) -> None:
    queue, store = harness.queue, harness.store
    (delivery, other) = await queue.receive(2, wait=0, visibility=30)
    await store.claim([claim_request(delivery), claim_request(other)])
    task_id = delivery.task_id
    await store.record([Progress(task_id=task_id, attempt=1, value=1)])
    await store.cancel([task_id])
    await store.cancel_requested([task_id])
    await store.record([Fail(task_id=task_id, attempt=1, error=BOOM)])
    await store.reopen([task_id])
    await store.schedule([(task_id, harness.now())])
    await store.change_due([DueChange(task_id, harness.now(), None)])
    await queue.extend([delivery], visibility=60)
    await queue.dead_letter([harness.dead_lettering(delivery)])
    (dead_letter,) = (await queue.dead_letters.page(limit=1)).dead_letters
    await queue.dead_letters.take(limit=1, ids=[dead_letter.id])
    await queue.dead_letters.delete([dead_letter])
    await store.reclaim([(other.task_id, 1)])
    await queue.release([(other, 0.0)])
    await harness.backend.ping()


OPERATIONS: dict[str, Operation] = {
    "a life": whole_life,
    "writes": one_of_each_write,
    "get": lambda h: h.store.get(["unknown"]),
    "counts": lambda h: h.store.counts(),
    "nothing due": lambda h: h.store.due("default", before=h.now(), limit=10),
    "due": lambda h: h.store.due("default", before=h.later(10**7), limit=10),
    "newest": lambda h: h.store.list_tasks(ListQuery(limit=10)),
    "by status": lambda h: h.store.list_tasks(ListQuery(limit=10, status=TaskStatus.PENDING)),
    "by type": lambda h: h.store.list_tasks(ListQuery(limit=10, type="b")),
    "by both": lambda h: h.store.list_tasks(
        ListQuery(limit=10, type="c", status=TaskStatus.PENDING)
    ),
    "a rare pair": lambda h: h.store.list_tasks(
        ListQuery(limit=10, type="b", status=TaskStatus.FAILED)
    ),
    "first of the stranded": lambda h: h.backend.stranded("default", before=h.now(), limit=10),
    "expire nothing": lambda h: h.store.expire(finished_before=h.later(-(10**6)), limit=10),
    "expire": lambda h: h.store.expire(finished_before=h.later(10**6), limit=10),
    "dead": lambda h: h.queue.dead_letters.page(limit=10),
    "take dead": lambda h: h.queue.dead_letters.take(limit=10),
    "dead of a quiet queue": lambda h: h.backend.queue("quiet").dead_letters.page(limit=10),
    "purge a quiet queue": lambda h: h.backend.queue("quiet").dead_letters.purge(),
    "look at a quiet queue": lambda h: h.backend.queue("quiet").receive(1, wait=0, visibility=30),
}


@asynccontextmanager
async def filled(folder: Path, number: int) -> AsyncIterator[Meter]:
    await trio.Path(folder).mkdir()
    harness = SqliteHarness(folder / "tasks.db")
    backend = harness.backend
    async with backend.open():
        await fill(harness, number)
        meter = Meter(harness)
        await meter.attach()
        yield meter


@pytest.fixture
async def meters(tmp_path: Path) -> AsyncIterator[tuple[Meter, Meter]]:
    async with filled(tmp_path / "small", 60) as small, filled(tmp_path / "large", 2400) as large:
        yield small, large


async def test_nothing_grows_with_the_file(meters: tuple[Meter, Meter]) -> None:
    """Forty times as many rows, and not twice the work (a deeper tree is no more steps). What the
    depth of a queue costs has a bound, and a test in `test_counts.py`."""
    steps: dict[str, list[int]] = {}
    for name, operation in OPERATIONS.items():
        for meter in meters:
            meter.steps = 0
            await operation(meter.harness)
            steps.setdefault(name, []).append(meter.steps)
    assert all(small > 0 and large < 1.5 * small + 100 for small, large in steps.values()), str(
        steps
    )


async def test_the_last_page_of_a_listing_costs_no_more_than_the_first(
    meters: tuple[Meter, Meter],
) -> None:
    _, meter = meters
    costs: list[int] = []
    query = ListQuery(limit=100)
    while True:
        meter.steps = 0
        page = await meter.harness.store.list_tasks(query)
        costs.append(meter.steps)
        if page.next_cursor is None:
            break
        query = ListQuery(limit=100, cursor=page.next_cursor)
    assert len(costs) > 50
    assert max(costs) < 1.5 * costs[0]


async def test_a_walk_through_the_unfinished_costs_the_same_at_each_step(
    meters: tuple[Meter, Meter],
) -> None:
    _, meter = meters
    costs: list[int] = []
    cursor = None
    while True:
        meter.steps = 0
        page = await meter.harness.backend.stranded(
            "default", before=meter.harness.now(), limit=200, cursor=cursor
        )
        costs.append(meter.steps)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(costs) > 10
    # What is found is loaded too, so that pieces differ, but not with their place.
    assert max(costs) < 4 * min(costs[:-1]), costs


async def test_what_has_ended_is_not_walked_through(tmp_path: Path) -> None:
    costs = []
    for number in (20, 2000):
        async with filled(tmp_path / str(number), 0) as meter:
            harness = meter.harness
            for _ in range(number // 20):
                tasks = [harness.make_task() for _ in range(20)]
                await harness.store.create([NewTask(task=task) for task in tasks])
                await harness.store.cancel([task.id for task in tasks])
            meter.steps = 0
            page = await harness.backend.stranded("default", before=harness.now(), limit=10)
            assert (page.found, page.next_cursor) == ((), None)
            costs.append(meter.steps)
    assert costs[1] < 1.5 * costs[0]

"""Who runs: shown while it lives, and never taken for a task."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from task_queue_engine.backends.base import Counts, ListQuery, QueueDepth
from task_queue_engine.testing.conformance.harness import Harness
from task_queue_engine.testing.conformance.needs import needs
from task_queue_engine.worker import (
    LIVING_FOR,
    LOST_FOR,
    RunningTask,
    Worker,
    WorkerList,
    WorkerState,
)

# Seconds by which a server's clock and its answers may be off.
_MARGIN = 10.0


def make_worker(harness: Harness, number: int = 1, **fields: Any) -> Worker:
    now = harness.now()
    defaults: dict[str, Any] = {
        "id": f"host-{number}:{number}:abcdef",
        "host": f"host-{number}",
        "pid": number,
        "version": "1.2.3",
        "queues": ("default",),
        "types": ("email", "report"),
        "slots": 5,
        "started_at": now,
        "last_seen": now,
    }
    return Worker(**(defaults | fields))


async def look(harness: Harness) -> WorkerList:
    return await harness.backend.workers.look()


async def ids(harness: Harness) -> list[str]:
    return [worker.id for worker in (await look(harness)).workers]


async def test_a_worker_is_shown_as_it_describes_itself(harness: Harness) -> None:
    worker = make_worker(
        harness,
        host='ü\x1b[31m\n"\\host',
        state=WorkerState.DRAINING,
        threads=40,
        processes=2,
        busy=2,
        running=(
            RunningTask(task_id="a", type="\x1b]0;x\x07", attempt=3, since=harness.later(-70)),
            RunningTask(task_id="b", type="report", attempt=1, since=harness.later(-1)),
        ),
        loop_lag_seconds=0.25,
        memory_bytes=2**33,
    )
    await harness.backend.workers.put(worker)
    found = await look(harness)
    assert found.lost == 0
    (seen,) = found.workers
    assert abs(seen.last_seen - harness.now()) < timedelta(seconds=_MARGIN)
    assert seen == msgspec.structs.replace(worker, last_seen=seen.last_seen)


async def test_the_latest_word_counts(harness: Harness) -> None:
    worker = make_worker(harness)
    await harness.backend.workers.put(worker)
    running = (RunningTask(task_id="a", type="email", attempt=1, since=harness.now()),)
    for state in (
        msgspec.structs.replace(worker, busy=1, running=running),
        msgspec.structs.replace(worker, state=WorkerState.DRAINING),
    ):
        await harness.backend.workers.put(state)
        (seen,) = (await look(harness)).workers
        assert (seen.busy, seen.running, seen.state) == (state.busy, state.running, state.state)


async def test_in_the_order_of_hosts_and_starts(harness: Harness) -> None:
    for number, started, host in ((1, 0, "b"), (2, -5, "b"), (3, 0, "a")):
        await harness.backend.workers.put(
            make_worker(harness, number, host=host, started_at=harness.later(started))
        )
    assert [worker.pid for worker in (await look(harness)).workers] == [3, 2, 1]


async def test_one_that_ends_is_gone_and_not_lost(harness: Harness) -> None:
    for number in (1, 2):
        await harness.backend.workers.put(make_worker(harness, number))
    await harness.backend.workers.remove(make_worker(harness, 1).id)
    assert (await look(harness)).lost == 0
    assert await ids(harness) == [make_worker(harness, 2).id]
    await harness.backend.workers.remove("of no worker")
    assert await ids(harness) == [make_worker(harness, 2).id]


async def test_one_that_lives_is_not_forgotten(harness: Harness) -> None:
    await harness.backend.workers.put(make_worker(harness))
    await harness.backend.workers.forget_lost()
    assert len(await ids(harness)) == 1


@needs("ages_workers")
async def test_one_that_falls_silent_is_lost(harness: Harness) -> None:
    await harness.backend.workers.put(make_worker(harness, 1))
    await harness.backend.workers.put(make_worker(harness, 2, slots=0, types=()))
    await harness.advance(LIVING_FOR - _MARGIN)
    assert len(await ids(harness)) == 2
    assert (await look(harness)).lost == 0

    await harness.advance(2 * _MARGIN)
    found = await look(harness)
    assert found.workers == ()
    assert found.lost == 1  # what ran no tasks is missed by none
    await harness.backend.workers.forget_lost()
    assert (await look(harness)).lost == 1

    await harness.backend.workers.put(make_worker(harness, 1))
    assert await ids(harness) == [make_worker(harness, 1).id]
    assert (await look(harness)).lost == 0


@needs("ages_workers")
async def test_one_that_was_lost_long_ago_is_forgotten(harness: Harness) -> None:
    await harness.backend.workers.put(make_worker(harness, 1))
    await harness.advance(LOST_FOR + _MARGIN)
    await harness.backend.workers.put(make_worker(harness, 2))
    assert (await look(harness)).lost == 0
    await harness.backend.workers.forget_lost()
    assert await ids(harness) == [make_worker(harness, 2).id]


async def test_a_worker_is_no_task(harness: Harness) -> None:
    worker = make_worker(harness)
    await harness.backend.workers.put(worker)
    await harness.advance(3600)
    assert (await harness.store.list_tasks(ListQuery())).tasks == ()
    for task_type in worker.types:
        assert (await harness.store.list_tasks(ListQuery(type=task_type))).tasks == ()
    assert await harness.store.counts() == Counts()
    assert await harness.store.get([worker.id]) == [None]
    assert await harness.store.cancel_requested([worker.id]) == [False]
    assert await harness.store.due("default", before=harness.later(60), limit=10) == []
    assert await harness.store.expire(finished_before=harness.later(60), limit=10) == 0
    page = await harness.backend.stranded("default", before=harness.now(), limit=100)
    assert page.found == ()
    depth = await harness.queue.depth()
    assert depth == QueueDepth(waiting=0, in_flight=0, dead=0)

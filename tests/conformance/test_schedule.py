"""Waits that are longer than the queue can hold: they live in the store."""

from __future__ import annotations

from task_queue_engine.lifecycle import NotDue, Reopened, Retry, Snooze, Started
from task_queue_engine.task import TaskStatus, new_task_id
from tests.conformance.bench import BOOM, Bench, ids


async def test_due_tasks_come_earliest_first(bench: Bench) -> None:
    late = await bench.create(due_at=bench.in_seconds(30))
    soon = await bench.create(due_at=bench.in_seconds(10))
    later = await bench.create(due_at=bench.in_seconds(31))
    await bench.create()

    assert await bench.store.due(before=bench.in_seconds(9.999999), limit=10) == []
    assert await bench.store.due(before=bench.in_seconds(10), limit=10) == [soon]
    assert await bench.store.due(before=bench.in_seconds(30), limit=10) == [soon, late]
    assert await bench.store.due(before=bench.in_seconds(99), limit=10) == [soon, late, later]
    assert await bench.store.due(before=bench.in_seconds(99), limit=2) == [soon, late]


async def test_schedule_sets_and_clears(bench: Bench) -> None:
    task = await bench.create()
    other = await bench.create(due_at=bench.in_seconds(5))

    await bench.store.schedule([(task.id, bench.in_seconds(3)), (other.id, None)])

    assert ids(await bench.store.due(before=bench.in_seconds(9), limit=10)) == [task.id]
    await bench.store.schedule([(task.id, bench.in_seconds(20)), (other.id, bench.now)])
    assert ids(await bench.store.due(before=bench.in_seconds(9), limit=10)) == [other.id]
    await bench.counts(pending=2)


async def test_schedule_leaves_alone_what_is_not_pending(bench: Bench) -> None:
    running, _ = await bench.start()
    done = await bench.finish()
    failed = await bench.fail()
    everything = [running, done, failed]

    await bench.store.schedule([(task.id, bench.now) for task in everything])
    await bench.store.schedule([(new_task_id(), bench.now)])
    await bench.store.schedule([])

    assert await bench.store.due(before=bench.in_seconds(99), limit=10) == []
    assert await bench.store.get(ids(everything)) == everything
    await bench.counts(processing=1, completed=1, failed=1)
    # Not even later, when it is PENDING again.
    await bench.reopen(failed)
    assert await bench.store.due(before=bench.in_seconds(99), limit=10) == []


async def test_a_retry_that_is_scheduled_comes_due(bench: Bench) -> None:
    task, delivery = await bench.start()
    run_at = bench.in_seconds(3600)
    await bench.record(Retry(task_id=task.id, attempt=1, error=BOOM, run_at=run_at, scheduled=True))
    await bench.delete(delivery)

    stored = await bench.get(task)
    assert (stored.status, stored.run_at) == (TaskStatus.PENDING, run_at)
    assert await bench.store.due(before=bench.in_seconds(3599), limit=10) == []
    assert await bench.store.due(before=run_at, limit=10) == [stored]
    # As long as nobody has cleared it: a crash after sending sends it again.
    assert await bench.store.due(before=run_at, limit=10) == [stored]


async def test_a_snooze_that_is_scheduled_comes_due(bench: Bench) -> None:
    task, _ = await bench.start()
    run_at = bench.in_seconds(3600)
    await bench.record(Snooze(task_id=task.id, attempt=1, run_at=run_at, scheduled=True))
    assert ids(await bench.store.due(before=run_at, limit=10)) == [task.id]


async def test_a_started_task_is_not_due_any_more(bench: Bench) -> None:
    """It was sent, and received before the scheduler could clear its mark."""
    due_at = bench.in_seconds(bench.lease)
    task = await bench.create(run_at=due_at, due_at=due_at)
    await bench.send(task)
    (delivery,) = await bench.receive()
    assert await bench.claim(delivery) == NotDue(due_at)
    await bench.advance(bench.lease)

    assert isinstance(await bench.claim(delivery), Started)

    assert await bench.store.due(before=bench.in_seconds(99), limit=10) == []
    await bench.record(
        Retry(task_id=task.id, attempt=1, error=BOOM, run_at=bench.now, scheduled=False)
    )
    assert await bench.store.due(before=bench.in_seconds(99), limit=10) == []


async def test_the_due_of_all_queues(bench: Bench) -> None:
    here = await bench.create(due_at=bench.now)
    there = await bench.create(due_at=bench.now, queue="other")
    found = await bench.store.due(before=bench.now, limit=10)
    assert sorted(ids(found)) == sorted([here.id, there.id])


async def test_a_reopened_task_is_not_due(bench: Bench) -> None:
    task = await bench.create(due_at=bench.now)
    await bench.cancel(task)
    assert isinstance(await bench.reopen(task), Reopened)
    assert await bench.store.due(before=bench.in_seconds(99), limit=10) == []

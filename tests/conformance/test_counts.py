"""Counts and depth after every kind of transition."""

from __future__ import annotations

from task_queue_engine.backends.base import NewTask
from task_queue_engine.lifecycle import (
    Cancel,
    Complete,
    Fail,
    Interrupt,
    Progress,
    Retry,
    Snooze,
)
from tests.conformance.bench import BOOM, Bench


async def test_a_task_that_goes_everywhere(bench: Bench) -> None:
    """Beside it one that is left alone, so that a count that is too low does not hide at zero."""
    for status in ("pending", "processing", "completed", "failed", "cancelled"):
        match status:
            case "pending":
                await bench.create()
            case "processing":
                await bench.start()
            case "completed":
                await bench.finish()
            case "failed":
                await bench.fail()
            case "cancelled":
                await bench.cancel(await bench.create())

    async def now(status: str) -> None:
        beside = dict.fromkeys(("pending", "processing", "completed", "failed", "cancelled"), 1)
        await bench.counts(**beside | {status: 2})

    task, delivery = await bench.deliver()
    await now("pending")
    attempt = 0

    async def start() -> None:
        nonlocal attempt
        attempt += 1
        await bench.claim(delivery)
        await now("processing")

    await start()
    await bench.record(Progress(task_id=task.id, attempt=attempt, value=1))
    await now("processing")
    await bench.record(
        Retry(task_id=task.id, attempt=attempt, error=BOOM, run_at=bench.now, scheduled=False)
    )
    await now("pending")
    await start()
    await bench.record(Snooze(task_id=task.id, attempt=attempt, run_at=bench.now, scheduled=True))
    await now("pending")
    await bench.store.schedule([(task.id, None)])
    await now("pending")
    await start()
    await bench.record(Interrupt(task_id=task.id, attempt=attempt))
    await now("pending")
    await start()
    await bench.store.reclaim([(task.id, attempt)])
    await now("pending")
    await start()
    await bench.record(Fail(task_id=task.id, attempt=attempt, error=BOOM))
    await now("failed")
    await bench.reopen(task)
    await now("pending")
    await bench.cancel(task)
    await now("cancelled")
    await bench.reopen(task)
    await start()
    await bench.cancel(task)
    await now("processing")
    await bench.record(Cancel(task_id=task.id, attempt=attempt))
    await now("cancelled")
    await bench.reopen(task)
    await start()
    await bench.record(Complete(task_id=task.id, attempt=attempt, result=1))
    await now("completed")
    # What is refused counts nothing.
    await bench.record(Complete(task_id=task.id, attempt=attempt, result=1))
    await bench.record(Fail(task_id=task.id, attempt=attempt, error=BOOM))
    await bench.cancel(task)
    await bench.reopen(task)
    await bench.claim(delivery)
    await bench.store.create([NewTask(task=task)])
    await now("completed")


async def test_the_total(bench: Bench) -> None:
    await bench.create()
    await bench.finish()
    await bench.fail()
    assert (await bench.store.counts()).total == 3


async def test_counts_are_of_all_queues(bench: Bench) -> None:
    await bench.create()
    await bench.create(queue="other")
    await bench.counts(pending=2)


async def test_a_message_that_goes_everywhere(bench: Bench) -> None:
    await bench.send(bench.task())
    await bench.depth(waiting=1)
    (delivery,) = await bench.receive()
    await bench.depth(in_flight=1)
    await bench.extend(delivery, bench.lease)
    await bench.depth(in_flight=1)
    await bench.release(delivery)
    await bench.depth(waiting=1)
    (delivery,) = await bench.receive()
    await bench.advance(bench.lease)
    (again,) = await bench.receive()
    await bench.depth(in_flight=1)
    await bench.delete(delivery)
    await bench.depth(in_flight=1)
    await bench.bury(again)
    await bench.depth(dead=1)
    await bench.queue.delete_dead(await bench.queue.take_dead(limit=1))
    await bench.depth()


async def test_depth_of_each_queue(bench: Bench) -> None:
    other = bench.backend.queue("other")
    await bench.send(bench.task())
    depth = await other.depth()
    assert (depth.waiting, depth.in_flight, depth.dead) == (0, 0, 0)
    await bench.depth(waiting=1)

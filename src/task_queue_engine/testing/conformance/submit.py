"""`Backend.submit`: rows and their messages."""

from __future__ import annotations

from task_queue_engine.backends.base import AlreadyExists, Created, NewTask
from task_queue_engine.testing.conformance.harness import Harness


async def test_submit_stores_and_sends(harness: Harness) -> None:
    tasks = [harness.make_task(payload=number) for number in range(3)]
    new = [NewTask(task=task) for task in tasks]
    assert await harness.backend.submit(new) == [Created()] * 3
    assert await harness.store.get([task.id for task in tasks]) == tasks
    found = [(await harness.receive_one()).task_id for _ in tasks]
    assert sorted(found) == sorted(task.id for task in tasks)
    assert (await harness.store.counts()).pending == 3


async def test_what_existed_is_not_sent_again(harness: Harness) -> None:
    old, new = await harness.create(), harness.make_task()
    verdicts = await harness.backend.submit([NewTask(task=old), NewTask(task=new)])
    assert verdicts == [AlreadyExists(old), Created()]
    assert (await harness.receive_one()).task_id == new.id
    assert await harness.receive() == []


async def test_one_id_twice_in_a_batch_is_stored_and_sent_once(harness: Harness) -> None:
    task = harness.make_task()
    assert await harness.backend.submit([NewTask(task=task)] * 2) == [
        Created(),
        AlreadyExists(task),
    ]
    assert (await harness.receive_one()).task_id == task.id
    assert await harness.receive() == []


async def test_what_the_scheduler_sends_is_stored_alone(harness: Harness) -> None:
    task = harness.make_task()
    new = NewTask(task=task, due_at=harness.later(3600))
    assert await harness.backend.submit([new]) == [Created()]
    assert await harness.receive() == []
    (due,) = await harness.store.due("default", before=harness.later(3600), limit=10)
    assert due.task.id == task.id


async def test_a_delay_rides_on_the_message(harness: Harness) -> None:
    task = harness.make_task(run_at=harness.later(2))
    assert await harness.backend.submit([NewTask(task=task)]) == [Created()]
    assert await harness.receive() == []
    await harness.advance(3)
    assert (await harness.receive_one()).task_id == task.id


async def test_each_goes_to_its_own_queue(harness: Harness) -> None:
    here, there = harness.make_task(), harness.make_task(queue="other")
    await harness.backend.submit([NewTask(task=there), NewTask(task=here)])
    assert (await harness.receive_one()).task_id == here.id
    (delivery,) = await harness.backend.queue("other").receive(
        10, wait=5, visibility=harness.visibility
    )
    assert delivery.task_id == there.id
    assert await harness.receive() == []

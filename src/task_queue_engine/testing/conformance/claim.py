"""The claim table, row by row."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from task_queue_engine.backends.base import AlreadyExists, Done, Message, NewTask
from task_queue_engine.lifecycle import (
    CRASH_ERROR_TYPE,
    ClaimRequest,
    ClaimVerdict,
    Complete,
    DuplicateDelivery,
    Exhausted,
    ExtraCopy,
    Fail,
    Finished,
    Missing,
    NeedsDeadLetter,
    NotDue,
    Receive,
    Started,
)
from task_queue_engine.task import Task, TaskError, TaskStatus, new_task_id
from task_queue_engine.testing.conformance.harness import Harness, claim_request

ERROR = TaskError(type="ValueError", message="no", traceback="Traceback ...")


async def test_pending_task_starts(harness: Harness) -> None:
    submitted = await harness.submit(payload={"n": 1}, max_attempts=5, timeout_seconds=12.5)
    await harness.advance(2)
    delivery = await harness.receive_one()

    verdict = await harness.claim(delivery, worker="host:1")

    assert verdict == Started(await harness.get(submitted.id), takeover=False)
    assert isinstance(verdict, Started)
    task = verdict.task
    assert task.status is TaskStatus.PROCESSING
    assert (task.attempt, task.retry_count) == (1, 0)
    assert task.worker == "host:1"
    assert task.started_at == task.updated_at == harness.now()
    assert task.created_at == submitted.created_at
    assert (task.payload, task.max_attempts, task.timeout_seconds) == ({"n": 1}, 5, 12.5)


async def test_same_delivery_twice_is_a_duplicate_and_changes_nothing(harness: Harness) -> None:
    running, delivery = await harness.start()

    assert await harness.claim(delivery, worker="other") == DuplicateDelivery()
    assert await harness.get(running.id) == running


async def test_same_delivery_twice_in_one_batch_starts_once(harness: Harness) -> None:
    await harness.submit()
    delivery = await harness.receive_one()

    first, second = await harness.store.claim([claim_request(delivery)] * 2)

    assert isinstance(first, Started)
    assert second == DuplicateDelivery()


async def test_lapsed_lease_is_taken_over_and_counts_as_a_crash(harness: Harness) -> None:
    running, first = await harness.start(max_attempts=3)
    await harness.lapse()
    second = await harness.receive_one()
    assert (second.message_id, second.receive_count) == (first.message_id, 2)

    verdict = await harness.claim(second, worker="worker-2")

    assert isinstance(verdict, Started)
    assert verdict.takeover
    assert (verdict.task.attempt, verdict.task.retry_count) == (2, 1)
    assert verdict.task.worker == "worker-2"
    assert verdict.task.error is not None
    assert verdict.task.error.type == CRASH_ERROR_TYPE
    assert "worker-1" in verdict.task.error.message
    assert verdict.task == await harness.get(running.id)


async def test_lapse_of_the_last_attempt_fails_the_task(harness: Harness) -> None:
    running, _ = await harness.start(max_attempts=1)
    await harness.lapse()

    verdict = await harness.claim(await harness.receive_one())

    assert isinstance(verdict, Exhausted)
    assert verdict.task.status is TaskStatus.FAILED
    assert verdict.task.retry_count == 1
    assert verdict.task.error is not None
    assert verdict.task.error.type == CRASH_ERROR_TYPE
    assert verdict.task == await harness.get(running.id)


async def test_another_message_never_takes_over(harness: Harness) -> None:
    """However often the copy was received: its count says nothing about the owner's lease."""
    running, _ = await harness.start()
    await harness.send(running)
    copy = await harness.receive_one()
    assert await harness.claim(copy) == ExtraCopy()

    await harness.queue.release([(copy, 0)])
    again = await harness.receive_one()
    assert again.receive_count == 2
    assert await harness.claim(again) == ExtraCopy()
    assert await harness.get(running.id) == running


async def test_a_copy_takes_over_where_it_shows_that_the_lease_has_lapsed(
    harness: Harness,
) -> None:
    """Of a message that was received again after the owner's death, and given back unclaimed."""
    running, first = await harness.start()
    await harness.send(running)
    request = claim_request(await harness.receive_one(), worker="worker-2")

    async def claim_as_copy_of(*receives: Receive) -> ClaimVerdict:
        (verdict,) = await harness.store.claim([replace(request, copy_of=receives)])
        return verdict

    assert await claim_as_copy_of(Receive(first.message_id, 1)) == ExtraCopy()
    assert await claim_as_copy_of(Receive("another", 5)) == ExtraCopy()
    verdict = await claim_as_copy_of(Receive(first.message_id, 2), Receive("another", 2))
    assert isinstance(verdict, Started)
    assert (verdict.takeover, verdict.task.attempt, verdict.task.retry_count) == (True, 2, 1)

    # From now on the copy's own receives count, and the old message is the extra one.
    assert await claim_as_copy_of(Receive(first.message_id, 9)) == DuplicateDelivery()
    old = replace(first, receive_count=3)
    assert await harness.claim(old) == ExtraCopy()


@pytest.mark.parametrize("ending", [TaskStatus.COMPLETED, TaskStatus.FAILED])
async def test_finished_task_does_not_start(harness: Harness, ending: TaskStatus) -> None:
    running, _ = await harness.start()
    end = (
        Complete(task_id=running.id, attempt=1, result=None)
        if ending is TaskStatus.COMPLETED
        else Fail(task_id=running.id, attempt=1, error=ERROR)
    )
    await harness.store.record([end])
    await harness.send(running)
    (extra,) = await harness.receive()

    assert await harness.claim(extra) == Finished(ending)
    assert (await harness.get(running.id)).status is ending


@pytest.mark.parametrize("last_words", [True, False])
async def test_the_message_of_a_failed_task_comes_back_for_its_dead_letter(
    harness: Harness, last_words: bool
) -> None:
    """FAILED was written, by the attempt or when it was found dead, and then a process died."""
    running, first = await harness.start(max_attempts=1)
    if last_words:
        await harness.store.record([Fail(task_id=running.id, attempt=1, error=ERROR)])
    else:
        await harness.lapse()
        first = await harness.receive_one()
        assert isinstance(await harness.claim(first), Exhausted)
    # It is in good hands, or comes back. Deleted by a duplicate, its dead letter would be missing.
    assert await harness.claim(first) == DuplicateDelivery()
    await harness.lapse()

    again = await harness.receive_one()
    failed = await harness.get(running.id)
    assert await harness.claim(again) == NeedsDeadLetter(failed)
    # Nothing is written: the worker that dead-letters it may die too.
    assert await harness.claim(again) == NeedsDeadLetter(failed)
    copy = replace(again, message_id="a copy", copy_of=(Receive(again.message_id, 9),))
    assert await harness.claim(copy) == NeedsDeadLetter(failed)
    assert await harness.claim(replace(copy, copy_of=())) == Finished(TaskStatus.FAILED)

    # A new round has nothing to do with it.
    await harness.store.reopen([running.id])
    assert isinstance(await harness.claim(again), Started)


async def test_task_cancelled_while_queued_does_not_start(harness: Harness) -> None:
    task = await harness.submit()
    delivery = await harness.receive_one()
    await harness.store.cancel([task.id])

    assert await harness.claim(delivery) == Finished(TaskStatus.CANCELLED)


async def test_takeover_of_a_task_to_be_cancelled_ends_it(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.cancel([running.id])
    await harness.lapse()

    assert await harness.claim(await harness.receive_one()) == Finished(TaskStatus.CANCELLED)
    ended = await harness.get(running.id)
    assert ended.status is TaskStatus.CANCELLED
    assert ended.retry_count == 1


async def test_unknown_task(harness: Harness) -> None:
    task = harness.make_task()
    await harness.send(task)
    delivery = await harness.receive_one()

    assert await harness.claim(delivery) == Missing()
    assert await harness.store.get([task.id]) == [None]


async def test_not_due_yet(harness: Harness) -> None:
    run_at = harness.later(60)
    task = await harness.submit(run_at=run_at)
    delivery = await harness.receive_one()

    assert await harness.claim(delivery) == NotDue(run_at)
    assert (await harness.get(task.id)).status is TaskStatus.PENDING

    await harness.advance(60)
    assert isinstance(await harness.claim(delivery), Started)


async def test_a_batch_gets_one_verdict_each_in_order(harness: Harness) -> None:
    running, held = await harness.start()
    for _ in range(2):
        await harness.submit()
    fresh = await harness.receive(10)
    assert len(fresh) == 2
    unknown = ClaimRequest(
        task_id=new_task_id(), message_id=held.message_id, receive_count=1, worker="w"
    )
    requests = [
        claim_request(fresh[0]),
        unknown,
        claim_request(held),
        claim_request(fresh[1]),
    ]

    verdicts = await harness.store.claim(requests)

    assert [type(verdict) for verdict in verdicts] == [Started, Missing, DuplicateDelivery, Started]
    started = [verdict.task.id for verdict in verdicts if isinstance(verdict, Started)]
    assert started == [fresh[0].task_id, fresh[1].task_id]
    assert await harness.get(running.id) == running


async def test_empty_batches(harness: Harness) -> None:
    assert await harness.store.claim([]) == []
    assert await harness.store.record([]) == []
    assert await harness.store.create([]) == []
    assert await harness.store.get([]) == []
    assert await harness.store.cancel([]) == []
    assert await harness.store.cancel_requested([]) == []
    assert await harness.store.reopen([]) == []
    assert await harness.store.reclaim([]) == []
    await harness.store.schedule([])
    assert await harness.queue.send([]) == []
    assert await harness.queue.extend([], visibility=1) == []
    assert await harness.queue.release([]) == []
    assert await harness.queue.delete([]) == []
    assert await harness.queue.dead_letter([]) == []
    assert await harness.queue.dead_letters.delete([]) == []
    assert await harness.queue.dead_letters.take(limit=10, ids=[]) == []


async def test_a_full_batch_is_started_and_ended(harness: Harness) -> None:
    """As many items as the backend says it takes at once."""
    size = min(harness.store.max_batch, harness.queue.max_batch)
    tasks: list[Task] = [harness.make_task(payload=i) for i in range(size)]
    await harness.store.create([NewTask(task=task) for task in tasks])
    assert await harness.queue.send([Message(task=task) for task in tasks]) == [Done()] * size
    deliveries = await harness.receive(size)
    while len(deliveries) < size:
        deliveries += await harness.receive(size - len(deliveries))

    verdicts = await harness.store.claim([claim_request(delivery) for delivery in deliveries])
    payloads = {v.task.payload for v in verdicts if isinstance(v, Started)}
    assert payloads == set(range(size))
    await harness.store.record(
        [Complete(task_id=d.task_id, attempt=1, result=None) for d in deliveries]
    )
    assert await harness.queue.delete(deliveries) == [Done()] * size
    assert (await harness.store.counts()).completed == size


async def test_creating_twice_changes_nothing(harness: Harness) -> None:
    task = await harness.create(payload="first")
    other = harness.make_task(id=task.id, payload="second", type="other")

    assert await harness.store.create([NewTask(task=other)]) == [AlreadyExists(task)]
    assert await harness.get(task.id) == task
    assert (await harness.store.counts()).pending == 1

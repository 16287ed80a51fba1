"""What clients and operators ask for: cancel, retry as a new round, forget old tasks."""

from __future__ import annotations

from task_queue_engine.backends.base import DeadLettering, Delivery, Done, Message
from task_queue_engine.lifecycle import (
    AlreadyFinished,
    Cancel,
    CancelledNow,
    CancelRequested,
    Complete,
    Deleted,
    Fail,
    Fenced,
    Finished,
    Interrupt,
    Missing,
    NotDeleted,
    NotReopened,
    Progress,
    Reopened,
    Started,
)
from task_queue_engine.task import TaskError, TaskStatus, new_task_id
from task_queue_engine.testing.conformance.harness import Harness
from task_queue_engine.testing.conformance.needs import needs

ERROR = TaskError(type="ValueError", message="no")


# --- cancel ---------------------------------------------------------------------------------


async def test_cancel_of_a_waiting_task_ends_it(harness: Harness) -> None:
    task = await harness.submit()
    await harness.advance(1)

    (verdict,) = await harness.store.cancel([task.id])

    cancelled = await harness.get(task.id)
    assert verdict == CancelledNow(cancelled)
    assert cancelled.status is TaskStatus.CANCELLED
    assert cancelled.finished_at == cancelled.updated_at == harness.now()


async def test_cancel_of_a_task_that_waits_for_its_time(harness: Harness) -> None:
    """Neither a message nor the scheduler brings it back."""
    task = await harness.create(run_at=harness.later(3600))
    await harness.store.schedule([(task.id, harness.later(3600))])
    await harness.store.cancel([task.id])
    await harness.advance(4000)
    assert await harness.store.due(harness.queue.name, before=harness.now(), limit=10) == []
    assert (await harness.get(task.id)).run_at is None


async def test_cancel_of_a_running_task_is_a_request(harness: Harness) -> None:
    running, _ = await harness.start()
    other, _ = await harness.start()

    (verdict,) = await harness.store.cancel([running.id])

    requested = await harness.get(running.id)
    assert verdict == CancelRequested(requested)
    assert requested.status is TaskStatus.PROCESSING
    assert requested.cancel_requested
    asked = await harness.store.cancel_requested([other.id, running.id, new_task_id()])
    assert asked == [False, True, False]

    await harness.store.record([Cancel(task_id=running.id, attempt=1)])
    assert (await harness.get(running.id)).status is TaskStatus.CANCELLED


async def test_cancel_twice(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.cancel([running.id])
    (again,) = await harness.store.cancel([running.id])
    assert isinstance(again, CancelRequested)
    counts = await harness.store.counts()
    assert (counts.processing, counts.total) == (1, 1)


async def test_cancel_of_what_is_over_changes_nothing(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.record([Complete(task_id=running.id, attempt=1, result=1)])
    before = await harness.get(running.id)
    await harness.advance(1)

    assert await harness.store.cancel([running.id]) == [AlreadyFinished(before)]
    assert await harness.get(running.id) == before


async def test_cancel_of_an_unknown_task_does_not_fail_its_neighbours(harness: Harness) -> None:
    task = await harness.create()
    first, second = await harness.store.cancel([new_task_id(), task.id])
    assert first == Missing()
    assert isinstance(second, CancelledNow)


async def test_cancel_of_one_task_twice_in_a_batch(harness: Harness) -> None:
    task = await harness.create()
    first, second = await harness.store.cancel([task.id, task.id])
    assert isinstance(first, CancelledNow)
    assert isinstance(second, AlreadyFinished)
    assert (await harness.store.counts()).cancelled == 1


async def test_a_cancel_request_survives_progress(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.cancel([running.id])
    await harness.store.record([Progress(task_id=running.id, attempt=1, value=1)])
    assert await harness.store.cancel_requested([running.id]) == [True]


# --- retry, as a new round ------------------------------------------------------------------


async def test_reopen_starts_a_new_round(harness: Harness) -> None:
    running, delivery = await harness.start(max_attempts=1, payload={"n": 1})
    await harness.store.record([Progress(task_id=running.id, attempt=1, value=1)])
    await harness.store.record([Fail(task_id=running.id, attempt=1, error=ERROR)])
    await harness.queue.delete([delivery])
    await harness.advance(60)

    (verdict,) = await harness.store.reopen([running.id])

    task = await harness.get(running.id)
    assert verdict == Reopened(task)
    assert task.status is TaskStatus.PENDING
    assert (task.retry_count, task.attempt) == (0, 1)
    assert (task.error, task.result, task.progress) == (None, None, None)
    assert (task.started_at, task.finished_at, task.run_at) == (None, None, None)
    assert task.updated_at == harness.now()
    assert task.payload == {"n": 1}

    await harness.send(task)
    started = await harness.claim(await harness.receive_one())
    assert isinstance(started, Started)
    assert started.task.attempt == 2
    late = Complete(task_id=running.id, attempt=1, result="of the first round")
    assert await harness.store.record([late]) == [Fenced()]


async def test_reopen_forgets_the_cancel_request(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.cancel([running.id])
    await harness.store.record([Interrupt(task_id=running.id, attempt=1)])
    assert (await harness.get(running.id)).status is TaskStatus.CANCELLED

    (verdict,) = await harness.store.reopen([running.id])

    assert isinstance(verdict, Reopened)
    assert not verdict.task.cancel_requested
    assert await harness.store.cancel_requested([running.id]) == [False]


async def test_only_failed_and_cancelled_tasks_reopen(harness: Harness) -> None:
    pending = await harness.create()
    running, _ = await harness.start()
    done, _ = await harness.start()
    await harness.store.record([Complete(task_id=done.id, attempt=1, result=1)])
    before = await harness.store.get([pending.id, running.id, done.id])

    verdicts = await harness.store.reopen([pending.id, running.id, done.id, new_task_id()])

    assert [type(verdict) for verdict in verdicts] == [NotReopened] * 3 + [Missing]
    assert await harness.store.get([pending.id, running.id, done.id]) == before


@needs("steps_are_one_transaction")
async def test_the_dead_letters_of_what_is_reopened_go_with_it(harness: Harness) -> None:
    """All that it has, on any queue; and those of no other task."""
    failed = []
    for _ in range(2):
        running, delivery = await harness.start()
        await harness.store.record([Fail(task_id=running.id, attempt=1, error=ERROR)])
        item = DeadLettering(delivery=delivery, reason="no use", at=harness.now())
        assert await harness.queue.dead_letter([item]) == [Done()]
        failed.append(running.id)
    retried, other = failed
    elsewhere = harness.backend.queue("other")
    for queue in (harness.queue, elsewhere):
        await queue.send([Message(task=await harness.get(retried))])
        (delivery,) = await queue.receive(1, wait=5, visibility=harness.visibility)
        item = DeadLettering(delivery=delivery, reason="once more", at=harness.now())
        assert await queue.dead_letter([item]) == [Done()]
    assert (await harness.queue.depth()).dead == 3
    running, _ = await harness.start()

    verdicts = await harness.store.reopen([retried, running.id, new_task_id(), retried])

    assert [type(each) for each in verdicts] == [Reopened, NotReopened, Missing, NotReopened]
    (left,) = (await harness.queue.dead_letters.page(limit=10)).dead_letters
    assert left.task_id == other
    assert (await harness.queue.depth()).dead == 1
    assert (await elsewhere.dead_letters.page(limit=10)).dead_letters == ()
    assert (await elsewhere.depth()).dead == 0


async def test_an_old_message_does_not_hurt_a_reopened_task(harness: Harness) -> None:
    """The first round's message comes back: it may start the new round, once."""
    running, _ = await harness.start()
    await harness.store.record([Fail(task_id=running.id, attempt=1, error=ERROR)])
    (verdict,) = await harness.store.reopen([running.id])
    assert isinstance(verdict, Reopened)
    await harness.lapse()

    started = await harness.claim(await harness.receive_one())

    assert isinstance(started, Started)
    assert not started.takeover
    assert (started.task.attempt, started.task.retry_count) == (2, 0)


# --- forgetting -----------------------------------------------------------------------------


async def test_expire_forgets_what_ended_long_ago(harness: Harness) -> None:
    ended = []
    for _ in range(3):
        task = await harness.create()
        await harness.store.cancel([task.id])
        ended.append(task.id)
    await harness.advance(100)
    cut = harness.now()
    waiting = await harness.create()
    running, _ = await harness.start()
    young = await harness.create()
    await harness.store.cancel([young.id])
    await harness.advance(100)

    assert await harness.store.expire(finished_before=cut, limit=2) == 2
    assert await harness.store.expire(finished_before=cut, limit=2) == 1
    assert await harness.store.expire(finished_before=cut, limit=2) == 0

    assert await harness.store.get(ended) == [None] * 3
    kept = await harness.store.get([waiting.id, running.id, young.id])
    assert all(task is not None for task in kept)
    counts = await harness.store.counts()
    assert (counts.pending, counts.processing, counts.cancelled) == (1, 1, 1)


@needs("expires_dead_letters")
async def test_a_task_and_its_dead_letter_are_forgotten_together(harness: Harness) -> None:
    """Left behind, the dead letter would be deleted by a redrive that finds no task for it."""

    async def dead_letter(delivery: Delivery) -> None:
        item = DeadLettering(delivery=delivery, reason="no use", at=harness.now())
        assert await harness.queue.dead_letter([item]) == [Done()]

    old, delivery = await harness.start()
    await harness.store.record([Fail(task_id=old.id, attempt=1, error=ERROR)])
    await dead_letter(delivery)
    retried, delivery = await harness.start()
    await harness.store.record([Fail(task_id=retried.id, attempt=1, error=ERROR)])
    await dead_letter(delivery)
    await harness.store.reopen([retried.id])
    await harness.store.cancel([retried.id])
    unknown = harness.make_task()
    await harness.send(unknown)
    await dead_letter(await harness.receive_one())
    await harness.advance(100)
    cut = harness.now()
    young, delivery = await harness.start()
    await harness.store.record([Fail(task_id=young.id, attempt=1, error=ERROR)])
    await dead_letter(delivery)

    assert await harness.store.expire(finished_before=cut, limit=10) == 2

    left = (await harness.queue.dead_letters.page(limit=10)).dead_letters
    assert {each.task_id for each in left} == {young.id, unknown.id}
    if harness.promises.exact_depth:
        assert (await harness.queue.depth()).dead == 2


async def test_a_message_of_a_forgotten_task_finds_no_row(harness: Harness) -> None:
    running, delivery = await harness.start()
    await harness.store.record([Complete(task_id=running.id, attempt=1, result=1)])
    await harness.advance(1)
    await harness.store.expire(finished_before=harness.now(), limit=10)
    assert await harness.claim(delivery) == Missing()


async def test_a_forgotten_id_can_be_used_again(harness: Harness) -> None:
    task = await harness.create(payload="x" * 5000)
    await harness.store.cancel([task.id])
    await harness.advance(1)
    await harness.store.expire(finished_before=harness.now(), limit=10)
    again = await harness.create(harness.make_task(id=task.id, payload="new"))
    assert await harness.get(task.id) == again


async def test_cancel_lands_while_the_delivery_waits(harness: Harness) -> None:
    """Received, not claimed yet, and cancelled: it does not start, and its message can go."""
    task = await harness.submit()
    delivery = await harness.receive_one()
    await harness.store.cancel([task.id])
    assert await harness.claim(delivery) == Finished(TaskStatus.CANCELLED)
    assert await harness.queue.delete([delivery]) == [Done()]


# --- delete ---------------------------------------------------------------------------------


async def test_delete_of_a_task_that_has_ended(harness: Harness) -> None:
    running, _ = await harness.start(payload="x" * 5000)
    await harness.store.record([Complete(task_id=running.id, attempt=1, result=1)])
    ended = await harness.get(running.id)
    before = await harness.store.counts()

    missing = new_task_id()
    verdicts = await harness.store.delete([running.id, missing])

    assert verdicts == [Deleted(ended), Missing()]
    assert await harness.store.get([running.id]) == [None]
    assert await harness.store.history(running.id) is None
    assert (await harness.store.counts()).completed == before.completed - 1
    assert await harness.store.delete([running.id]) == [Missing()]


async def test_delete_of_a_task_that_has_not_ended_is_refused(harness: Harness) -> None:
    running, _ = await harness.start()
    waiting = await harness.submit()
    tasks = [running, waiting]
    verdicts = await harness.store.delete([task.id for task in tasks])
    assert verdicts == [NotDeleted(await harness.get(task.id)) for task in tasks]
    assert (await harness.store.counts()).total == 2


async def test_a_task_named_twice_is_deleted_once(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.record([Complete(task_id=running.id, attempt=1, result=1)])
    first, second = await harness.store.delete([running.id, running.id])
    assert isinstance(first, Deleted)
    assert second == Missing()
    assert (await harness.store.counts()).total == 0


async def test_a_cancelled_task_is_kept_while_its_message_may_come(harness: Harness) -> None:
    task = await harness.submit()
    await harness.store.cancel([task.id])
    (verdict,) = await harness.store.delete([task.id])
    if harness.promises.deletes_messages:
        assert isinstance(verdict, Deleted)
    else:
        assert isinstance(verdict, NotDeleted)
        assert verdict.until is not None
        assert verdict.until >= harness.later(14 * 86_400)
        assert (await harness.get(task.id)).status is TaskStatus.CANCELLED


@needs("deletes_messages")
async def test_the_messages_of_a_deleted_task_go_too(harness: Harness) -> None:
    """A message without its task would become a dead letter."""
    waiting, other = await harness.submit(), await harness.submit()
    await harness.store.cancel([waiting.id])
    (verdict,) = await harness.store.delete([waiting.id])
    assert isinstance(verdict, Deleted)
    if harness.promises.exact_depth:
        assert (await harness.queue.depth()).waiting == 1
    assert [each.task_id for each in await harness.receive()] == [other.id]


@needs("deletes_messages")
async def test_the_dead_letters_of_a_deleted_task_go_too(harness: Harness) -> None:
    running, delivery = await harness.start()
    await harness.store.record([Fail(task_id=running.id, attempt=1, error=ERROR)])
    item = DeadLettering(delivery=delivery, reason="no", at=harness.now())
    await harness.queue.dead_letter([item])
    (verdict,) = await harness.store.delete([running.id])
    assert isinstance(verdict, Deleted)
    assert (await harness.queue.dead_letters.page(limit=10)).dead_letters == ()
    if harness.promises.exact_depth:
        assert (await harness.queue.depth()).dead == 0

"""`Steps.finish`: what attempts came to is recorded, and their messages settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from task_queue_engine.backends.base import (
    DeadLettering,
    Delivery,
    Done,
    Finish,
    Finished,
    GiveBack,
    LeaseLost,
    Steps,
    Taken,
    TakePlan,
    is_settled_by,
    then_after,
)
from task_queue_engine.lifecycle import (
    AttemptWrite,
    Cancel,
    Complete,
    Fail,
    Fenced,
    Interrupt,
    Progress,
    Recorded,
    ScheduleRetry,
    ScheduleSnooze,
    Started,
)
from task_queue_engine.task import Task, TaskError, TaskStatus, new_task_id
from task_queue_engine.testing.conformance.harness import Harness
from task_queue_engine.testing.conformance.needs import needs

ERROR = TaskError(type="ValueError", message="no", traceback="Traceback ...")


def steps_of(harness: Harness) -> Steps:
    return harness.backend.steps("default")


async def counts(harness: Harness, **expected: int) -> None:
    counted = await harness.store.counts()
    found = {status.value.lower(): getattr(counted, status.value.lower()) for status in TaskStatus}
    assert found == dict.fromkeys(found, 0) | expected


async def finish(harness: Harness, items: Sequence[Finish]) -> list[Finished]:
    """The step, and what its caller does where queue and store are two services."""
    finished = await steps_of(harness).finish(items)
    carried_out: list[Finished] = []
    for item, one in zip(items, finished, strict=True):
        if not is_settled_by(one.recorded) or steps_of(harness).is_one_transaction:
            carried_out.append(one)
            continue
        assert one.settled is None
        assert isinstance(one.recorded, Recorded)
        then = then_after(one.recorded, item.then)
        if then is None:
            (settled,) = await harness.queue.delete([item.delivery])
        elif isinstance(then, DeadLettering):
            (settled,) = await harness.queue.dead_letter([then])
        else:
            (settled,) = await harness.queue.release([(item.delivery, then.delay)])
        carried_out.append(Finished(one.recorded, settled))
    return carried_out


def dead_lettering(harness: Harness, delivery: Delivery) -> DeadLettering:
    return DeadLettering(
        delivery=delivery,
        reason="attempts exhausted",
        task_type="email",
        attempts=3,
        error=ERROR,
        at=harness.now(),
    )


Then = GiveBack | DeadLettering | None


def ending(
    harness: Harness, kind: str, task_id: str, delivery: Delivery, attempt: int = 1
) -> tuple[AttemptWrite, Then]:
    own: dict[str, Any] = {"task_id": task_id, "attempt": attempt}
    match kind:
        case "complete":
            return Complete(**own, result={"n": 1}), None
        case "fail":
            return Fail(**own, error=ERROR), dead_lettering(harness, delivery)
        case "retry":
            at = harness.later(2)
            return ScheduleRetry(**own, error=ERROR, run_at=at, scheduled=False), GiveBack(2)
        case "retry later":
            at = harness.later(3600)
            return ScheduleRetry(**own, error=ERROR, run_at=at, scheduled=True), None
        case "snooze":
            return ScheduleSnooze(**own, run_at=harness.later(2), scheduled=False), GiveBack(2)
        case "interrupt":
            return Interrupt(**own), GiveBack()
        case "cancel":
            return Cancel(**own, error=ERROR), None
        case _:
            return Progress(**own, value=50), None


# Status, retries counted, and where the message is then.
KINDS = {
    "complete": (TaskStatus.COMPLETED, 0, "gone"),
    "fail": (TaskStatus.FAILED, 1, "dead"),
    "retry": (TaskStatus.PENDING, 1, "waiting"),
    "retry later": (TaskStatus.PENDING, 1, "gone"),
    "snooze": (TaskStatus.PENDING, 0, "waiting"),
    "interrupt": (TaskStatus.PENDING, 0, "waiting"),
    "progress": (TaskStatus.PROCESSING, 0, "held"),
}


async def where(harness: Harness, delivery: Delivery) -> str:
    """Where the one message of the backend is."""
    if (await harness.queue.dead_letters.page(limit=10)).dead_letters:
        return "dead"
    if await harness.queue.extend([delivery], visibility=harness.visibility) == [Done()]:
        return "held"
    await harness.advance(3)
    return "waiting" if await harness.receive() else "gone"


@needs("notices_stale_receipts")
@pytest.mark.parametrize("kind", KINDS)
async def test_it_records_and_settles(harness: Harness, kind: str) -> None:
    task, delivery = await harness.start()
    write, then = ending(harness, kind, task.id, delivery)
    (finished,) = await finish(harness, [Finish(write, delivery, then)])
    status, retries, place = KINDS[kind]
    assert finished == Finished(Recorded(status), None if kind == "progress" else Done())
    found = await harness.get(task.id)
    assert (found.status, found.retry_count) == (status, retries)
    await counts(harness, **{status.value.lower(): 1})
    assert await where(harness, delivery) == place


async def test_a_dead_letter_says_why(harness: Harness) -> None:
    task, delivery = await harness.start()
    write, then = ending(harness, "fail", task.id, delivery)
    await finish(harness, [Finish(write, delivery, then)])
    (letter,) = await harness.queue.dead_letters.take(limit=10)
    assert (letter.task_id, letter.task_type, letter.reason, letter.attempts) == (
        task.id,
        "email",
        "attempts exhausted",
        3,
    )
    assert (letter.error, letter.at) == (ERROR, harness.now())


@needs("notices_stale_receipts")
@pytest.mark.parametrize("kind", ["retry", "snooze", "interrupt", "cancel", "fail", "complete"])
async def test_a_cancel_asked_meanwhile_decides_over_the_message(
    harness: Harness, kind: str
) -> None:
    task, delivery = await harness.start()
    await harness.store.cancel([task.id])
    write, then = ending(harness, kind, task.id, delivery)
    (finished,) = await finish(harness, [Finish(write, delivery, then)])
    assert isinstance(finished.recorded, Recorded)
    status = (await harness.get(task.id)).status
    assert finished == Finished(Recorded(status), Done())
    assert status in (TaskStatus.CANCELLED, TaskStatus.COMPLETED, TaskStatus.FAILED)
    place = "dead" if status is TaskStatus.FAILED else "gone"
    assert await where(harness, delivery) == place


@pytest.mark.parametrize("kind", KINDS)
async def test_an_attempt_that_was_taken_over_changes_nothing(harness: Harness, kind: str) -> None:
    task, stale = await harness.start()
    await harness.lapse()
    delivery = await harness.receive_one()
    taken_over = await harness.claim(delivery, worker="other")
    write, then = ending(harness, kind, task.id, stale)
    assert await finish(harness, [Finish(write, stale, then)]) == [Finished(Fenced(), None)]
    assert taken_over == Started(await harness.get(task.id), takeover=True)
    assert await harness.queue.extend([delivery], visibility=60) == [Done()]
    assert await harness.queue.dead_letters.take(limit=10) == []


@needs("notices_stale_receipts")
@pytest.mark.parametrize("kind", ["complete", "fail", "interrupt"])
async def test_a_stale_receipt_keeps_nothing_from_being_recorded(
    harness: Harness, kind: str
) -> None:
    """Its message was received again, and not claimed yet."""
    task, stale = await harness.start()
    await harness.lapse()
    delivery = await harness.receive_one()
    write, then = ending(harness, kind, task.id, stale)
    (finished,) = await finish(harness, [Finish(write, stale, then)])
    assert finished == Finished(Recorded(KINDS[kind][0]), LeaseLost())
    assert (await harness.get(task.id)).status is KINDS[kind][0]
    assert await harness.queue.extend([delivery], visibility=60) == [Done()]
    assert await harness.queue.dead_letters.take(limit=10) == []


@needs("notices_stale_receipts")
async def test_finished_once_more_it_is_found_recorded(harness: Harness) -> None:
    """As after an answer that was lost."""
    task, delivery = await harness.start()
    write, then = ending(harness, "complete", task.id, delivery)
    item = Finish(write, delivery, then)
    assert await finish(harness, [item]) == [Finished(Recorded(TaskStatus.COMPLETED), Done())]
    assert await finish(harness, [item]) == [Finished(Recorded(TaskStatus.COMPLETED), LeaseLost())]
    await counts(harness, completed=1)


@needs("notices_stale_receipts")
async def test_each_item_of_a_batch_is_for_itself(harness: Harness) -> None:
    kinds = ["complete", "retry", "unknown task", "fail", "interrupt", "progress", "complete"]
    items: list[Finish] = []
    tasks: list[Task] = []
    for kind in kinds:
        task, delivery = await harness.start(payload=kind)
        tasks.append(task)
        id_ = new_task_id() if kind == "unknown task" else task.id
        kind_of = "complete" if kind == "unknown task" else kind
        write, then = ending(harness, kind_of, id_, delivery)
        items.append(Finish(write, delivery, then))
    finished = await finish(harness, items)
    for kind, task, item, one in zip(kinds, tasks, items, finished, strict=True):
        if kind == "unknown task":
            assert one == Finished(Fenced(), None)
            assert await harness.queue.extend([item.delivery], visibility=60) == [Done()]
            continue
        settled = None if kind == "progress" else Done()
        assert one == Finished(Recorded(KINDS[kind][0]), settled)
        assert (await harness.get(task.id)).status is KINDS[kind][0]
    await counts(harness, completed=2, pending=2, failed=1, processing=2)


async def test_what_is_given_back_wakes_who_waits_for_it(harness: Harness) -> None:
    task, delivery = await harness.start()
    found: list[Taken] = []

    async def wait() -> None:
        plan = TakePlan(worker="w", free=1)
        found.extend(await steps_of(harness).take(plan, wait=10, visibility=harness.visibility))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(0.05)  # for it to wait; that it found the message at once does no harm
        write, then = ending(harness, "interrupt", task.id, delivery)
        await finish(harness, [Finish(write, delivery, then)])
    assert [one.delivery.task_id for one in found] == [task.id]

"""What nothing would ever bring on: tasks without a message."""

from __future__ import annotations

import pytest

from task_queue_engine.backends.base import Stranded, StrandedKind
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.lifecycle import (
    CRASH_ERROR_TYPE,
    Complete,
    Fenced,
    Interrupt,
    Recorded,
    Started,
)
from task_queue_engine.task import TaskStatus, new_task_id
from task_queue_engine.testing.conformance.harness import Harness
from task_queue_engine.testing.conformance.needs import needs


async def stranded(
    harness: Harness, *, limit: int = 100, age: float = 60, queue: str = "default"
) -> list[Stranded]:
    found: list[Stranded] = []
    cursor = None
    for _ in range(1000):
        page = await harness.backend.stranded(
            queue, before=harness.later(-age), limit=limit, cursor=cursor
        )
        found += page.found
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise AssertionError("the scan does not end")


@needs("exact_stranded")
async def test_saved_and_never_sent(harness: Harness) -> None:
    """The crash between create and send."""
    task = await harness.create(payload={"n": 1})
    await harness.submit()
    await harness.advance(61)
    assert await stranded(harness) == [Stranded(task, StrandedKind.UNSENT)]


@needs("exact_stranded")
async def test_too_young_to_tell(harness: Harness) -> None:
    await harness.create()
    await harness.advance(60)
    assert await stranded(harness) == []
    await harness.advance(1)
    assert len(await stranded(harness)) == 1


@needs("exact_stranded")
async def test_running_without_its_message(harness: Harness) -> None:
    running, delivery = await harness.start()
    await harness.start()
    await harness.queue.delete([delivery])
    await harness.advance(61)
    assert await stranded(harness) == [Stranded(running, StrandedKind.ORPHANED)]


@needs("exact_stranded")
async def test_an_extra_copy_does_not_bring_a_running_task_back(harness: Harness) -> None:
    running, delivery = await harness.start()
    await harness.queue.delete([delivery])
    await harness.send(running)
    await harness.advance(61)
    assert [found.kind for found in await stranded(harness)] == [StrandedKind.ORPHANED]


@needs("exact_stranded")
async def test_given_back_without_its_message(harness: Harness) -> None:
    running, delivery = await harness.start()
    await harness.store.record([Interrupt(task_id=running.id, attempt=1)])
    await harness.queue.delete([delivery])
    await harness.advance(61)
    assert [(found.task.id, found.kind) for found in await stranded(harness)] == [
        (running.id, StrandedKind.UNSENT)
    ]


@needs("exact_stranded")
async def test_what_is_on_its_way_is_not_stranded(harness: Harness) -> None:
    delayed = await harness.create()
    await harness.send(delayed, delay=harness.queue.max_delay)
    scheduled = await harness.create()
    await harness.store.schedule([(scheduled.id, harness.later(10**6))])
    await harness.start()
    held = await harness.submit()
    (delivery,) = await harness.receive()
    assert delivery.task_id == held.id
    done, message = await harness.start()
    await harness.store.record([Complete(task_id=done.id, attempt=1, result=1)])
    await harness.queue.delete([message])
    cancelled = await harness.create()
    await harness.store.cancel([cancelled.id])

    await harness.advance(61)

    assert await stranded(harness) == []


@needs("exact_stranded")
@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_a_scan_in_pieces_finds_all(harness: Harness, limit: int) -> None:
    lost = set()
    for i in range(10):
        task = await harness.create(type=f"type-{i % 3}")
        if i % 4:
            await harness.send(task)
        else:
            lost.add(task.id)
        await harness.advance(0.5)
    _, delivery = await harness.start(type="type-1")
    await harness.queue.delete([delivery])
    lost.add(delivery.task_id)
    await harness.advance(61)

    found = await stranded(harness, limit=limit)

    assert len(found) == len(lost)
    assert {item.task.id for item in found} == lost


@needs("exact_stranded")
async def test_a_piece_is_bounded(harness: Harness) -> None:
    for _ in range(5):
        await harness.create()
    await harness.advance(61)
    page = await harness.backend.stranded("default", before=harness.now(), limit=2)
    assert len(page.found) <= 2
    assert page.next_cursor is not None


@needs("exact_stranded")
async def test_only_tasks_of_this_queue(harness: Harness) -> None:
    await harness.create(queue="other")
    await harness.advance(61)
    assert await stranded(harness) == []
    assert len(await stranded(harness, queue="other")) == 1


@pytest.mark.parametrize("cursor", ["", "x", "W10", "é"])
async def test_a_bad_cursor_is_refused(harness: Harness, cursor: str) -> None:
    with pytest.raises(InvalidQuery) as caught:
        await harness.backend.stranded("default", before=harness.now(), limit=1, cursor=cursor)
    assert caught.value.field == "cursor"


# --- what the engine does about orphans -----------------------------------------------------


async def test_reclaim_counts_a_crash_and_waits(harness: Harness) -> None:
    running, _ = await harness.start(max_attempts=3)

    verdict = await harness.store.reclaim([(running.id, 1)])

    assert verdict == [Recorded(TaskStatus.PENDING)]
    task = await harness.get(running.id)
    assert (task.status, task.retry_count, task.run_at) == (TaskStatus.PENDING, 1, None)
    assert task.error is not None
    assert task.error.type == CRASH_ERROR_TYPE
    late = Complete(task_id=running.id, attempt=1, result="late")
    assert await harness.store.record([late]) == [Fenced()]


async def test_reclaim_of_the_last_attempt_fails(harness: Harness) -> None:
    running, _ = await harness.start(max_attempts=1)
    assert await harness.store.reclaim([(running.id, 1)]) == [Recorded(TaskStatus.FAILED)]


async def test_reclaim_of_a_task_to_be_cancelled(harness: Harness) -> None:
    running, _ = await harness.start()
    await harness.store.cancel([running.id])
    assert await harness.store.reclaim([(running.id, 1)]) == [Recorded(TaskStatus.CANCELLED)]


async def test_reclaim_is_fenced(harness: Harness) -> None:
    running, _ = await harness.start()
    waiting = await harness.create()
    verdicts = await harness.store.reclaim([(running.id, 2), (waiting.id, 0), (new_task_id(), 1)])
    assert verdicts == [Fenced(), Fenced(), Fenced()]
    assert await harness.get(running.id) == running


async def test_a_reclaimed_task_starts_again(harness: Harness) -> None:
    running, delivery = await harness.start()
    await harness.queue.delete([delivery])
    await harness.store.reclaim([(running.id, 1)])
    await harness.send(await harness.get(running.id))
    started = await harness.claim(await harness.receive_one())
    assert isinstance(started, Started)
    assert (started.task.attempt, started.takeover) == (2, False)

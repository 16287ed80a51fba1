"""Listing tasks: order, filters, cursors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from task_queue_engine.backends.base import ListQuery, NewTask
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.lifecycle import Complete
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.testing.conformance.harness import Harness
from task_queue_engine.testing.conformance.needs import needs


async def everything(harness: Harness, *, limit: int, **filters: Any) -> list[Task]:
    tasks: list[Task] = []
    cursor = None
    for _ in range(1000):
        page = await harness.store.list_tasks(ListQuery(limit=limit, cursor=cursor, **filters))
        assert len(page.tasks) <= limit
        tasks += page.tasks
        cursor = page.next_cursor
        if cursor is None:
            return tasks
    raise AssertionError("the listing does not end")


async def populate(harness: Harness, number: int) -> list[Task]:
    tasks = []
    for i in range(number):
        tasks.append(await harness.create(type="email" if i % 2 else "export", payload=i))
        await harness.advance(1)
    return tasks


async def test_an_empty_store(harness: Harness) -> None:
    page = await harness.store.list_tasks(ListQuery())
    assert (page.tasks, page.next_cursor) == ((), None)


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
async def test_newest_first_page_by_page(harness: Harness, limit: int) -> None:
    tasks = await populate(harness, 7)
    assert await everything(harness, limit=limit) == tasks[::-1]


async def test_tasks_of_one_moment_are_ordered_by_id(harness: Harness) -> None:
    tasks = [harness.make_task() for _ in range(9)]
    await harness.store.create([NewTask(task=task) for task in tasks])
    by_id = sorted(tasks, key=lambda task: task.id, reverse=True)
    assert await everything(harness, limit=2) == by_id
    assert await everything(harness, limit=2, status=TaskStatus.PENDING) == by_id
    assert await everything(harness, limit=2, type="email") == by_id


async def test_order_is_by_time_of_creation_not_of_insertion(harness: Harness) -> None:
    young = await harness.create()
    old = await harness.create(created_at=harness.now() - timedelta(hours=1))
    assert await everything(harness, limit=10) == [young, old]


async def test_filters(harness: Harness) -> None:
    tasks = await populate(harness, 6)
    running = []
    for task in (tasks[1], tasks[2]):
        await harness.send(task)
        delivery = await harness.receive_one()
        await harness.claim(delivery)
        running.append(task.id)
    await harness.store.record([Complete(task_id=tasks[2].id, attempt=1, result=None)])

    async def ids(**filters: Any) -> list[str]:
        return [task.id for task in await everything(harness, limit=2, **filters)]

    assert await ids(status=TaskStatus.PROCESSING) == [tasks[1].id]
    assert await ids(status=TaskStatus.COMPLETED) == [tasks[2].id]
    assert await ids(status=TaskStatus.FAILED) == []
    assert await ids(status=TaskStatus.PENDING) == [tasks[i].id for i in (5, 4, 3, 0)]
    assert await ids(type="export") == [tasks[i].id for i in (4, 2, 0)]
    assert await ids(type="unheard of") == []
    assert await ids(type="export", status=TaskStatus.PENDING) == [tasks[4].id, tasks[0].id]
    assert await ids(type="email", status=TaskStatus.COMPLETED) == []


@pytest.mark.parametrize("filters", [{}, {"status": TaskStatus.PENDING}, {"type": "email"}])
async def test_pages_hold_still_while_tasks_are_created(
    harness: Harness, filters: dict[str, Any]
) -> None:
    tasks = [await harness.create() for _ in range(2)]
    await harness.advance(1)
    tasks += [await harness.create() for _ in range(2)]
    expected = sorted(tasks, key=lambda task: (task.created_at, task.id), reverse=True)

    first = await harness.store.list_tasks(ListQuery(limit=2, **filters))
    await harness.advance(1)
    await harness.create()
    second = await harness.store.list_tasks(ListQuery(limit=2, cursor=first.next_cursor, **filters))

    assert [*first.tasks, *second.tasks] == expected
    assert second.next_cursor is None


async def test_no_task_is_skipped_while_others_are_deleted(harness: Harness) -> None:
    tasks = await populate(harness, 6)
    first = await harness.store.list_tasks(ListQuery(limit=2))
    await harness.store.cancel([tasks[5].id, tasks[4].id])
    await harness.advance(10)
    await harness.store.expire(finished_before=harness.now(), limit=10)
    rest = await harness.store.list_tasks(ListQuery(limit=10, cursor=first.next_cursor))
    assert list(rest.tasks) == tasks[3::-1]


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "!!!", "é", "\x00", "bm9uc2Vuc2U", "W10", "WyJ0YXNrcyIsMV0", "a" * 10_000],
)
async def test_a_bad_cursor_is_refused(harness: Harness, cursor: str) -> None:
    await harness.create()
    with pytest.raises(InvalidQuery) as caught:
        await harness.store.list_tasks(ListQuery(cursor=cursor))
    assert caught.value.field == "cursor"


@needs("exact_stranded")
async def test_a_cursor_of_another_listing_is_refused(harness: Harness) -> None:
    for _ in range(2):
        await harness.create()
    await harness.advance(10)
    page = await harness.backend.stranded("default", before=harness.now(), limit=1)
    assert page.next_cursor is not None
    with pytest.raises(InvalidQuery):
        await harness.store.list_tasks(ListQuery(cursor=page.next_cursor))


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_bad_limit_is_refused(harness: Harness, limit: int) -> None:
    with pytest.raises(InvalidQuery) as caught:
        await harness.store.list_tasks(ListQuery(limit=limit))
    assert caught.value.field == "limit"
    with pytest.raises(InvalidQuery):
        await harness.queue.dead_letters.page(limit=limit)
    with pytest.raises(InvalidQuery):
        await harness.backend.stranded("default", before=harness.now(), limit=limit)


async def test_get_answers_in_the_order_asked(harness: Harness) -> None:
    first, second = await harness.create(), await harness.create()
    missing = harness.make_task()
    found = await harness.store.get([second.id, missing.id, first.id, second.id])
    assert found == [second, None, first, second]

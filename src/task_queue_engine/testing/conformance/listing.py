"""Listing tasks: order, filters, cursors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from task_queue_engine.backends.base import ListQuery, NewTask
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.lifecycle import Complete, PendingFailure
from task_queue_engine.task import Task, TaskError, TaskStatus
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


async def fail(harness: Harness, message: str, **fields: Any) -> Task:
    """A task that has FAILED with this error."""
    task = await harness.create(**fields)
    error = TaskError(type="shop.Trouble", message=message, traceback="Traceback of the MOON")
    failure = PendingFailure(task_id=task.id, attempt=0, error=error)
    await harness.store.fail_pending([failure])
    return task


async def test_filters_by_queue_time_and_error(harness: Harness) -> None:
    tasks = await populate(harness, 4)
    other = await harness.create(queue="other", type="email")
    await harness.advance(1)
    failed = [await fail(harness, f"No route to HÖST {n}") for n in range(3)]
    moment = tasks[2].created_at

    async def ids(**filters: Any) -> list[str]:
        return [task.id for task in await everything(harness, limit=2, **filters)]

    assert await ids(queue="other") == [other.id]
    assert await ids(queue="unheard of") == []
    assert len(await ids(queue="default")) == 7
    assert await ids(created_before=moment) == [tasks[1].id, tasks[0].id]
    assert await ids(created_before=moment, type="email") == [tasks[1].id]
    assert await ids(created_after=moment, created_before=other.created_at) == [
        tasks[3].id,
        tasks[2].id,
    ], "what was created at `created_after` is there, at `created_before` is not"
    by_id = sorted((task.id for task in failed), reverse=True)
    assert await ids(error="to höst") == by_id
    assert await ids(error="SHOP.trouble: no") == by_id
    assert await ids(error="höst 1", status=TaskStatus.FAILED) == [failed[1].id]
    assert await ids(error="höst 1", status=TaskStatus.CANCELLED) == []
    assert await ids(error="moon") == [], "a traceback is no text to look for"
    assert await ids(error="höst", queue="other") == []
    assert await ids(error="100%") == []


async def test_a_task_by_its_id(harness: Harness) -> None:
    tasks = await populate(harness, 3)

    async def ids(**filters: Any) -> list[str]:
        return [task.id for task in await everything(harness, limit=2, **filters)]

    wanted = tasks[1]
    assert await ids(id=wanted.id) == [wanted.id]
    assert await ids(id=wanted.id, type="email", status=TaskStatus.PENDING) == [wanted.id]
    assert await ids(id=wanted.id, status=TaskStatus.FAILED) == []
    assert await ids(id=wanted.id, type="export") == []
    assert await ids(id=wanted.id, queue="other") == []
    assert await ids(id=wanted.id, created_before=wanted.created_at) == []
    assert await ids(id=harness.make_task().id) == []
    with pytest.raises(InvalidQuery) as caught:
        await ids(id="no id")
    assert caught.value.field == "id"


@needs("finds_beginnings_of_ids")
async def test_tasks_by_the_beginning_of_their_id(harness: Harness) -> None:
    tasks = [
        await harness.create(id=f"0192{n}000-0000-7000-8000-000000000000", type=f"type-{n % 2}")
        for n in range(5)
    ]
    await harness.create(id="01930000-0000-7000-8000-000000000000")

    async def ids(**filters: Any) -> list[str]:
        return [task.id for task in await everything(harness, limit=2, **filters)]

    assert await ids(id="0192") == [task.id for task in tasks[::-1]]
    assert await ids(id="0192", type="type-1") == [tasks[3].id, tasks[1].id]
    assert await ids(id="01922") == [tasks[2].id]
    assert await ids(id="f") == []


async def test_statuses_of_which_one_will_do(harness: Harness) -> None:
    waiting = await harness.create()
    running, _ = await harness.start()
    await harness.create()
    failed = await fail(harness, "no")

    async def ids(**filters: Any) -> set[str]:
        return {task.id for task in await everything(harness, limit=2, **filters)}

    among = frozenset({TaskStatus.PROCESSING, TaskStatus.FAILED})
    assert await ids(among=among) == {running.id, failed.id}
    assert await ids(among=among, status=TaskStatus.FAILED) == {failed.id}
    assert await ids(among=among, status=TaskStatus.PENDING) == set()
    assert waiting.id in await ids(among=frozenset({TaskStatus.PENDING}))


@pytest.mark.parametrize(
    "filters",
    [{}, {"status": TaskStatus.FAILED}, {"type": "email"}, {"error": "no route 3"}],
)
async def test_counting_counts_what_would_be_listed(
    harness: Harness, filters: dict[str, Any]
) -> None:
    await populate(harness, 4)
    for n in range(5):
        await fail(harness, f"no route {n % 2 * 3}")
    number, cursor = 0, None
    for _ in range(100):
        count = await harness.store.count_tasks(ListQuery(limit=2, cursor=cursor, **filters))
        assert count.number <= 2
        number += count.number
        cursor = count.next_cursor
        if cursor is None:
            break
    assert cursor is None
    assert number == len(await everything(harness, limit=10, **filters))


@pytest.mark.parametrize(
    "filters",
    [{}, {"status": TaskStatus.PENDING}, {"type": "email"}, {"queue": "default"}],
)
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

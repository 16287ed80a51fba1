"""Creating, reading, listing with cursors."""

from __future__ import annotations

import pytest

from task_queue_engine.backends.base import (
    AlreadyExists,
    Created,
    ListQuery,
    NewTask,
    TooLarge,
)
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.task import Task, TaskStatus, new_task_id, task_id_for_key
from tests.conformance.bench import Bench, ids

# --- create and get -------------------------------------------------------------------------


async def test_what_was_created_is_found(bench: Bench) -> None:
    task = bench.task(
        type="image.resize",
        queue="slow",
        payload={"a": [1, 2]},
        max_attempts=7,
        timeout_seconds=12.5,
        run_at=bench.in_seconds(60.000001),
    )
    assert await bench.store.create([NewTask(task=task)]) == [Created()]
    assert await bench.store.get([task.id]) == [task]
    await bench.counts(pending=1)


async def test_get_answers_in_the_order_asked(bench: Bench) -> None:
    one, two = await bench.create(), await bench.create()
    missing = new_task_id()
    assert await bench.store.get([two.id, missing, one.id, two.id]) == [two, None, one, two]
    assert await bench.store.get([]) == []


@pytest.mark.parametrize("bad", ["", "x", "'; DROP TABLE tasks; --", "ü" * 300])
async def test_an_id_that_nobody_has(bench: Bench, bad: str) -> None:
    task = await bench.create()
    assert await bench.store.get([bad, task.id]) == [None, task]


async def test_the_same_id_twice_is_created_once(bench: Bench) -> None:
    task_id = task_id_for_key("order-17")
    first = await bench.create(id=task_id, payload="first")
    again = bench.task(id=task_id, payload="second", type="other")

    assert await bench.store.create([NewTask(task=again)]) == [AlreadyExists(first)]

    assert await bench.get(first) == first
    await bench.counts(pending=1)


async def test_the_same_id_twice_in_a_batch(bench: Bench) -> None:
    first = bench.task(payload=1)
    second = bench.task(id=first.id, payload=2)
    other = bench.task()

    verdicts = await bench.store.create([NewTask(task=task) for task in (first, second, other)])

    assert verdicts == [Created(), AlreadyExists(first), Created()]
    await bench.counts(pending=2)


async def test_creating_again_does_not_touch_a_task_that_went_on(bench: Bench) -> None:
    done = await bench.finish()
    again = bench.task(id=done.id)
    assert await bench.store.create([NewTask(task=again)]) == [AlreadyExists(done)]
    assert await bench.get(done) == done
    await bench.counts(completed=1)


async def test_one_that_is_too_large_does_not_fail_its_neighbours(bench: Bench) -> None:
    tasks = [bench.task(), bench.task(payload="x" * 500_000), bench.task()]

    verdicts = await bench.store.create([NewTask(task=task) for task in tasks])

    assert [type(verdict) for verdict in verdicts] == [Created, TooLarge, Created]
    (_, too_large, _) = verdicts
    assert isinstance(too_large, TooLarge)
    assert too_large.size > too_large.limit > 0
    assert await bench.store.get([tasks[1].id]) == [None]
    await bench.counts(pending=2)


async def test_nothing_asked_nothing_answered(bench: Bench) -> None:
    assert await bench.store.create([]) == []


async def test_a_batch_of_the_largest_size(bench: Bench) -> None:
    tasks = [bench.task() for _ in range(bench.store.max_batch)]
    verdicts = await bench.store.create([NewTask(task=task) for task in tasks])
    assert verdicts == [Created()] * len(tasks)
    assert await bench.store.get(ids(tasks)) == tasks


# --- listing --------------------------------------------------------------------------------


async def walk(bench: Bench, limit: int, **filters: object) -> list[Task]:
    found: list[Task] = []
    cursor = None
    while True:
        page = await bench.store.list_tasks(ListQuery(limit=limit, cursor=cursor, **filters))
        assert len(page.tasks) <= limit
        found += page.tasks
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert page.tasks


async def test_an_empty_list(bench: Bench) -> None:
    page = await bench.store.list_tasks(ListQuery())
    assert (page.tasks, page.next_cursor) == ((), None)


async def test_newest_first_and_by_id_among_equals(bench: Bench) -> None:
    tasks = []
    for _ in range(3):
        tasks += [await bench.create() for _ in range(2)]
        await bench.advance(1)
    newest_first = sorted(tasks, key=lambda task: (task.created_at, task.id), reverse=True)

    assert await walk(bench, 100) == newest_first


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_pages_show_everything_once(bench: Bench, limit: int) -> None:
    tasks = []
    for i in range(7):
        tasks.append(await bench.create())
        if i % 2:
            await bench.advance(1)
    assert ids(await walk(bench, limit)) == ids(
        sorted(tasks, key=lambda task: (task.created_at, task.id), reverse=True)
    )


async def test_the_last_page_says_that_it_is_the_last(bench: Bench) -> None:
    for _ in range(4):
        await bench.create()
    page = await bench.store.list_tasks(ListQuery(limit=2))
    assert page.next_cursor is not None
    page = await bench.store.list_tasks(ListQuery(limit=2, cursor=page.next_cursor))
    assert len(page.tasks) == 2
    assert page.next_cursor is None


async def test_a_walk_is_not_disturbed_by_new_tasks(bench: Bench) -> None:
    tasks = [await bench.create() for _ in range(4)]
    await bench.advance(1)
    page = await bench.store.list_tasks(ListQuery(limit=2))
    await bench.create()
    rest = await bench.store.list_tasks(ListQuery(limit=10, cursor=page.next_cursor))
    assert sorted(ids([*page.tasks, *rest.tasks])) == sorted(ids(tasks))


async def test_a_walk_goes_on_where_the_task_it_stood_at_is_gone(bench: Bench) -> None:
    old = [await bench.finish() for _ in range(3)]
    await bench.advance(10)
    page = await bench.store.list_tasks(ListQuery(limit=1))
    (shown,) = page.tasks
    await bench.store.expire(finished_before=bench.now, limit=10)
    await bench.create()
    rest = await bench.store.list_tasks(ListQuery(limit=10, cursor=page.next_cursor))
    assert rest.tasks == ()
    assert shown in old


async def test_filters(bench: Bench) -> None:
    done = [await bench.finish(type=type_) for type_ in ("a", "b", "a")]
    failed = [await bench.fail(type=type_) for type_ in ("a", "b", "a")]
    running = [(await bench.start(type="b"))[0]]
    waiting = [await bench.create(type="a"), await bench.create(type="c")]
    everything = done + failed + running + waiting

    for limit in (1, 2, 100):
        for status in (None, *TaskStatus):
            for type_ in (None, "a", "b", "c", "d"):
                wanted = [
                    task
                    for task in everything
                    if status in (None, task.status) and type_ in (None, task.type)
                ]
                wanted.sort(key=lambda task: (task.created_at, task.id), reverse=True)
                assert await walk(bench, limit, status=status, type=type_) == wanted


async def test_a_listing_shows_whole_tasks(bench: Bench) -> None:
    failed = await bench.fail(payload={"deep": [1, {"x": None}]})
    (found,) = (await bench.store.list_tasks(ListQuery())).tasks
    assert found == failed == await bench.get(failed)


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_one(bench: Bench, limit: int) -> None:
    with pytest.raises(InvalidQuery) as raised:
        await bench.store.list_tasks(ListQuery(limit=limit))
    assert raised.value.field == "limit"


BAD_CURSORS = ["x", "ü", "", "====", "bnVsbA", "W10", "WyJ0YXNrcyIsbnVsbF0", "\x00", "A" * 5000]


@pytest.mark.parametrize("cursor", BAD_CURSORS)
async def test_a_cursor_that_is_none(bench: Bench, cursor: str) -> None:
    await bench.create()
    with pytest.raises(InvalidQuery) as raised:
        await bench.store.list_tasks(ListQuery(cursor=cursor))
    assert raised.value.field == "cursor"
    with pytest.raises(InvalidQuery) as raised:
        await bench.queue.list_dead(limit=10, cursor=cursor)
    assert raised.value.field == "cursor"


async def test_a_cursor_of_another_listing(bench: Bench) -> None:
    for _ in range(2):
        await bench.fail()
    tasks = (await bench.store.list_tasks(ListQuery(limit=1))).next_cursor
    letters = (await bench.queue.list_dead(limit=1)).next_cursor
    assert tasks is not None
    with pytest.raises(InvalidQuery):
        await bench.queue.list_dead(limit=1, cursor=tasks)
    if letters is not None:
        with pytest.raises(InvalidQuery):
            await bench.store.list_tasks(ListQuery(limit=1, cursor=letters))


# --- expire ---------------------------------------------------------------------------------


async def test_old_tasks_that_have_ended_expire(bench: Bench) -> None:
    old = [await bench.finish(), await bench.fail()]
    cancelled = await bench.create()
    await bench.cancel(cancelled)
    waiting = await bench.create()
    running, _ = await bench.start()
    await bench.advance(10)
    limit = bench.now
    young = await bench.finish()

    assert await bench.store.expire(finished_before=limit, limit=100) == 3

    found = await bench.store.get([*ids(old), cancelled.id, waiting.id, running.id, young.id])
    assert found == [None, None, None, waiting, running, young]
    await bench.counts(pending=1, processing=1, completed=1)
    assert await bench.store.expire(finished_before=limit, limit=100) == 0


async def test_expiring_is_done_in_pieces(bench: Bench) -> None:
    for _ in range(5):
        await bench.finish()
    await bench.advance(1)
    done = [await bench.store.expire(finished_before=bench.now, limit=2) for _ in range(4)]
    assert done == [2, 2, 1, 0]
    await bench.counts()


async def test_the_id_of_an_expired_task_is_free_again(bench: Bench) -> None:
    done = await bench.finish()
    await bench.advance(1)
    await bench.store.expire(finished_before=bench.now, limit=10)
    await bench.create(id=done.id)
    await bench.counts(pending=1)

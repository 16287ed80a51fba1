"""Waiting for the end of a task: woken at once by this process, by looking for others' work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from task_queue_engine import Task, TaskNotFound, TaskStatus
from task_queue_engine.engine.waiting import Waiters
from task_queue_engine.errors import BackendUnavailable

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Looks:
    """A store with one task (and others of the same state)."""

    def __init__(self) -> None:
        self.task = Task(id="1", type="t", payload=1, created_at=NOW, updated_at=NOW)
        self.count = 0
        self.takes = 0.0
        """Seconds for a task."""
        self.failure: Exception | None = None

    async def __call__(self, task_ids: Sequence[str]) -> list[Task | None]:
        self.count += 1
        await trio.sleep(self.takes * len(task_ids))
        if self.failure is not None:
            raise self.failure
        return [self.task if task_id != "none" else None for task_id in task_ids]

    def end(self) -> None:
        self.task = msgspec.structs.replace(self.task, status=TaskStatus.COMPLETED)


@asynccontextmanager
async def looking(waiters: Waiters) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiters.look_for_all)
        yield
        nursery.cancel_scope.cancel()


async def waited(waiters: Waiters, timeout: float, results: list[float]) -> None:
    await waiters.wait("1", timeout=timeout)
    results.append(trio.current_time())


async def test_a_task_that_has_ended_is_given_at_once(autojump_clock: MockClock) -> None:
    looks = Looks()
    waiters = Waiters(looks)
    looks.end()
    before = trio.current_time()
    task = await waiters.wait("1", timeout=60)
    assert task.status is TaskStatus.COMPLETED
    assert trio.current_time() == before
    assert len(waiters) == 0


async def test_all_who_wait_are_woken_at_once(autojump_clock: MockClock) -> None:
    looks = Looks()
    waiters = Waiters(looks)
    results: list[float] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(waited, waiters, 60, results)
        await trio.sleep(10.3)
        looks.end()
        waiters.ended("1")
        ended_at = trio.current_time()
    assert results == [ended_at] * 3
    assert len(waiters) == 0


async def test_an_end_in_another_process_is_found_within_a_second(
    autojump_clock: MockClock,
) -> None:
    looks = Looks()
    waiters = Waiters(looks)
    results: list[float] = []
    async with looking(waiters), trio.open_nursery() as nursery:
        nursery.start_soon(waited, waiters, 600, results)
        await trio.sleep(100.3)
        looks.end()
        ended_at = trio.current_time()
    assert results[0] <= ended_at + 1
    assert looks.count < 120


async def test_one_look_serves_all_who_wait(autojump_clock: MockClock) -> None:
    looks = Looks()
    waiters = Waiters(looks)
    async with looking(waiters), trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(partial(waiters.wait, str(number), timeout=600))
        await trio.sleep(1)
        before = looks.count
        await trio.sleep(100)
        assert looks.count - before <= 10 * 102
        looks.end()
    assert len(waiters) == 0


async def test_looking_leaves_the_store_to_others_most_of_the_time(
    autojump_clock: MockClock,
) -> None:
    looks = Looks()
    waiters = Waiters(looks)
    busy = 0.0

    async def look(task_ids: Sequence[str]) -> list[Task | None]:
        nonlocal busy
        if len(task_ids) > 1:
            busy += looks.takes * len(task_ids)
        return await looks(task_ids)

    waiters = Waiters(look)
    async with looking(waiters), trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(partial(waiters.wait, str(number), timeout=600))
        await trio.sleep(1)
        looks.takes = 0.001
        busy = 0
        await trio.sleep(100)
        assert 10 < busy <= 21
        looks.end()


async def test_a_new_wait_is_looked_at_soon_beside_old_ones(autojump_clock: MockClock) -> None:
    looks = Looks()
    waiters = Waiters(looks)
    results: list[float] = []
    async with looking(waiters), trio.open_nursery() as nursery:
        nursery.start_soon(partial(waiters.wait, "0", timeout=600))
        await trio.sleep(100.3)
        nursery.start_soon(waited, waiters, 60, results)
        await trio.sleep(0.01)
        looks.end()
        ended_at = trio.current_time()
    assert results[0] <= ended_at + 0.1


async def test_trouble_in_the_middle_is_waited_out(autojump_clock: MockClock) -> None:
    looks = Looks()
    waiters = Waiters(looks)
    results: list[float] = []
    async with looking(waiters), trio.open_nursery() as nursery:
        nursery.start_soon(waited, waiters, 600, results)
        await trio.sleep(1)
        looks.failure = BackendUnavailable("locked")
        await trio.sleep(100)
        waiters.ended("1")  # it looks for itself, and fails
        await trio.sleep(100)
        assert looks.count < 300
        looks.failure = None
        looks.end()
        ended_at = trio.current_time()
    assert results[0] <= ended_at + 5


@pytest.mark.parametrize("at", [0, 1])
async def test_trouble_at_the_first_look_or_the_last_is_raised(
    autojump_clock: MockClock, at: float
) -> None:
    looks = Looks()
    waiters = Waiters(looks)

    async def fail() -> None:
        await trio.sleep(at)
        looks.failure = BackendUnavailable("locked")

    async with looking(waiters), trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await wait_all_tasks_blocked()
        with pytest.raises(BackendUnavailable):
            await waiters.wait("1", timeout=30)
    assert trio.current_time() == pytest.approx(30 * at)


async def test_a_defect_in_a_look_reaches_who_waits_and_no_other(
    autojump_clock: MockClock,
) -> None:
    looks = Looks()
    waiters = Waiters(looks)

    async def look(task_ids: Sequence[str]) -> list[Task | None]:
        found = await looks(task_ids)
        if trio.current_time() > 1 and "bad" in task_ids:
            raise RuntimeError("a defect")
        return found

    waiters = Waiters(look)
    results: list[float] = []
    async with looking(waiters), trio.open_nursery() as nursery:
        nursery.start_soon(waited, waiters, 30, results)
        with pytest.raises(RuntimeError, match="a defect"):
            await waiters.wait("bad", timeout=30)
        assert trio.current_time() < 3
    assert results == [pytest.approx(30)]


async def test_a_timeout_gives_the_task_as_it_is(autojump_clock: MockClock) -> None:
    looks = Looks()
    waiters = Waiters(looks)
    before = trio.current_time()
    task = await waiters.wait("1", timeout=10)
    assert task.status is TaskStatus.PENDING
    assert trio.current_time() == pytest.approx(before + 10)
    assert len(waiters) == 0


async def test_one_waiter_that_leaves_takes_the_wake_up_from_no_other(
    autojump_clock: MockClock,
) -> None:
    """Whatever the other one is doing at that moment: waiting, or looking."""
    looks = Looks()
    waiters = Waiters(looks)
    results: list[float] = []
    looking = trio.Event()
    go_on = trio.Event()

    async def slow_look(task_ids: Sequence[str]) -> list[Task | None]:
        if looking.is_set():
            return await looks(task_ids)
        task = looks.task
        looking.set()
        await go_on.wait()
        return [task]

    waiters = Waiters(slow_look)

    async def slow_waiter() -> None:
        await waiters.wait("1", timeout=60)
        results.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow_waiter)
        await looking.wait()
        await waiters.wait("1", timeout=0.2)
        go_on.set()
        await wait_all_tasks_blocked()
        looks.end()
        waiters.ended("1")
        ended_at = trio.current_time()
    assert results == [ended_at]


async def test_nothing_is_kept_of_who_is_gone(autojump_clock: MockClock) -> None:
    looks = Looks()
    waiters = Waiters(looks)

    with pytest.raises(TaskNotFound):
        await waiters.wait("none", timeout=5)
    with trio.move_on_after(3):
        await waiters.wait("1", timeout=60)
    with trio.CancelScope() as scope:
        scope.cancel()
        await waiters.wait("1", timeout=60)
    assert len(waiters) == 0


async def test_when_the_engine_ends_every_caller_looks_once_more(
    autojump_clock: MockClock,
) -> None:
    looks = Looks()
    waiters = Waiters(looks)
    results: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waited, waiters, 600, results)
        await trio.sleep(100.3)
        looks.end()
        waiters.wake_all()
        ended_at = trio.current_time()
    assert results == [ended_at]

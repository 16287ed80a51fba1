"""Waiting for the end of a task: woken at once by this process, by looking for others' work."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from task_queue_engine import Task, TaskNotFound, TaskStatus
from task_queue_engine.engine.waiting import Waiters

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Looks:
    """A store with one task."""

    def __init__(self) -> None:
        self.task = Task(id="1", type="t", payload=1, created_at=NOW, updated_at=NOW)
        self.count = 0

    async def __call__(self) -> Task:
        await trio.lowlevel.checkpoint()
        self.count += 1
        return self.task

    def end(self) -> None:
        self.task = msgspec.structs.replace(self.task, status=TaskStatus.COMPLETED)


async def waited(waiters: Waiters, looks: Looks, timeout: float, results: list[float]) -> None:
    await waiters.wait("1", look=looks, timeout=timeout)
    results.append(trio.current_time())


async def test_a_task_that_has_ended_is_given_at_once(autojump_clock: MockClock) -> None:
    waiters, looks = Waiters(), Looks()
    looks.end()
    before = trio.current_time()
    task = await waiters.wait("1", look=looks, timeout=60)
    assert task.status is TaskStatus.COMPLETED
    assert trio.current_time() == before
    assert len(waiters) == 0


async def test_all_who_wait_are_woken_at_once(autojump_clock: MockClock) -> None:
    waiters, looks = Waiters(), Looks()
    results: list[float] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(waited, waiters, looks, 60, results)
        await trio.sleep(10.3)
        looks.end()
        waiters.ended("1")
        ended_at = trio.current_time()
    assert results == [ended_at] * 3
    assert len(waiters) == 0


async def test_an_end_in_another_process_is_found_within_a_second(
    autojump_clock: MockClock,
) -> None:
    waiters, looks = Waiters(), Looks()
    results: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waited, waiters, looks, 600, results)
        await trio.sleep(100.3)
        looks.end()
        ended_at = trio.current_time()
    assert results[0] <= ended_at + 1
    assert looks.count < 120


async def test_a_timeout_gives_the_task_as_it_is(autojump_clock: MockClock) -> None:
    waiters, looks = Waiters(), Looks()
    before = trio.current_time()
    task = await waiters.wait("1", look=looks, timeout=10)
    assert task.status is TaskStatus.PENDING
    assert trio.current_time() == pytest.approx(before + 10)
    assert len(waiters) == 0


async def test_one_waiter_that_leaves_takes_the_wake_up_from_no_other(
    autojump_clock: MockClock,
) -> None:
    """Whatever the other one is doing at that moment: waiting, or looking."""
    waiters, looks = Waiters(), Looks()
    results: list[float] = []
    looking = trio.Event()
    go_on = trio.Event()

    async def slow_look() -> Task:
        task = looks.task
        looking.set()
        await go_on.wait()
        return task

    async def slow_waiter() -> None:
        await waiters.wait("1", look=slow_look, timeout=60)
        results.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow_waiter)
        await looking.wait()
        await waiters.wait("1", look=looks, timeout=0.2)
        go_on.set()
        await wait_all_tasks_blocked()
        looks.end()
        waiters.ended("1")
        ended_at = trio.current_time()
    assert results == [ended_at]


async def test_nothing_is_kept_of_who_is_gone(autojump_clock: MockClock) -> None:
    waiters, looks = Waiters(), Looks()

    async def not_there() -> Task:
        await trio.lowlevel.checkpoint()
        raise TaskNotFound("1")

    with pytest.raises(TaskNotFound):
        await waiters.wait("1", look=not_there, timeout=5)
    with trio.move_on_after(3):
        await waiters.wait("1", look=looks, timeout=60)
    with trio.CancelScope() as scope:
        scope.cancel()
        await waiters.wait("1", look=looks, timeout=60)
    assert len(waiters) == 0


async def test_when_the_engine_ends_every_caller_looks_once_more(
    autojump_clock: MockClock,
) -> None:
    waiters, looks = Waiters(), Looks()
    results: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waited, waiters, looks, 600, results)
        await trio.sleep(100.3)
        looks.end()
        waiters.wake_all()
        ended_at = trio.current_time()
    assert results == [ended_at]

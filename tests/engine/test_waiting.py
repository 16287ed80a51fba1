"""Waiting for the end of a task: woken at once by this process, by looking for others' work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from task_queue_engine import Task, TaskNotFound, TaskStatus
from task_queue_engine.backends.base import Heard
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
        self.sizes: list[int] = []
        self.ended: set[str] = set()
        """Others that have ended."""

    async def __call__(self, task_ids: Sequence[str]) -> list[Task | None]:
        self.count += 1
        self.sizes.append(len(task_ids))
        await trio.sleep(self.takes * len(task_ids))
        if self.failure is not None:
            raise self.failure
        return [self._task(task_id) if task_id != "none" else None for task_id in task_ids]

    def _task(self, task_id: str) -> Task:
        status = TaskStatus.COMPLETED if task_id in self.ended else self.task.status
        return msgspec.structs.replace(self.task, id=task_id, status=status)

    def end(self) -> None:
        self.task = msgspec.structs.replace(self.task, status=TaskStatus.COMPLETED)


class Elsewhere:
    """Other processes, as a backend lets them be heard."""

    def __init__(self) -> None:
        self.heard: Heard | None = None
        self.hears: Callable[[bool], object] | None = None

    async def __call__(self, heard: Heard, *, hears: Callable[[bool], object]) -> None:
        self.heard, self.hears = heard, hears
        hears(True)
        heard(None)
        await trio.sleep_forever()

    def tell(self, task_ids: Sequence[str] | None) -> None:
        assert self.heard is not None
        self.heard(task_ids)


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


async def test_those_who_came_one_after_the_other_share_their_looks(
    autojump_clock: MockClock,
) -> None:
    """A look is a request, or is paid for as one."""
    looks = Looks()
    looks.takes = 0.001
    waiters = Waiters(looks)
    async with looking(waiters), trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(partial(waiters.wait, str(number), timeout=600))
            await trio.sleep(0.037)
        await trio.sleep(10)
        looks.sizes.clear()
        await trio.sleep(100)
        assert len(looks.sizes) <= 4 * 101
        # Once a second, each of them: nobody's turn is lost, and hardly any comes too early.
        assert 95 <= sum(looks.sizes) / 100 <= 105
        looks.end()


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


async def test_a_new_wait_is_not_held_up_by_thousands_of_old_ones(
    autojump_clock: MockClock,
) -> None:
    looks = Looks()
    waiters = Waiters(looks)
    results: list[float] = []
    async with looking(waiters), trio.open_nursery() as nursery:
        for number in range(3000):
            nursery.start_soon(partial(waiters.wait, f"old {number}", timeout=600))
        await trio.sleep(5)
        looks.takes = 0.000_2
        await trio.sleep(20)
        for _ in range(20):
            nursery.start_soon(waited, waiters, 60, results)
            await trio.sleep(0.01)
            looks.ended.add("1")
            ended_at = trio.current_time()
            await trio.sleep(1)
            assert results.pop() <= ended_at + 0.1
            looks.ended.clear()
        looks.takes = 0
        looks.end()


async def test_a_crowd_that_comes_at_once_shares_its_looks(autojump_clock: MockClock) -> None:
    looks = Looks()
    looks.takes = 0.000_1
    waiters = Waiters(looks)
    looks.end()
    async with looking(waiters), trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        for number in range(3000):
            nursery.start_soon(partial(waiters.wait, str(number), timeout=600))
    assert looks.count < 50
    assert max(looks.sizes) <= 200
    assert len(waiters) == 0


async def test_each_of_a_crowd_gets_its_own_answer(autojump_clock: MockClock) -> None:
    looks = Looks()
    looks.takes = 0.01
    looks.end()

    async def look(task_ids: Sequence[str]) -> list[Task | None]:
        found = await looks(task_ids)
        if "bad" in task_ids:
            raise RuntimeError("a defect")
        return found

    waiters = Waiters(look)
    outcomes: dict[str, str] = {}

    async def wait(task_id: str) -> None:
        try:
            outcomes[task_id] = (await waiters.wait(task_id, timeout=60)).id
        except Exception as error:  # noqa: BLE001  # whatever comes is what is asked about
            outcomes[task_id] = type(error).__name__

    async with looking(waiters), trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        for task_id in ("1", "2", "3", "none", "4", "bad", "5"):
            nursery.start_soon(wait, task_id)
        with trio.move_on_after(0.005):  # one that leaves at once takes no answer from the others
            await waiters.wait("6", timeout=60)
    assert outcomes == {
        **{each: each for each in "12345"}, "none": "TaskNotFound", "bad": "RuntimeError"
    }  # fmt: skip


async def test_a_crowd_in_trouble_makes_no_more_looks_than_before(
    autojump_clock: MockClock,
) -> None:
    looks = Looks()
    looks.takes = 0.000_1
    looks.failure = BackendUnavailable("locked")
    waiters = Waiters(looks)
    failed = 0

    async def wait(task_id: str) -> None:
        nonlocal failed
        with pytest.raises(BackendUnavailable):
            await waiters.wait(task_id, timeout=60)
        failed += 1

    async with looking(waiters), trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        for number in range(1000):
            nursery.start_soon(wait, str(number))
    assert failed == 1000
    assert looks.count < 20


async def test_a_crowd_whose_looks_end_looks_for_itself(autojump_clock: MockClock) -> None:
    """The engine ends, and this is the last that callers hear."""
    looks = Looks()
    looks.takes = 0.01
    waiters = Waiters(looks)
    looks.end()
    async with trio.open_nursery() as nursery, looking(waiters):
        await wait_all_tasks_blocked()
        for number in range(10):
            nursery.start_soon(partial(waiters.wait, str(number), timeout=60))
        await trio.sleep(0.001)
    assert len(waiters) == 0


async def test_what_is_heard_to_have_ended_is_looked_at_at_once_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    looks, elsewhere = Looks(), Elsewhere()
    waiters = Waiters(looks, elsewhere)
    results: list[float] = []
    async with looking(waiters), trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(partial(waiters.wait, f"other {number}", timeout=600))
        nursery.start_soon(waited, waiters, 600, results)
        await trio.sleep(100.3)
        looks.ended.add("1")
        looks.sizes.clear()
        elsewhere.tell(["1", "no one waits for this"])
        ended_at = trio.current_time()
        await wait_all_tasks_blocked()
        assert results == [ended_at]
        assert looks.sizes == [1]
        looks.end()
        elsewhere.tell(None)
        await wait_all_tasks_blocked()
        assert len(waiters) == 0


async def test_nothing_is_listened_for_until_someone_waits(autojump_clock: MockClock) -> None:
    looks, elsewhere = Looks(), Elsewhere()
    waiters = Waiters(looks, elsewhere)
    async with looking(waiters):
        await trio.sleep(10)
        assert elsewhere.heard is None
        await waiters.wait("1", timeout=1)
        assert elsewhere.heard is not None


async def test_where_ends_are_heard_looking_takes_next_to_nothing(
    autojump_clock: MockClock,
) -> None:
    """It is for what was missed, and comes in the end."""
    looks, elsewhere = Looks(), Elsewhere()
    waiters = Waiters(looks, elsewhere)
    results: list[float] = []
    async with looking(waiters), trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(partial(waiters.wait, f"other {number}", timeout=6000))
        nursery.start_soon(waited, waiters, 6000, results)
        await trio.sleep(10)
        looks.takes = 0.001
        looks.sizes.clear()
        await trio.sleep(1000)
        assert 10 < sum(looks.sizes) * looks.takes <= 21
        looks.ended.add("1")
        ended_at = trio.current_time()
        await trio.sleep(100)
        assert results[0] <= ended_at + 60
        looks.takes = 0
        looks.end()


async def test_where_ends_are_no_longer_heard_they_are_looked_for(
    autojump_clock: MockClock,
) -> None:
    looks, elsewhere = Looks(), Elsewhere()
    waiters = Waiters(looks, elsewhere)
    results: list[float] = []
    async with looking(waiters), trio.open_nursery() as nursery:
        nursery.start_soon(partial(waiters.wait, "other", timeout=100))
        await trio.sleep(10)
        assert elsewhere.hears is not None
        elsewhere.hears(False)
        nursery.start_soon(waited, waiters, 600, results)
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

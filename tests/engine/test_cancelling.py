"""No handler starts once its task is cancelled; a running one is stopped, and cleans up first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from task_queue_engine import (
    Engine,
    Retry,
    Snooze,
    TaskCancelled,
    TaskNotFound,
    TaskRegistry,
    TaskStatus,
)
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.errors import WrongState
from task_queue_engine.task import new_task_id
from tests.engine.engines import (
    LEASE,
    MAX_DELAY,
    Runs,
    claim_and_die,
    depth,
    ended,
    process,
    reaches,
    row,
    running,
    step_of,
    until,
)


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture(autouse=True)
def work(tasks: TaskRegistry, runs: Runs) -> Any:
    @tasks.task("work")
    async def work(seconds: float, context: Any) -> None:
        runs(context)
        await trio.sleep(seconds)

    return work


@asynccontextmanager
async def busy(tasks: TaskRegistry, backend: MemoryBackend, **values: Any) -> AsyncIterator[Engine]:
    """An engine whose workers are all taken."""
    async with running(tasks, backend, **values) as engine:
        for _ in range(values.get("worker_count", 2)):
            await engine.submit("work", 100)
        await until(lambda: engine.statistics()["claimer"]["claimed"] == 2)
        yield engine


# --- before the start -----------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, MAX_DELAY, MAX_DELAY + 60])
@pytest.mark.usefixtures("short_delays")
async def test_a_task_that_waits_never_starts(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, delay: float
) -> None:
    async with busy(tasks, backend) as engine:
        handle = await engine.submit("work", 1, delay=delay)
        task = await handle.cancel()
        assert task.status is TaskStatus.CANCELLED
        assert task.finished_at is not None
        with pytest.raises(TaskCancelled):
            await handle.result(timeout=1)
        await trio.sleep(300)  # longer than the delay, and than the workers are taken
        assert await handle.status() is TaskStatus.CANCELLED
    assert handle.id not in [task_id for task_id, _ in runs.starts]
    assert (await depth(backend)).waiting == 0


@pytest.mark.usefixtures("short_delays")
async def test_a_task_that_waits_for_its_retry_never_starts_again(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    starts = 0

    @tasks.task("asks")
    async def asks(delay: float) -> None:
        nonlocal starts
        starts += 1
        raise Retry(delay)

    async with running(tasks, backend) as engine:
        for delay in (MAX_DELAY, MAX_DELAY + 60):
            handle = await engine.submit(asks, delay)
            await trio.sleep(10)
            assert (await handle.cancel()).status is TaskStatus.CANCELLED
        await trio.sleep(300)
    assert starts == 2


@pytest.mark.two_services
@pytest.mark.parametrize("from_elsewhere", [False, True])
async def test_a_cancel_that_lands_while_the_delivery_waits_in_the_buffer(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, from_elsewhere: bool
) -> None:
    """Received, leased, and not claimed: it is cancelled at once, whichever process is asked."""
    async with (
        running(tasks, backend, worker_count=1, prefetch=3) as engine,
        running(tasks, backend, consume=False) as elsewhere,
    ):
        first = await engine.submit("work", 100)
        waiting = [await engine.submit("work", 1) for _ in range(3)]
        await until(lambda: engine.statistics()["claimer"]["waiting"] == 3)
        cancelled = await (elsewhere if from_elsewhere else engine).cancel(waiting[1].id)
        assert cancelled.status is TaskStatus.CANCELLED
        for handle in (first, waiting[0], waiting[2]):
            await handle.result()
    assert waiting[1].id not in [task_id for task_id, _ in runs.starts]


@pytest.mark.two_services
async def test_what_waits_in_the_buffer_is_pending(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """PROCESSING means that a handler runs: `deadline` counts from there, too."""
    deadlines: list[float] = []

    @tasks.task("tells", timeout=50)
    async def tells(payload: Any, context: Any) -> None:
        deadlines.append((context.deadline - backend.clock.now()).total_seconds())
        await trio.sleep(20)

    async with running(tasks, backend, worker_count=1, prefetch=3) as engine:
        handles = [await engine.submit(tells) for _ in range(4)]
        await until(lambda: engine.statistics()["claimer"]["waiting"] == 3, timeout=10)
        counts = await backend.store.counts()
        assert (counts.processing, counts.pending) == (1, 3)
        for handle in handles:
            await handle.result()
    assert deadlines == [pytest.approx(50)] * 4


async def test_a_cancel_that_lands_while_the_claim_is_under_way(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    """The store has started the attempt; its answer is on the way."""
    async with process(tasks, backend) as one:
        await trio.testing.wait_all_tasks_blocked()  # the poll is open
        with hold_answers(one.link, step_of(backend, "claim")) as answered:
            await past_the_open_poll(one.engine, backend, tasks)
            handle = await one.engine.submit("work", 1)
            await reaches(one.engine, handle.id, TaskStatus.PROCESSING)
            await handle.cancel()
            await trio.sleep(1)
            answered.set()
        assert (await ended(one.engine, handle.id)).status is TaskStatus.CANCELLED
    assert runs.starts == []


@pytest.mark.parametrize("turn", range(20))  # trio draws who of those that can run goes first
async def test_a_cancel_and_a_claim_that_are_answered_in_one_moment(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, turn: int
) -> None:
    """What has not started when the cancel is answered does not start in the next moment."""
    async with process(tasks, backend) as one, trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()  # the poll is open
        with (
            hold_answers(one.link, step_of(backend, "claim")) as claim,
            hold_answers(one.link, "cancel") as cancel,
        ):
            await past_the_open_poll(one.engine, backend, tasks)
            handle = await one.engine.submit("work", 1)
            await reaches(one.engine, handle.id, TaskStatus.PROCESSING)
            started: list[int] = []

            async def cancel_it() -> None:
                await handle.cancel()
                started.append(len(runs))

            nursery.start_soon(cancel_it)
            await trio.sleep(1)
            claim.set()
            cancel.set()
        assert (await ended(one.engine, handle.id)).status is TaskStatus.CANCELLED
        await trio.sleep(10)
        assert started == [len(runs)]


async def past_the_open_poll(engine: Engine, backend: MemoryBackend, tasks: TaskRegistry) -> None:
    """Where a poll claims, the one that is open was asked for before: this is what it brings."""

    @tasks.task("first")
    async def first(payload: Any) -> None: ...

    if backend.is_one_transaction:
        await (await engine.submit(first)).result(timeout=10)


class hold_answers:  # noqa: N801 - used like a function
    """Calls of one operation take effect, and their answers come when the event is set."""

    def __init__(self, link: Any, operation: str) -> None:
        self._link = link
        self._operation = operation
        self._answered = trio.Event()

    def __enter__(self) -> trio.Event:
        through = self._link.pass_through

        async def slow(operation: str, *args: Any, **kwargs: Any) -> Any:
            answer = await through(operation, *args, **kwargs)
            if operation == self._operation:
                await self._answered.wait()
            return answer

        self._link.pass_through = slow
        return self._answered

    def __exit__(self, *_: object) -> None:
        self._answered.set()


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("seed", range(20))
async def test_a_cancel_at_any_moment_means_it_does_not_start_after(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs, seed: int, prefetch: int
) -> None:
    """Whatever the answer is: what has not started when it comes never does."""
    async with process(tasks, backend, worker_count=2, prefetch=prefetch) as one:
        with late_answers(one.link, step_of(backend, "claim"), turns=4):
            for _ in range(3):  # trio draws who of those that can run goes first
                await cancel_one_of_two(one.engine, runs, after_turns=seed)
    assert (await depth(backend)).waiting == 0


async def cancel_one_of_two(engine: Engine, runs: Runs, *, after_turns: int) -> None:
    other = await engine.submit("work", 1)
    cancelled = await engine.submit("work", 1)  # there is a free worker for it
    for _ in range(after_turns):
        await trio.lowlevel.checkpoint()
    task = await cancelled.cancel()
    started = [task_id for task_id, _ in runs.starts if task_id == cancelled.id]
    assert not (started and task.status is TaskStatus.CANCELLED)
    assert (await ended(engine, cancelled.id)).status is TaskStatus.CANCELLED
    await other.result(timeout=1000)
    await trio.sleep(1)
    assert [task_id for task_id, _ in runs.starts if task_id == cancelled.id] == started


@contextmanager
def late_answers(link: Any, operation: str, *, turns: int) -> Iterator[None]:
    """Calls of one operation take effect some turns of the loop before they are answered."""
    through = link.pass_through

    async def late(called: str, *args: Any, **kwargs: Any) -> Any:
        answer = await through(called, *args, **kwargs)
        if called == operation:
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
        return answer

    link.pass_through = late
    try:
        yield
    finally:
        link.pass_through = through


# --- while it runs --------------------------------------------------------------------------


async def test_a_running_handler_is_stopped_and_its_cleanup_runs_before_cancelled_is_written(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    statuses: list[TaskStatus] = []

    @tasks.task("cleans-up")
    async def cleans_up(payload: Any, context: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(30)
                statuses.append(row(backend, context.task_id).task.status)

    async with running(tasks, backend) as engine:
        handle = await engine.submit(cleans_up)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        asked_at = trio.current_time()
        task = await handle.cancel()
        assert (task.status, task.cancel_requested) == (TaskStatus.PROCESSING, True)
        with pytest.raises(TaskCancelled):
            await handle.result()
        assert trio.current_time() - asked_at == pytest.approx(30, abs=0.1)
        task = await handle.task()
    assert statuses == [TaskStatus.PROCESSING]
    assert (task.status, task.retry_count) == (TaskStatus.CANCELLED, 0)
    assert (await depth(backend)).in_flight == 0


async def test_a_running_handler_is_stopped_from_any_engine_that_shares_the_backend(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with (
        running(tasks, backend) as engine,
        running(tasks, backend, consume=False) as elsewhere,
    ):
        handle = await engine.submit("work", 1000)
        await trio.sleep(10)
        asked_at = trio.current_time()
        await elsewhere.cancel(handle.id)
        task = await ended(elsewhere, handle.id)
        assert task.status is TaskStatus.CANCELLED
        assert trio.current_time() - asked_at < 3


async def test_a_handler_that_returns_in_spite_of_it_has_completed(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    @tasks.task("stubborn")
    async def stubborn(payload: Any) -> str:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return "done all the same"

    async with running(tasks, backend) as engine:
        handle = await engine.submit(stubborn)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        await handle.cancel()
        assert await handle.result() == "done all the same"
        assert await handle.status() is TaskStatus.COMPLETED


@pytest.mark.parametrize("error", [ValueError("in the cleanup"), Retry(5), Snooze(5)])
async def test_what_the_cleanup_raises_does_not_bring_the_task_back(
    tasks: TaskRegistry, backend: MemoryBackend, error: Exception
) -> None:
    starts = 0

    @tasks.task("t")
    async def t(payload: Any) -> None:
        nonlocal starts
        starts += 1
        try:
            await trio.sleep_forever()
        finally:
            raise error

    async with running(tasks, backend) as engine:
        handle = await engine.submit(t)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        await handle.cancel()
        task = await ended(engine, handle.id)
        assert task.status is TaskStatus.CANCELLED
        assert task.error is not None
        assert task.error.message == str(error)
        await trio.sleep(600)
    assert starts == 1


async def test_a_handler_that_fails_just_then_is_cancelled_and_not_retried(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    """The request is in the store, the worker has not heard of it."""

    @tasks.task("fails")
    async def fails(payload: Any) -> None:
        await trio.sleep(100)
        raise ValueError

    async with running(tasks, backend, cancel_poll=3600) as engine:
        handle = await engine.submit(fails)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        await backend.store.cancel([handle.id])
        assert (await ended(engine, handle.id)).status is TaskStatus.CANCELLED
    assert (await depth(backend)).waiting == 0


async def test_the_task_of_a_dead_worker_is_cancelled_when_its_lease_ends(
    tasks: TaskRegistry, backend: MemoryBackend, runs: Runs
) -> None:
    async with running(tasks, backend, consume=False) as engine:
        handle = await engine.submit("work", 1)
        await claim_and_die(backend)
        await handle.cancel()
        async with running(tasks, backend):
            task = await ended(engine, handle.id)
            assert task.status is TaskStatus.CANCELLED
            await trio.sleep(LEASE)
    assert runs.starts == []
    assert (await depth(backend)).in_flight == 0


async def test_a_cancel_before_a_shutdown_is_not_undone_by_it(
    tasks: TaskRegistry, backend: MemoryBackend
) -> None:
    async with running(tasks, backend, cancel_poll=3600) as engine:
        handle = await engine.submit("work", 1000)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        await backend.store.cancel([handle.id])
        await engine.stop()
    assert row(backend, handle.id).task.status is TaskStatus.CANCELLED
    assert (await depth(backend)).waiting == 0


# --- what cannot be cancelled ---------------------------------------------------------------


async def test_what_has_ended_stays_as_it_is(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        handle = await engine.submit("work", 1)
        await handle.result()
        with pytest.raises(WrongState) as caught:
            await handle.cancel()
        assert caught.value.status is TaskStatus.COMPLETED
        assert await handle.status() is TaskStatus.COMPLETED
        with pytest.raises(TaskNotFound):
            await engine.cancel(new_task_id())


async def test_cancelling_twice_is_harmless(tasks: TaskRegistry, backend: MemoryBackend) -> None:
    async with running(tasks, backend) as engine:
        handle = await engine.submit("work", 1000)
        await reaches(engine, handle.id, TaskStatus.PROCESSING)
        await handle.cancel()
        await handle.cancel()
        assert (await ended(engine, handle.id)).status is TaskStatus.CANCELLED
        with pytest.raises(WrongState):
            await handle.cancel()

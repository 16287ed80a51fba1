"""Claiming ahead: what is claimed before a worker is free, and what becomes of it where none is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from task_queue_engine import TaskRegistry, TaskStatus
from task_queue_engine.actors.messages import Attempt, Errored, Interrupted, Release
from task_queue_engine.actors.pace import PATIENCE, SHORT
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.clock import TrioClock
from task_queue_engine.registry import RunsIn
from task_queue_engine.retry import SnoozeUntil
from tests.actors.polling import Rig, known, polling
from tests.actors.support import put, status


@pytest.fixture(params=[False, True], ids=["two services", "one transaction"])
async def backend(
    request: pytest.FixtureRequest, autojump_clock: MockClock
) -> AsyncIterator[MemoryBackend]:
    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=request.param)
    async with backend.open():
        yield backend


@pytest.fixture
async def one(autojump_clock: MockClock) -> AsyncIterator[MemoryBackend]:
    """Of which a step is one transaction."""
    backend = MemoryBackend(clock=TrioClock(), is_one_transaction=True)
    async with backend.open():
        yield backend


def warm(rig: Rig, *, name: str = "t", seconds: float = SHORT / 10) -> None:
    """The one worker is free, after something short."""
    rig.free(after=name, seconds=seconds)


def handed_over(rig: Rig) -> list[Attempt]:
    found: list[Attempt] = []
    try:
        while True:
            found.append(rig.deliveries.receive_nowait())
    except trio.WouldBlock:
        return found


async def test_what_proved_short_is_claimed_before_a_worker_is_free(
    backend: MemoryBackend,
) -> None:
    tasks = [await put(backend) for _ in range(10)]
    async with polling(backend, demand=0, workers=1, prefetch=None) as rig:
        warm(rig)
        await trio.testing.wait_all_tasks_blocked()
        attempts = handed_over(rig)
        assert [attempt.task.id for attempt in attempts] == [task.id for task in tasks]
        assert [attempt.lease.claimed_ahead for attempt in attempts] == [False] + [True] * 9
        for attempt in attempts:
            row = backend.store.row(attempt.task.id)
            assert row is not None
            assert row.claimed_ahead is attempt.lease.claimed_ahead
        assert rig.claimer.statistics().ahead == 9


async def test_what_is_not_short_waits_for_its_worker(backend: MemoryBackend) -> None:
    for _ in range(10):
        await put(backend)
    async with polling(backend, demand=0, workers=1, prefetch=None) as rig:
        warm(rig, seconds=10)
        await trio.testing.wait_all_tasks_blocked()
        assert len(handed_over(rig)) == 1
        counts = await backend.store.counts()
        assert (counts.processing, counts.pending) == (1, 9)
        assert (await backend.queue("default").depth()).in_flight == 1


async def test_without_a_free_worker_it_goes_back_in_a_moment(backend: MemoryBackend) -> None:
    """Other processes may have one."""
    for _ in range(10):
        await put(backend)
    async with polling(backend, demand=0, workers=1, prefetch=None) as rig:
        warm(rig)
        await rig.deliveries.receive()
        began = trio.current_time()
        for _ in range(9):
            assert isinstance(await rig.outcomes.receive(), Interrupted)
        assert trio.current_time() - began == pytest.approx(PATIENCE)
        assert (rig.claimer.statistics().returned, rig.claimer.statistics().ahead) == (9, 0)
        # And no more is taken until a worker comes free.
        calls = backend.faults.calls["take"] + backend.faults.calls["receive"]
        await put(backend)
        await trio.sleep(10)
        assert backend.faults.calls["take"] + backend.faults.calls["receive"] == calls
        warm(rig)
        await rig.deliveries.receive()


async def test_it_is_not_taken_back_while_workers_come_free(backend: MemoryBackend) -> None:
    for _ in range(10):
        await put(backend)
    async with polling(backend, demand=0, workers=1, prefetch=None) as rig:
        for _ in range(10):
            warm(rig)
            await rig.deliveries.receive()
            await trio.sleep(PATIENCE / 2)
        assert rig.claimer.statistics().returned == 0


async def test_at_a_stop_it_goes_back(backend: MemoryBackend) -> None:
    tasks = [await put(backend) for _ in range(10)]
    async with polling(backend, demand=0, workers=1, prefetch=None) as rig:
        warm(rig)
        started = await rig.deliveries.receive()
        rig.stop()
        await rig.done.wait()
        given_back = [outcome async for outcome in rig.outcomes]
        assert all(isinstance(outcome, Interrupted) for outcome in given_back)
        assert {outcome.attempt.task.id for outcome in given_back} == {
            task.id for task in tasks
        } - {started.task.id}
        assert handed_over_after(rig) == []


def handed_over_after(rig: Rig) -> list[Attempt]:
    try:
        return [rig.deliveries.receive_nowait()]
    except trio.EndOfChannel:
        return []


async def test_nothing_waits_or_starts_on_top_of_outcomes_that_cannot_be_recorded(
    backend: MemoryBackend,
) -> None:
    """They will be claimed elsewhere, or later: each that starts is one more to lose."""
    for _ in range(10):
        await put(backend)
    async with polling(backend, demand=0, workers=1, prefetch=None) as rig:
        warm(rig)
        await rig.deliveries.receive()
        began = trio.current_time()
        rig.recording(works=False)
        for _ in range(9):
            assert isinstance(await rig.outcomes.receive(), Interrupted)
        assert trio.current_time() == began
        warm(rig)
        await trio.sleep(60)
        assert handed_over(rig) == []
        rig.recording(works=True)
        await put(backend)
        await rig.deliveries.receive()


async def test_a_last_chance_is_claimed_when_a_worker_is_free(backend: MemoryBackend) -> None:
    """Others of its type, which are claimed ahead, pass it."""
    async with polling(backend, demand=0, workers=1, prefetch=8) as rig:
        warm(rig)
        await put(backend)
        await rig.deliveries.receive()
        waiting, other = await put(backend, max_attempts=1), await put(backend)
        await trio.sleep(PATIENCE / 2)
        attempt = rig.deliveries.receive_nowait()
        assert (attempt.task.id, attempt.lease.claimed_ahead) == (other.id, True)
        assert status(backend, waiting.id) is TaskStatus.PENDING
        warm(rig)
        await trio.testing.wait_all_tasks_blocked()
        assert handed_over(rig) == [], "that one was for what had been claimed ahead"
        warm(rig)
        attempt = await rig.deliveries.receive()
        assert (attempt.task.id, attempt.lease.claimed_ahead) == (waiting.id, False)


async def test_what_is_only_leased_goes_back_too(backend: MemoryBackend) -> None:
    """It is short and a last chance, or of another type than those that were: it waits for a
    worker, and the workers are busy with what takes long."""
    registry = known("t", "slow")
    async with polling(backend, demand=0, workers=1, prefetch=None, registry=registry) as rig:
        warm(rig)
        await trio.testing.wait_all_tasks_blocked()
        first = await put(backend, type="slow")
        for _ in range(3):
            await put(backend, max_attempts=1)
        assert (await rig.deliveries.receive()).task.id == first.id
        await trio.sleep(2 * PATIENCE)
        depth = await backend.queue("default").depth()
        released = 0
        while True:
            try:
                settlements = rig.settlements.receive_nowait()
            except trio.WouldBlock:
                break
            assert all(isinstance(one, Release) for one in settlements)
            released += len(settlements)
        assert depth.in_flight - released == 1
        assert rig.claimer.statistics().waiting == 0


async def test_with_a_fixed_prefetch_what_is_only_leased_waits(autojump_clock: MockClock) -> None:
    backend = MemoryBackend(clock=TrioClock())
    async with backend.open(), polling(backend, demand=1, prefetch=4) as rig:
        for _ in range(5):
            await put(backend)
        await rig.deliveries.receive()
        await trio.sleep(60)
        assert rig.claimer.statistics().waiting == 4
        assert rig.claimer.statistics().returned == 0


async def test_a_payload_that_is_refused_after_its_claim_goes_back_at_no_cost(
    one: MemoryBackend,
) -> None:
    """Claimed unseen, since the type had never been refused; from then on it is looked at first."""
    registry = TaskRegistry()

    @registry.task("t")
    async def handler(payload: int) -> None: ...

    refused = await put(one, payload="no number")
    async with polling(one, demand=2, prefetch=None, registry=registry) as rig:
        outcome = await rig.outcomes.receive()
        assert isinstance(outcome, Errored)
        assert outcome.attempt.task.id == refused.id
        assert isinstance(outcome.decision, SnoozeUntil)
        assert rig.claimer.statistics().given_back_by_type == {"t": 1}
        rig.free()

        good, bad = await put(one), await put(one, payload="no number")
        assert (await rig.deliveries.receive()).task.id == good.id
        assert isinstance(await rig.settlement(), Release)
        assert status(one, bad.id) is TaskStatus.PENDING
        row = one.store.row(bad.id)
        assert row is not None
        assert row.task.attempt == 0


async def test_of_a_place_no_more_is_claimed_ahead_than_it_has(backend: MemoryBackend) -> None:
    """A thread is free for it, or it waits."""
    registry = known()

    @registry.task("t")
    def handler(payload: Any) -> None: ...

    for _ in range(6):
        await put(backend)
    places = {RunsIn.THREAD: 2}
    async with polling(
        backend, demand=0, workers=1, prefetch=None, registry=registry, places=places
    ) as rig:
        rig.claimer._buffer.started("t")  # what ended just now had begun
        warm(rig)
        await trio.testing.wait_all_tasks_blocked()
        assert len(handed_over(rig)) == 2
        assert (await backend.store.counts()).processing == 2

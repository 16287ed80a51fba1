"""What others see of a process: at once at its start, while it drains, and not once it has left."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
import trio
from trio.testing import MockClock

from task_queue_engine.actors.presence import Presence
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.worker import (
    BEAT,
    LIVING_FOR,
    LOST_FOR,
    MAX_RUNNING,
    RunningTask,
    Worker,
    WorkerState,
)
from tests.actors.support import background


class HeldLoop:
    worst = 0.0

    def forget(self) -> None:
        self.worst = 0.0


class Scene:
    """A presence, and what it says runs."""

    def __init__(self, backend: MemoryBackend) -> None:
        now = backend.clock.now()
        self.backend = backend
        self.running: list[RunningTask] = []
        self.lag = HeldLoop()
        self.presence = Presence(
            workers=backend.workers,
            identity=Worker(
                id="host:1:abcdef",
                host="host",
                pid=1,
                version="1",
                types=("email",),
                slots=2,
                started_at=now,
                last_seen=now,
            ),
            running=lambda: self.running,
            lag=self.lag,
            clock=backend.clock,
            rng=random.Random(1),
        )

    def start(self, *, seconds_ago: float = 0.0) -> None:
        since = self.backend.clock.now() - timedelta(seconds=seconds_ago)
        number = len(self.running)
        self.running.append(
            RunningTask(task_id=f"task-{number}", type="email", attempt=1, since=since)
        )

    async def seen(self) -> Worker | None:
        found = (await self.backend.workers.look()).workers
        return found[0] if found else None


@pytest.fixture
def scene(backend: MemoryBackend) -> Scene:
    return Scene(backend)


async def test_it_shows_at_once_and_with_every_beat(scene: Scene) -> None:
    async with background(scene.presence.run):
        await trio.testing.wait_all_tasks_blocked()
        seen = await scene.seen()
        assert seen is not None
        assert (seen.busy, seen.state, seen.types) == (0, WorkerState.READY, ("email",))
        assert seen.memory_bytes > 2**20
        scene.start()
        await trio.sleep(1.2 * BEAT)
        seen = await scene.seen()
        assert seen is not None
        assert (seen.busy, seen.running) == (1, tuple(scene.running))
        for _ in range(10):
            await trio.sleep(BEAT)
            seen = await scene.seen()
            assert seen is not None
            assert scene.backend.clock.now() - seen.last_seen <= timedelta(seconds=1.1 * BEAT)


async def test_what_runs_is_bounded_and_what_runs_the_longest_is_in_it(scene: Scene) -> None:
    for seconds_ago in range(2 * MAX_RUNNING):
        scene.start(seconds_ago=seconds_ago)
    async with background(scene.presence.run):
        await trio.testing.wait_all_tasks_blocked()
        seen = await scene.seen()
        assert seen is not None
        assert seen.busy == 2 * MAX_RUNNING
        assert seen.running == tuple(reversed(scene.running[-MAX_RUNNING:]))


async def test_draining_is_said_at_once_where_something_runs(scene: Scene) -> None:
    scene.start()
    async with background(scene.presence.run):
        await trio.testing.wait_all_tasks_blocked()
        scene.presence.drain()
        await trio.testing.wait_all_tasks_blocked()
        seen = await scene.seen()
        assert seen is not None
        assert seen.state == WorkerState.DRAINING
        scene.running.clear()
        await trio.sleep(1.2 * BEAT)
        seen = await scene.seen()
        assert seen is not None
        assert (seen.state, seen.busy) == (WorkerState.DRAINING, 0)


async def test_an_idle_one_leaves_with_one_call(scene: Scene) -> None:
    async with background(scene.presence.run):
        await trio.testing.wait_all_tasks_blocked()
        scene.presence.drain()
        await trio.testing.wait_all_tasks_blocked()
        await scene.presence.leave()
        assert scene.backend.faults.calls["put_worker"] == 1
        assert scene.backend.faults.calls["remove_worker"] == 1
        await trio.sleep(3 * BEAT)
    assert await scene.seen() is None
    assert scene.backend.faults.calls["put_worker"] == 1, "it does not come back"


async def test_a_row_that_is_on_its_way_is_removed_too(scene: Scene) -> None:
    async with background(scene.presence.run), trio.open_nursery() as nursery:
        with scene.backend.faults.block("put_worker") as gate:
            await gate.arrived.wait()
            nursery.start_soon(scene.presence.leave)
            await trio.testing.wait_all_tasks_blocked()
    assert await scene.seen() is None


async def test_leaving_takes_a_second_at_most(scene: Scene) -> None:
    async with background(scene.presence.run):
        await trio.testing.wait_all_tasks_blocked()
        with scene.backend.faults.block("remove_worker"):
            began = trio.current_time()
            await scene.presence.leave()
            assert trio.current_time() - began == pytest.approx(1)


async def test_trouble_is_told_once_and_passes(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    with scene.backend.faults.outage("put_worker", "forget_lost_workers"):
        async with background(scene.presence.run):
            await trio.sleep(4 * BEAT)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "others do not see this process: put_worker: made to fail" in caplog.text
    async with background(scene.presence.run):
        await trio.testing.wait_all_tasks_blocked()
        assert await scene.seen() is not None


async def test_the_next_one_forgets_those_that_were_lost_long_ago(
    scene: Scene, backend: MemoryBackend
) -> None:
    dead = Scene(backend)
    async with background(dead.presence.run):
        await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(LIVING_FOR + 1)
    assert (await backend.workers.look()).lost == 1
    await trio.sleep(LOST_FOR)
    assert len(backend.state.workers) == 1
    backend.state.workers["dead"] = backend.state.workers.pop("host:1:abcdef")
    async with background(scene.presence.run):
        await trio.testing.wait_all_tasks_blocked()
    assert list(backend.state.workers) == ["host:1:abcdef"]


async def test_the_lag_of_the_loop_is_the_worst_since_the_beat_before(
    scene: Scene, autojump_clock: MockClock
) -> None:
    async with background(scene.presence.run):
        await trio.sleep(3.5)
        scene.lag.worst = 2.5  # a handler held the loop
        await trio.sleep(BEAT)
        seen = await scene.seen()
        assert seen is not None
        assert seen.loop_lag_seconds == 2.5
        await trio.sleep(1.2 * BEAT)
        seen = await scene.seen()
        assert seen is not None
        assert seen.loop_lag_seconds == 0

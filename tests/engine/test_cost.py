"""What a short task costs, as counted and not timed: so it holds on a busy machine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio
from trio.testing import MockClock

from task_queue_engine import Engine, Submission, TaskRegistry
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.events import AttemptRecorded
from tests.engine.engines import settings

TASKS = 512
# What a task costs with default settings, on the day on which this was written: a receive and a
# record for a hundred tasks at a time and more. Half as much again is allowed, since the loop and
# the thread that writes take turns as they come. Without claiming ahead it is four statements and
# two thirds of a commit.
USUAL = {"statements": 0.12, "commits": 0.023, "sends": 3.1, "calls": 206, "looks": 4.03}
# Of the real time. How much is claimed ahead goes by how long handlers take, and on a busy machine
# one that does nothing takes tens of milliseconds now and then: they take next to nothing here.
RATE = 0.01

# What tells the time for every task: four looks at the clock, of three calls each.
_TIMED = ("/actors/worker.py", "/execution/runner.py")


@asynccontextmanager
async def counting(
    backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Counter[str]]:
    """Of the loop and of the writer's thread: statements, commits, messages between actors, calls
    of Python functions, and looks at the clock around handlers."""
    counted: Counter[str] = Counter()

    def trace(event: dict[str, Any]) -> None:
        counted["statements"] += 1
        counted["commits"] += event["sql"].startswith("COMMIT")

    def profile(frame: Any, event: str, argument: Any) -> None:
        counted["calls"] += event == "call"
        if event == "call" and frame.f_code is trio.current_time.__code__:
            counted["looks"] += frame.f_back.f_code.co_filename.endswith(_TIMED)

    original = trio.MemorySendChannel.send_nowait

    def send_nowait(self: Any, value: Any) -> None:
        counted["sends"] += 1
        original(self, value)

    monkeypatch.setattr(trio.MemorySendChannel, "send_nowait", send_nowait)
    writer = backend._file.writer
    await writer.run(lambda t: t.connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, trace))
    await writer.run(lambda t: sys.setprofile(profile))
    sys.setprofile(profile)
    try:
        yield counted
    finally:
        sys.setprofile(None)
        with trio.CancelScope(shield=True):
            await writer.run(lambda t: sys.setprofile(None))
            await writer.run(lambda t: t.connection.trace_v2(0, None))


async def test_a_drain_of_short_tasks_costs_little_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    mock_clock.rate = RATE
    tasks = TaskRegistry()

    @tasks.task("nothing")
    async def nothing(payload: Any) -> None: ...

    left, done = TASKS, trio.Event()

    def note(event: Any) -> None:
        nonlocal left
        if isinstance(event, AttemptRecorded):
            left -= 1
            if not left:
                done.set()

    backend = SqliteBackend(tmp_path / "tasks.db")
    async with backend.open():
        submitting = Engine(tasks, settings(), backend=backend, consume=False)
        async with trio.open_nursery() as nursery:
            await nursery.start(submitting.run)
            await submitting.submit_many(
                [Submission(task="nothing", payload=n) for n in range(TASKS)]
            )
            await submitting.stop()
        engine = Engine(tasks, settings(worker_count=5), backend=backend, hooks=[note])
        async with counting(backend, monkeypatch) as counted, trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            with trio.fail_after(60 * RATE):
                await done.wait()
            await engine.stop()
        assert (await backend.store.counts()).completed == TASKS
    each = {what: number / TASKS for what, number in counted.items()}
    assert set(each) == set(USUAL)
    assert all(0 < each[what] < 1.5 * usual for what, usual in USUAL.items()), each

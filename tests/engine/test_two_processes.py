"""Engines on one file hear each other: each here has a backend of its own, as processes do."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from task_queue_engine import (
    Backoff,
    Engine,
    LogEvent,
    ProgressEvent,
    Settings,
    StateEvent,
    TaskContext,
    TaskEvent,
    TaskRegistry,
    TaskStatus,
)
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.backends.sqlite import queue as sqlite_queue
from task_queue_engine.engine import waiting

logger = logging.getLogger(__name__)

tasks = TaskRegistry()


@tasks.task("double")
async def double(payload: int) -> int:
    return 2 * payload


@tasks.task("steps", max_attempts=2, backoff=Backoff(base=0.01))
async def steps(payload: Any, context: TaskContext) -> None:
    for number in range(3):
        await context.progress(number)
        logger.warning("step %d", number)
    if context.attempt == 1:
        raise ValueError


@tasks.task("endless")
async def endless(payload: Any) -> None:
    await trio.sleep_forever()


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is found, was heard."""
    monkeypatch.setattr(sqlite_queue, "LOOK_EVERY", 600.0)
    monkeypatch.setattr(sqlite_queue, "LOOK_EVERY_WHERE_HEARD", 600.0)
    monkeypatch.setattr(waiting, "_FIRST_PAUSES", (600.0,))
    monkeypatch.setattr(waiting, "_PAUSE", 600.0)


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@asynccontextmanager
async def running(path: Path, *, consume: bool) -> AsyncIterator[Engine]:
    settings = Settings(cancel_poll=600, shutdown_grace=0)
    engine = Engine(tasks, settings, backend=SqliteBackend(path), consume=consume)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        yield engine
        await engine.stop()


async def test_a_task_goes_to_another_process_and_its_result_comes_back(
    tmp_path: Path, no_looks: None
) -> None:
    path = tmp_path / "tasks.db"
    with trio.fail_after(30):
        async with running(path, consume=False) as front, running(path, consume=True):
            for number in range(20):
                handle = await front.submit(double, number)
                assert await handle.result(timeout=600) == 2 * number
    assert names_in(tmp_path) == ["tasks.db"]


async def test_what_happens_in_another_process_is_shown_as_it_happens(
    tmp_path: Path, no_looks: None
) -> None:
    path = tmp_path / "tasks.db"
    said = [what for number in range(3) for what in (number, f"step {number}")]
    with trio.fail_after(30):
        async with running(path, consume=False) as front:
            every: list[TaskEvent] = []
            hears = trio.Event()

            async def listen(task_status: trio.TaskStatus[None]) -> None:
                stream = front.events(type="steps")
                with trio.move_on_after(0.5):
                    await anext(stream)
                task_status.started()
                async for event in stream:
                    every.append(event)
                    hears.set()

            async with trio.open_nursery() as nursery:
                await nursery.start(listen)
                handle = await front.submit(steps)
                stream = handle.events()
                events = [await anext(stream)]
                await hears.wait()
                async with running(path, consume=True):  # both listen by now
                    events += [event async for event in stream]
                nursery.cancel_scope.cancel()
    assert [spell(event) for event in events] == [
        TaskStatus.PENDING,
        TaskStatus.PROCESSING,
        *said,
        "retried",
        TaskStatus.PROCESSING,
        *said,
        "succeeded",
        None,
    ]
    assert [spell(event) for event in every] == [spell(event) for event in events][:-1]
    assert names_in(tmp_path) == ["tasks.db"]


def spell(event: TaskEvent) -> object:
    match event:
        case StateEvent():
            return event.outcome or event.status
        case ProgressEvent():
            return event.progress
        case LogEvent():
            return event.line.message
        case _:
            return None


async def test_a_cancel_stops_what_runs_in_another_process(tmp_path: Path, no_looks: None) -> None:
    path = tmp_path / "tasks.db"
    with trio.fail_after(30):
        async with running(path, consume=False) as front, running(path, consume=True):
            handle = await front.submit(endless)
            while (await front.get(handle.id)).status is not TaskStatus.PROCESSING:  # noqa: ASYNC110  # told of ends only
                await trio.sleep(0.01)
            await front.cancel(handle.id)
            task = await front.wait(handle.id, timeout=600)
            assert task.status is TaskStatus.CANCELLED


async def test_what_cannot_be_heard_is_noted_where_readiness_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    (tmp_path / "tasks.db-bells").write_text("in the way")
    with trio.fail_after(30):
        async with running(path, consume=True) as engine:
            while not (await engine.ready()).notes:  # noqa: ASYNC110  # soon, no event says it
                await trio.sleep(0.01)
            readiness = await engine.ready()
            assert readiness.ready
            assert "tasks.db-bells" in readiness.notes[0]

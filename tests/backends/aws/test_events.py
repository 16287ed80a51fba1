"""What another process does is shown by what its rows say, with one look for all watched tasks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from task_queue_engine import (
    Engine,
    LogEvent,
    ProgressEvent,
    Settings,
    StateEvent,
    Task,
    TaskContext,
    TaskEvent,
    TaskRegistry,
)
from task_queue_engine.backends.base import BroadcastingBackend
from tests.backends.aws.sqs.conformance import PAIR_HARNESSES

logger = logging.getLogger("handlers")
TASKS = 20


async def test_events_by_what_rows_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, goes_on = TaskRegistry(), trio.Event()

    @tasks.task("gate")
    async def gate(payload: int, context: TaskContext) -> None:
        logger.warning("behind the gate")
        await context.progress(payload)
        await goes_on.wait()

    settings = Settings(_env_file=None, worker_count=TASKS, shutdown_grace=0)
    async with (
        PAIR_HARNESSES["aws-elasticmq"](tmp_path) as harness,
        trio.open_nursery() as nursery,
    ):
        backend = harness.make_another()
        assert not isinstance(backend, BroadcastingBackend)
        looks: list[int] = []
        get = backend.store.get

        async def counted(task_ids: Sequence[str]) -> list[Task | None]:
            looks.append(len(task_ids))
            return await get(task_ids)

        monkeypatch.setattr(backend.store, "get", counted)
        front = Engine(tasks, settings, backend=backend, clock=harness.clock, consume=False)
        worker = Engine(tasks, settings, backend=harness.make_another(), clock=harness.clock)
        with trio.fail_after(60):
            await nursery.start(front.run)
            handles = [await front.submit(gate, number) for number in range(TASKS)]
            told: list[list[TaskEvent]] = [[] for _ in handles]
            listens = [trio.Event() for _ in handles]
            reported = [trio.Event() for _ in handles]

            async def follow(number: int) -> None:
                async for event in handles[number].events():
                    told[number].append(event)
                    listens[number].set()
                    if isinstance(event, ProgressEvent):
                        reported[number].set()

            async with trio.open_nursery() as following:
                for number in range(TASKS):
                    following.start_soon(follow, number)
                for each in listens:
                    await each.wait()
                await nursery.start(worker.run)
                for each in reported:
                    await each.wait()
                looks.clear()
                await trio.sleep(3)
                assert max(looks) > TASKS / 2, "those that began in one round share its looks"
                assert len(looks) < TASKS, "one look for all"
                goes_on.set()
            for number, events in enumerate(told):
                assert [spell(event) for event in events] == [
                    "PENDING",
                    "PROCESSING",
                    number,
                    "behind the gate",
                    "COMPLETED",
                    "end",
                ]
            await worker.stop()
            await front.stop()


def spell(event: TaskEvent) -> object:
    match event:
        case StateEvent():
            return event.status
        case ProgressEvent():
            return event.progress
        case LogEvent():
            return event.line.message
        case _:
            return "end"

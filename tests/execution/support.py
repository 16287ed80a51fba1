"""What the tests of execution share."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

import trio

from task_queue_engine import Task, TaskRegistry, TaskStatus
from task_queue_engine.execution.processes import Recycling
from task_queue_engine.execution.runner import HandlerRunner
from task_queue_engine.registry import Handler
from task_queue_engine.task import new_task_id

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)

P = ParamSpec("P")
T = TypeVar("T")


def bounded(seconds: float) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Fail an async test after so many real seconds: for tests with real threads and processes."""

    def decorate(test: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @functools.wraps(test)
        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            with trio.fail_after(seconds):
                return await test(*args, **kwargs)

        return run

    return decorate


def make_runner(
    *,
    threads: int = 2,
    processes: int = 2,
    max_result_bytes: int = 4096,
    overlap_wait: float = 0.0,
    recycling: Recycling | None = None,
) -> HandlerRunner:
    return HandlerRunner(
        threads=threads,
        processes=processes,
        max_result_bytes=max_result_bytes,
        overlap_wait=overlap_wait,
        recycling=recycling,
    )


def make_task(payload: Any = None, *, timeout: float | None = 10.0, **fields: Any) -> Task:
    given = {
        "id": new_task_id(),
        "type": "test",
        "payload": payload,
        "status": TaskStatus.PROCESSING,
        "attempt": 1,
        "created_at": NOW,
        "updated_at": NOW,
        "started_at": NOW,
        "timeout_seconds": timeout,
    }
    return Task(**(given | fields))


async def until(condition: Callable[[], bool]) -> None:
    """For what the operating system or a thread does without telling trio."""
    while not condition():  # noqa: ASYNC110 - nothing outside trio sets an Event
        await trio.sleep(0.001)


class Progress:
    """Collects what is reported; `arrived` tells that there is something."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.arrived = trio.Event()

    async def __call__(self, value: Any) -> None:
        self.values.append(value)
        self.arrived.set()


async def run(
    runner: HandlerRunner,
    handler: Handler,
    payload: Any = None,
    *,
    timeout: float | None = 10.0,
    progress: Progress | None = None,
    process: bool = False,
    on_start: Callable[[], None] = lambda: None,
    **fields: Any,
) -> Any:
    """Register `handler` and run one attempt of it."""
    registry = TaskRegistry()
    registry.task("test", process=process)(handler)
    return await runner.run(
        registry.get("test"),
        make_task(payload, timeout=timeout, **fields),
        report_progress=progress or Progress(),
        on_start=on_start,
    )

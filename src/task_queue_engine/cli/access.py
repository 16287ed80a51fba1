"""How a command reaches the queue: straight to the backend, or over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from task_queue_engine.backends.base import DeadLetterPage, ListQuery, TaskPage
from task_queue_engine.client import Client
from task_queue_engine.config import Settings
from task_queue_engine.engine.api import Accepted, EngineMetrics, RedriveReport, Submission
from task_queue_engine.engine.engine import Engine
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Seconds
from task_queue_engine.task import Task


class Operations(Protocol):
    """What both a running `Engine` and a `Client` can do; see EngineApi."""

    async def submit_task(self, submission: Submission) -> Accepted: ...

    async def get(self, task_id: str) -> Task: ...

    async def wait(self, task_id: str, *, timeout: Seconds) -> Task: ...

    async def list_tasks(self, query: ListQuery) -> TaskPage: ...

    async def cancel(self, task_id: str) -> Task: ...

    async def retry(self, task_id: str) -> Task: ...

    async def list_dead(self, *, limit: int = 50, cursor: str | None = None) -> DeadLetterPage: ...

    async def redrive(self, ids: Sequence[str] | None = None) -> RedriveReport: ...

    async def purge_dead(self) -> int: ...

    async def metrics(self) -> EngineMetrics: ...


@asynccontextmanager
async def over_http(url: str, api_key: str | None) -> AsyncIterator[Operations]:
    async with Client(url, api_key=api_key) as client:
        yield client


@asynccontextmanager
async def direct(registry: TaskRegistry, settings: Settings) -> AsyncIterator[Operations]:
    """An engine without workers, for as long as the command takes."""
    async with trio.open_nursery() as nursery:
        engine = await nursery.start(
            Engine(registry, settings, consume=False, housekeeping=False).run
        )
        yield engine
        await engine.stop()

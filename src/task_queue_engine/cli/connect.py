"""How a command reaches the queue: straight to the backend, or over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from task_queue_engine.config import Settings
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.registry import TaskRegistry

# Of a request: 0.75 s in all, for an operator who has mistyped the address.
_RETRIES = 2


@asynccontextmanager
async def over_http(url: str, api_key: str | None) -> AsyncIterator[TaskApi]:
    # Only here: httpx takes a quarter of a second to import, for the program it comes with.
    from task_queue_engine.client import AsyncClient

    async with AsyncClient(url, api_key=api_key, retries=_RETRIES) as client:
        yield client


@asynccontextmanager
async def direct(registry: TaskRegistry, settings: Settings) -> AsyncIterator[TaskApi]:
    """An engine without workers, for as long as the command takes."""
    # Only here: who asks over HTTP needs none.
    from task_queue_engine.engine.engine import Engine

    async with trio.open_nursery() as nursery:
        engine = await nursery.start(
            Engine(registry, settings, consume=False, housekeeping=False).run
        )
        yield engine
        await engine.stop()

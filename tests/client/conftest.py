"""A running engine, and a client that reaches it through the real app, on virtual time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from trio.testing import MockClock

from task_queue_engine import Discard, Engine, TaskRegistry
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.client import AsyncClient
from task_queue_engine.clock import TrioClock
from task_queue_engine.http import create_app
from tests.client.light import LightEnvironment
from tests.engine.engines import running, settings

MAX_BODY = 4096
MAX_ITEM = 2048


@dataclass
class Order:
    number: int


def make_tasks() -> TaskRegistry:
    tasks = TaskRegistry()

    @tasks.task("ship")
    async def ship(order: Order) -> str:
        return f"PKG-{order.number}"

    @tasks.task("echo")
    async def echo(payload: object) -> object:
        return payload

    @tasks.task("fail")
    async def fail(reason: str) -> None:
        raise Discard(reason)

    return tasks


@dataclass
class World:
    """One queue, and the two ways to it."""

    engine: Engine
    client: AsyncClient
    backend: MemoryBackend


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> LightEnvironment:
    """One for all processes that share the tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "light.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return LightEnvironment(folder / "light")


@asynccontextmanager
async def open_world(*, consume: bool = True) -> AsyncIterator[World]:
    backend = MemoryBackend(clock=TrioClock(), max_item_bytes=MAX_ITEM)
    async with running(
        make_tasks(), backend, consume=consume, max_body_bytes=MAX_BODY, max_result_bytes=MAX_BODY
    ) as engine:
        app = create_app(engine, settings(max_body_bytes=MAX_BODY))
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type] # Quart's types are narrower
        # Without retries, which the engine makes none of either.
        async with AsyncClient("http://127.0.0.1", retries=0, transport=transport) as client:
            yield World(engine, client, backend)


@pytest.fixture
async def world(autojump_clock: MockClock) -> AsyncIterator[World]:
    async with open_world() as world:
        yield world


@pytest.fixture
async def idle_world(autojump_clock: MockClock) -> AsyncIterator[World]:
    """No workers."""
    async with open_world(consume=False) as world:
        yield world

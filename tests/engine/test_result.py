"""`TaskHandle.result` while what it asks is in trouble, of an engine and over HTTP alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from trio.testing import MockClock

from task_queue_engine import ResultTimeout, TaskRegistry
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.client import AsyncClient
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.http import create_app
from tests.engine.engines import Link, running, settings

Outage = Callable[[float, float], Awaitable[None]]
"""From a moment on, for so many seconds."""


class Flaky(httpx.AsyncBaseTransport):
    """A server that is away now and then."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        self.away: httpx.Response | bool | None = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        if self.away is True:
            raise httpx.ConnectError("refused")
        if isinstance(self.away, httpx.Response):
            return httpx.Response(self.away.status_code, headers=self.away.headers)
        return await self._transport.handle_async_request(request)


@pytest.fixture(params=["engine", "refused", "503"])
async def way(
    request: pytest.FixtureRequest,
    tasks: TaskRegistry,
    backend: MemoryBackend,
    autojump_clock: MockClock,
) -> AsyncIterator[tuple[TaskApi, Outage]]:
    @tasks.task("nap")
    async def nap(seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    if request.param == "engine":
        link = Link(backend)
        async with running(tasks, backend), running(tasks, link, consume=False) as engine:

            async def outage(after: float, seconds: float) -> None:
                await trio.sleep(after)
                with link.faults.outage("get"):
                    await trio.sleep(seconds)

            yield engine, outage
        return
    async with running(tasks, backend) as engine, over(engine) as (client, transport):
        away = True if request.param == "refused" else httpx.Response(503)

        async def gone(after: float, seconds: float) -> None:
            await trio.sleep(after)
            transport.away = away
            await trio.sleep(seconds)
            transport.away = False

        yield client, gone


@asynccontextmanager
async def over(engine: TaskApi) -> AsyncIterator[tuple[AsyncClient, Flaky]]:
    app = create_app(engine, settings())  # type: ignore[arg-type] # it is an Engine
    transport = Flaky(httpx.ASGITransport(app))  # type: ignore[arg-type] # Quart's types are narrower
    async with AsyncClient("http://127.0.0.1", transport=transport) as client:
        yield client, transport


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("timeout", [None, 4000])
async def test_trouble_is_waited_out(
    way: tuple[TaskApi, Outage], after: float, timeout: float | None
) -> None:
    """From the first look on, or in the middle."""
    api, outage = way
    handle = await api.submit("nap", 70)  # longer than one request waits
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outage, after, 150)
        await trio.sleep(0.01)
        assert await handle.result(timeout=timeout) == "slept"
        assert trio.current_time() - started == pytest.approx(after + 150, abs=8)


async def test_not_longer_than_the_timeout(way: tuple[TaskApi, Outage]) -> None:
    api, outage = way
    handle = await api.submit("nap", 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outage, 0, 100)
        await trio.sleep(0.01)
        started = trio.current_time()
        with pytest.raises(BackendUnavailable):
            await handle.result(timeout=30)
        assert trio.current_time() - started == pytest.approx(30, abs=0.1)
    with pytest.raises(ResultTimeout):
        await (await api.submit("nap", 3000)).result(timeout=30)

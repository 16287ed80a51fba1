"""A fake engine, the app in front of it, and the app behind a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio
from quart_trio.testing import TrioClient
from trio.testing import MockClock

from task_queue_engine.config import Settings
from task_queue_engine.http import create_app, serve_http
from tests.http.browser import Browser
from tests.http.chromium import Chromium, Site, launch, serve_site
from tests.http.fakes import FakeEngine
from tests.http.keys import Keys
from tests.http.wire import Server


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def make_settings(**values: Any) -> Settings:
    """Untouched by the environment this runs in."""
    return Settings(_env_file=None, **({"host": "127.0.0.1", "port": 0, "api_keys": ()} | values))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.toml")


@pytest.fixture
def settings() -> Settings:
    return make_settings()


@pytest.fixture
def app(engine: FakeEngine, settings: Settings) -> QuartTrio:
    return create_app(engine, settings)


@pytest.fixture
def client(app: QuartTrio) -> TrioClient:
    return app.test_client()  # type: ignore[return-value] # it is Quart-Trio's


@pytest.fixture
def browser(client: TrioClient) -> Browser:
    return Browser(client)


@pytest.fixture
def socket_clock() -> MockClock:
    """Virtual time that jumps, but only once the sockets have been silent for a moment: bytes that
    are on their way through the kernel are no reason to let a deadline pass."""
    return MockClock(autojump_threshold=0.02)


Serve = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture
def serve(engine: FakeEngine) -> Serve:
    """`async with serve(**settings) as server`: the real server on a real port."""

    @asynccontextmanager
    async def run(
        *, grace: float = 5.0, app: QuartTrio | None = None, **values: Any
    ) -> AsyncIterator[Server]:
        shutdown = trio.Event()
        done = trio.Event()

        async def serve_and_tell(task_status: trio.TaskStatus[Any]) -> None:
            await serve_http(
                engine,
                make_settings(**values),
                app=app,
                shutdown=shutdown,
                grace=grace,
                task_status=task_status,
            )
            done.set()

        async with trio.open_nursery() as nursery:
            bound = await nursery.start(serve_and_tell)
            server = Server(bound=bound, shutdown=shutdown, done=done)
            try:
                yield server
            finally:
                server.disconnect()
                nursery.cancel_scope.cancel()

    return run


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`tqe serve` with the tasks of pages_shop.py."""
    yield from serve_site(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def browser_process(site: Site) -> Iterator[Chromium]:
    yield from launch(site)


@pytest.fixture
def chrome(browser_process: Chromium) -> Iterator[Chromium]:
    """The browser for one test, which fails by what the console says against its pages."""
    browser_process.said.clear()
    yield browser_process
    browser_process.close_all()
    assert browser_process.said == []

"""`tqe serve` without a process of its own, for what neither a signal nor the end of a process has
a part in: a start costs a tenth."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import trio

from task_queue_engine import Engine, Settings, TaskRegistry
from task_queue_engine.http import serve_http
from tests.cli.runner import TIMEOUT, Api


class Embedded(Api):
    """An engine and its API, on an event loop in a thread of the test's process."""

    def __init__(self, url: str, token: trio.lowlevel.TrioToken, over: trio.Event) -> None:
        self._url = url
        self._token = token
        self._over = over
        self.ended: Future[None] | None = None

    @property
    def url(self) -> str:
        return self._url

    def stop(self) -> None:
        """In order, as a signal would stop it."""
        assert self.ended is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._over.set)
        self.ended.result(2 * TIMEOUT)


@contextmanager
def embedded(
    tasks: TaskRegistry, path: Path, *, consume: bool = True, **environment: str
) -> Iterator[Embedded]:
    """It runs in `path`, with the settings that a process would have of `environment`."""
    environment = {"PORT": "0", "TQE_SHUTDOWN_GRACE": "0"} | environment
    up: Future[Embedded] = Future()
    with (
        patch.dict(os.environ, environment),
        contextlib.chdir(path),
        ThreadPoolExecutor(1, "embedded engine") as threads,
    ):
        ended = threads.submit(trio.run, partial(_run, tasks, consume, up))
        wait([up, ended], TIMEOUT, FIRST_COMPLETED)
        if ended.done():
            ended.result()
        server = up.result(0)
        server.ended = ended
        try:
            yield server
        finally:
            server.stop()


async def _run(tasks: TaskRegistry, consume: bool, up: Future[Embedded]) -> None:
    settings = Settings(_env_file=None)
    engine = Engine(tasks, settings, consume=consume)
    over = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        bound = await nursery.start(partial(serve_http, engine, settings, shutdown=over, grace=5))
        up.set_result(Embedded(bound.url, trio.lowlevel.current_trio_token(), over))
        await over.wait()
        await engine.stop()

"""Nothing that a client sends holds the loop: over all routes, with the largest inputs that are
allowed, no step between two checkpoints takes long.

A step is measured by the CPU time of the loop's own thread: other programs, other threads and the
client's work do not count, so a busy machine changes little.
"""

from __future__ import annotations

import gc
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pydantic
import trio

from task_queue_engine import Engine, Settings, TaskRegistry
from task_queue_engine.handlers import registry as handlers
from task_queue_engine.http import serve_http
from tests.cli.runner import Client

LIMIT = 0.05
"""Seconds of CPU."""


class Step(trio.abc.Instrument):
    """The longest step of any task of the loop, without what the garbage collector took in it: that
    depends on all that the process holds."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.where = ""
        self._start = math.inf
        self._thread = threading.get_ident()
        self._collecting = 0.0
        self._test = trio.lowlevel.current_task()

    def __enter__(self) -> Step:
        gc.callbacks.append(self._on_collection)
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)
        gc.callbacks.remove(self._on_collection)

    def reset(self) -> None:
        self.longest, self.where = 0.0, ""

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if threading.get_ident() == self._thread:
            if phase == "start":
                self._collecting = time.thread_time()
            else:
                self._start += time.thread_time() - self._collecting

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._start = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = time.thread_time() - self._start
        if took > self.longest and task is not self._test:
            self.longest, self.where = took, task.name


class Slow(pydantic.BaseModel):
    """A payload that takes long to check, however small it is."""

    n: int

    @pydantic.field_validator("n")
    @classmethod
    def _check(cls, n: int) -> int:
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            sum(range(100))
        return n


@dataclass
class Item:
    name: str
    tags: list[str] = field(default_factory=list)


def registry() -> TaskRegistry:
    tasks = TaskRegistry()
    tasks.include(handlers)

    @tasks.task("any")
    async def anything(payload: Any) -> None: ...

    @tasks.task("slow")
    async def slow(payload: Slow) -> None: ...

    @tasks.task("items")
    async def items(payload: list[Item]) -> None: ...

    @tasks.task("numbers")
    async def numbers(payload: pydantic.RootModel[list[int]]) -> None: ...

    return tasks


ROOM = 256 * 1024
"""TQE_MAX_BODY_BYTES by default."""


def filled(make: Callable[[int], Any]) -> Any:
    """About the largest that `make` makes and a body holds."""
    each = (_size(make(200)) - _size(make(100))) / 100
    count = 100 + int((ROOM - _size(make(100))) / each) if each else 1000
    while _size(body := make(count)) > ROOM:
        count -= max(1, count // 100)
    return body


def _size(body: Any) -> int:
    return len(json.dumps(body, separators=(",", ":")))


def one(type_name: str, payload: Callable[[int], Any]) -> Any:
    return filled(lambda n: {"type": type_name, "payload": payload(n)})


def many(*items: Any) -> Any:
    return filled(lambda n: {"tasks": [items[i % len(items)] for i in range(min(n, 1000))]})


def deep(n: int) -> Any:
    value: list[Any] = []
    for _ in range(90):
        value = [value]
    return [value] * n


ADDRESS = "Ada Lovelace <ada.{}@example.com>"


def bodies() -> dict[str, tuple[str, Any]]:
    return {
        "text": ("/tasks", one("any", lambda n: "x" * n)),
        "quotes": ("/tasks", one("any", lambda n: '"' * n)),
        "arrays": ("/tasks", one("any", lambda n: [[]] * n)),
        "nulls": ("/tasks", one("any", lambda n: [[None]] * n)),
        "objects": ("/tasks", one("any", lambda n: {str(i): {} for i in range(n)})),
        "deep": ("/tasks", one("any", deep)),
        "nul": ("/tasks", one("any", lambda n: [[None]] * n + ["\0"])),
        "long numbers": ("/tasks", one("any", lambda n: [10**307] * n)),
        "items": ("/tasks", one("items", lambda n: [{"name": "x", "tags": ["a"]}] * n)),
        "wrong numbers": ("/tasks", one("numbers", lambda n: ["x"] * n)),
        "recipients": (
            "/tasks",
            {"type": "email", "payload": {"to": [ADDRESS.format(i) for i in range(100)]}},
        ),
        "short recipients": (
            "/tasks",
            {
                "type": "email",
                "payload": {
                    name: [f"{i}@{name}.co" for i in range(100)] for name in ("to", "cc", "bcc")
                },
            },
        ),
        "too many recipients": (
            "/tasks",
            one("email", lambda n: {"to": [ADDRESS.format(i) for i in range(n)]}),
        ),
        "mail text": ("/tasks", one("email", lambda n: {"to": "a@b.c", "text": "é\r\n" * n})),
        "rows": ("/tasks", one("data-export", lambda n: {"rows": [{"a": 1}] * n})),
        "columns": (
            "/tasks",
            one("data-export", lambda n: {"columns": [f"c{i}" for i in range(n)], "rows": []}),
        ),
        "picture": (
            "/tasks",
            one("image-resize", lambda n: {"width": 1, "source": {"base64": "A" * (4 * n)}}),
        ),
        "batch": ("/tasks/batch", many({"type": "any", "payload": 1})),
        "batch of mails": (
            "/tasks/batch",
            many(*({"type": "email", "payload": f"ada{i}@example.com"} for i in range(1000))),
        ),
        "batch of recipients": (
            "/tasks/batch",
            many({"type": "email", "payload": {"to": [ADDRESS.format(i) for i in range(100)]}}),
        ),
        "batch of slow": ("/tasks/batch", {"tasks": [{"type": "slow", "payload": {"n": 1}}] * 50}),
        "batch of unknown": ("/tasks/batch", many({"type": "x" * 128, "payload": 1})),
        "batch of wrong": ("/tasks/batch", many({"typ": 1}, {"type": "any"}, 5)),
        "batch of keys": (
            "/tasks/batch",
            filled(
                lambda n: {
                    "tasks": [
                        {"type": "any", "payload": {"a": i}, "idempotency_key": f"key {i}"}
                        for i in range(min(n, 1000))
                    ]
                }
            ),
        ),
        "ids": ("/dead-letters/redrive", {"ids": [str(i) for i in range(1000)]}),
    }


# Asked once everything above is stored.
PATHS = (
    "/tasks?limit=100",
    "/tasks?status=PENDING&limit=100",
    "/dead-letters?limit=100",
    "/tasks/{id}",
    "/tasks/{id}?wait=0.01",
    "/health",
    "/ready",
    "/metrics",
    "/scale",
    "/docs",
    "/openapi.json",
)


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[tuple[str, Step]]:
    settings = Settings(
        _env_file=None, database=str(path / "tasks.db"), host="127.0.0.1", port=0, api_keys=()
    )
    engine = Engine(registry(), settings, consume=False)
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        serve = partial(serve_http, engine, settings, shutdown=shutdown, grace=5)
        bound = await nursery.start(serve)
        with Step() as step:
            yield bound.url, step
        shutdown.set()
        await engine.stop()
        nursery.cancel_scope.cancel()


class Asking:
    """Requests from a thread, and the longest step of the loop for each."""

    def __init__(self, client: httpx.Client, step: Step) -> None:
        self._client = client
        self._step = step
        self.longest: dict[str, tuple[float, str]] = {}

    async def __call__(
        self, name: str, method: str, path: str, content: Any = None, *, accept: str = "*/*"
    ) -> Any:
        headers = {"Accept": accept}
        if content is not None:
            headers["Content-Type"] = "application/json"
        self._step.reset()
        answer = await trio.to_thread.run_sync(
            partial(self._client.request, method, path, content=content, headers=headers)
        )
        assert answer.status_code < 500, answer.text[:300]
        found = (self._step.longest, self._step.where)
        self.longest[name] = max(found, self.longest.get(name, found))
        return answer


async def ask_everything(path: Path) -> dict[str, tuple[float, str]]:
    async with served(path) as (url, step):
        with Client(base_url=url, timeout=60) as client:
            ask = Asking(client, step)
            await ask("warming up", "GET", "/health")
            for name, (target, body) in bodies().items():
                content = json.dumps(body, separators=(",", ":"))
                assert len(content) <= ROOM
                # The second time keys are replays, and a slow type is known to be one.
                for _ in range(2 if name in ("batch of keys", "batch of slow") else 1):
                    await ask(name, "POST", target, content)
            task = (await ask("one more", "POST", "/tasks", '{"type":"any","payload":1}')).json()
            for target in PATHS:
                for _ in range(2):
                    await ask(target, "GET", target.format(id=task["id"]))
            await ask("a scrape", "GET", "/metrics", accept="application/openmetrics-text")
            await ask("cancel", "DELETE", f"/tasks/{task['id']}")
            await ask("retry", "POST", f"/tasks/{task['id']}/retry")
            await ask("redrive all", "POST", "/dead-letters/redrive", '{"all":true}')
            await ask("purge", "DELETE", "/dead-letters")
            return ask.longest


def test_nothing_that_is_sent_holds_the_loop(tmp_path: Path) -> None:
    longest = trio.run(ask_everything, tmp_path)
    del longest["warming up"]
    held = {
        name: f"{seconds * 1000:.0f} ms in {where}"
        for name, (seconds, where) in longest.items()
        if seconds > LIMIT
    }
    assert not held

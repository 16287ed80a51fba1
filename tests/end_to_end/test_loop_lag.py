"""Nothing that a client sends holds the loop: over all routes, with the largest inputs that are allowed,
no step between two checkpoints takes long.

A step is measured by the CPU time of the loop's own thread: other programs, other threads and the
client's work do not count, so a busy machine changes little.
"""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pydantic
import pytest
import trio

from task_queue_engine import Engine, Settings, TaskRegistry
from task_queue_engine.handlers import registry as handlers
from task_queue_engine.http import serve_http

LIMIT = 0.05
"""Seconds of CPU."""


class Step(trio.abc.Instrument):
    """The longest step of any task of the loop."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.where = ""
        self._start = math.inf
        self.gc = []
        gc.callbacks.append(self._gc)

    def _gc(self, phase, info):
        if phase == "start":
            self._g = time.thread_time()
        else:
            self.gc.append((info["generation"], round((time.thread_time() - self._g) * 1e3, 1)))

    def reset(self) -> None:
        self.longest, self.where = 0.0, ""
        self.gc.clear()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._start = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = time.thread_time() - self._start
        if took > self.longest:
            frames = [frame for frame, _ in task.iter_await_frames()]
            self.longest = took
            self.where = (
                f"{task.name}, now at {frames[-1].f_code.co_qualname if frames else 'its end'}"
            )


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
    """The largest that `make` makes and a body holds."""
    low, high = 1, ROOM
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _size(make(middle)) <= ROOM else (low, middle - 1)
    return make(low)


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

BODIES: dict[str, tuple[str, Any]] = {
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
    "batch of mails": ("/tasks/batch", many({"type": "email", "payload": "ada@example.com"})),
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


@pytest.fixture(autouse=True)
def a_settled_heap() -> Iterator[None]:
    """What the whole test run has imported is not for this loop's garbage collector to visit."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[tuple[str, Step]]:
    settings = Settings(
        _env_file=None, database=str(path / "tasks.db"), host="127.0.0.1", port=0, api_keys=()
    )
    engine = Engine(registry(), settings, consume=False)
    step, shutdown = Step(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        serve = partial(serve_http, engine, settings, shutdown=shutdown, grace=5)
        bound = await nursery.start(serve)
        trio.lowlevel.add_instrument(step)
        yield bound.url, step
        trio.lowlevel.remove_instrument(step)
        shutdown.set()
        await engine.stop()
        nursery.cancel_scope.cancel()


def test_no_body_holds_the_loop(tmp_path: Path) -> None:
    async def main() -> dict[str, tuple[float, str, int]]:
        found = {}
        async with served(tmp_path) as (url, step):
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                for name, (path, body) in BODIES.items():
                    content = json.dumps(body, separators=(",", ":"))
                    assert len(content) <= ROOM
                    for _ in range(2):  # the second time keys are replays
                        step.reset()
                        answer = await trio.to_thread.run_sync(
                            lambda content=content, path=path: client.post(
                                path, content=content, headers={"Content-Type": "application/json"}
                            )
                        )
                        found[name] = (step.longest, step.where, answer.status_code)
                        print(
                            f"{name:22} {step.longest * 1e3:6.1f} {answer.status_code} {step.where[:30]} gc {sum(t for g, t in step.gc)} {[x for x in step.gc if x[1] > 3]}"
                        )
                for path in (
                    "/tasks?limit=100",
                    "/health",
                    "/ready",
                    "/metrics",
                    "/docs",
                    "/openapi.json",
                    "/dead-letters?limit=100",
                ):
                    step.reset()
                    answer = await trio.to_thread.run_sync(lambda path=path: client.get(path))
                    print(
                        f"{path:22} {step.longest * 1e3:6.1f} {answer.status_code} {len(answer.content)} {step.where}"
                    )
        return found

    found = trio.run(main)

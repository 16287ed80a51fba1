"""Engines under test: quick to start and stop, on virtual time, one or several on one backend."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing

from task_queue_engine import Backoff, Engine, Settings, Task, TaskRegistry, TaskStatus
from task_queue_engine.backends.base import (
    Delivery,
    NewTask,
    QueueDepth,
    SubmitVerdict,
    TwoServices,
    submit_to_two,
)
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.backends.memory.faults import Faults
from task_queue_engine.events import Hook
from task_queue_engine.lifecycle import ClaimRequest, Row

LEASE = 30.0
"""The visibility timeout of these engines, in seconds."""
GRACE = 25.0
FLUSH = 5.0
MAX_DELAY = 60.0
"""Seconds for which a queue holds a message back where `short_delays` is used: a quarter of an hour
elsewhere, as with SQS."""

EVERY_SECOND = Backoff(base=1, factor=1, jitter=False)
"""Retries that a test can foresee."""


def settings(**values: Any) -> Settings:
    """The engine's settings, whatever the environment of the tests says."""
    defaults = {
        "worker_count": 2,
        "visibility_timeout": LEASE,
        "shutdown_grace": GRACE,
        "shutdown_flush": FLUSH,
    }
    return Settings(_env_file=None, **(defaults | values))


@asynccontextmanager
async def running(
    tasks: TaskRegistry,
    backend: MemoryBackend | Link,
    *,
    consume: bool = True,
    hooks: Iterable[Hook] = (),
    **values: Any,
) -> AsyncIterator[Engine]:
    """An engine in a nursery of its own, stopped at the end of the block."""
    engine = Engine(
        tasks,
        settings(**values),
        backend=backend,
        clock=backend.clock,
        consume=consume,
        hooks=hooks,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        yield engine
        await engine.stop()


# --- several processes on one backend -------------------------------------------------------


class Link:
    """One process's own way to a backend that others use too, with faults of its own.

    `cut` makes every call hang from now on, as for a process that was stopped or cut off.
    """

    def __init__(self, backend: MemoryBackend) -> None:
        self.clock = backend.clock
        self.info = backend.info
        self.faults = Faults()
        self._backend = backend
        self._is_cut = False
        self.store = _Through(backend.store, self)
        self.workers = _Through(backend.workers, self)
        self._queues: dict[str, _Through] = {}

    def queue(self, name: str) -> Any:
        return self._queues.setdefault(name, _Through(self._backend.queue(name), self))

    def steps(self, name: str) -> Any:
        steps = self._backend.steps(name)
        if steps.is_one_transaction:
            return _Through(steps, self)
        return TwoServices(queue=self.queue(name), store=self.store)

    async def submit(self, tasks: Sequence[NewTask]) -> list[SubmitVerdict]:
        if self._backend.is_one_transaction:
            answered: list[SubmitVerdict] = await self.pass_through(
                "submit", self._backend.submit, tasks
            )
            return answered
        return await submit_to_two(tasks, store=self.store, queue_of=self.queue, clock=self.clock)

    def open(self) -> AbstractAsyncContextManager[None]:
        return self._backend.open()

    async def ping(self) -> None:
        await self.pass_through("ping", self._backend.ping)

    async def stranded(self, queue: str, **arguments: Any) -> Any:
        return await self.pass_through("stranded", self._backend.stranded, queue, **arguments)

    def cut(self) -> None:
        self._is_cut = True

    async def pass_through(
        self, operation: str, call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        await self.faults.enter(operation)
        if self._is_cut:
            await trio.sleep_forever()
        answer = await call(*args, **kwargs)
        if self._is_cut:
            await trio.sleep_forever()
        self.faults.leave(operation)
        return answer


class _Through:
    """A queue or store behind a Link."""

    def __init__(self, target: Any, link: Link) -> None:
        self._target = target
        self._link = link

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._link.pass_through(name, attribute, *args, **kwargs)

        return call


@dataclass
class Process:
    """An engine that can be killed."""

    engine: Engine
    link: Link
    scope: trio.CancelScope
    ended: trio.Event

    def kill(self) -> None:
        """From now on it changes nothing in the backend, like a process after SIGKILL."""
        self.link.cut()
        self.scope.cancel()


@asynccontextmanager
async def process(
    tasks: TaskRegistry, backend: MemoryBackend, **values: Any
) -> AsyncIterator[Process]:
    """An engine as if it had a process to itself."""
    link = Link(backend)
    engine = Engine(tasks, settings(**values), backend=link, clock=backend.clock)
    async with trio.open_nursery() as nursery:
        # In a task of its own, so that killing it does not cancel the test.
        yield await nursery.start(_run_in_its_own_scope, engine, link)
        await engine.stop()


async def _run_in_its_own_scope(
    engine: Engine, link: Link, *, task_status: trio.TaskStatus[Process]
) -> None:
    async with trio.open_nursery() as nursery:
        one = Process(engine, link, nursery.cancel_scope, trio.Event())
        await nursery.start(engine.run)
        task_status.started(one)
    one.ended.set()


async def claim_and_die(backend: MemoryBackend, queue: str = "default") -> Delivery:
    """What a worker process does that dies right after the start of its handler."""
    async with backend.open():
        (delivery,) = await backend.queue(queue).receive(1, wait=0, visibility=LEASE)
        await backend.store.claim(
            [
                ClaimRequest(
                    task_id=delivery.task_id,
                    message_id=delivery.message_id,
                    receive_count=delivery.receive_count,
                    worker="one that dies",
                )
            ]
        )
    return delivery


def step_of(backend: MemoryBackend, operation: str) -> str:
    """The operation by which this backend does it: a step where that is one transaction."""
    steps = {"record": "finish", "receive": "take", "claim": "take", "create": "submit"}
    return steps.get(operation, operation) if backend.is_one_transaction else operation


# --- looking --------------------------------------------------------------------------------


@dataclass
class Runs:
    """Notes what ran: a handler calls it with its context."""

    starts: list[tuple[str, int]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    """On trio's clock."""

    def __call__(self, context: Any) -> None:
        self.starts.append((context.task_id, context.attempt))
        self.at.append(trio.current_time())

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def attempts(self) -> list[int]:
        return [attempt for _, attempt in self.starts]


async def until(
    condition: Callable[[], bool], *, timeout: float = 3600, look_every: float = 0.01
) -> None:
    """Let virtual time pass until `condition()` holds."""
    with trio.fail_after(timeout):
        while not condition():  # noqa: ASYNC110 - any condition, and time costs nothing here
            await trio.sleep(look_every)


async def ended(engine: Engine, task_id: str, *, timeout: float = 3600) -> Task:
    """The task at its end; fails when it does not end."""
    task = await engine.wait(task_id, timeout=timeout)
    assert task.status.is_terminal, f"{task.status} after {timeout} s"
    return task


async def reaches(engine: Engine, task_id: str, status: TaskStatus) -> Task:
    """The task as soon as it has `status`."""
    with trio.fail_after(3600):
        while (task := await engine.get(task_id)).status is not status:  # noqa: ASYNC110 - as above
            await trio.sleep(0.01)
    if status is TaskStatus.PROCESSING:
        # Claimed together with its receive it is on its way to its worker.
        await trio.testing.wait_all_tasks_blocked()
    return task


def row(backend: MemoryBackend, task_id: str) -> Row:
    found = backend.store.row(task_id)
    assert found is not None
    return found


async def depth(backend: MemoryBackend, queue: str = "default") -> QueueDepth:
    async with backend.open():
        return await backend.queue(queue).depth()

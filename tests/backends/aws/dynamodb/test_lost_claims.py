"""A claim whose answer was lost, seen by the engine that made it: it gets its own attempt back.

Whether the store remembers the claim's token or not. It does, for the sake of its counters; where
it has forgotten it, the caller recognises its attempt by the worker's name and by what it holds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from local_aws.servers import LocalServer
from task_queue_engine import Engine, Settings, TaskContext, TaskRegistry
from task_queue_engine.backends.aws.dynamodb.write_tokens import WriteTokens
from task_queue_engine.backends.base import Counts, Message
from task_queue_engine.clock import SystemClock
from task_queue_engine.lifecycle import ClaimRequest, Started
from task_queue_engine.task import Task, TaskStatus
from tests.backends.aws.dynamodb.conformance import DynamoWithMemoryQueue
from tests.backends.aws.dynamodb.faults import Parameters, Send, lost_answer, nothing_wrong
from tests.backends.aws.dynamodb.tables import patience
from tests.backends.aws.dynamodb.tasks import create

WRITE = "BatchExecuteStatement"


@pytest.fixture
def backend(dynamodb_local: LocalServer) -> Iterator[DynamoWithMemoryQueue]:
    with patience():
        yield DynamoWithMemoryQueue(dynamodb_local, SystemClock())


@pytest.fixture(params=["remembered", "forgotten"])
def is_remembered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "forgotten":
        monkeypatch.setattr(WriteTokens, "remember", lambda *_: None)
    return bool(request.param == "remembered")


class Runs:
    """The handler's, as (task id, attempt)."""

    def __init__(self) -> None:
        self.registry = TaskRegistry()
        self.seen: list[tuple[str, int]] = []

        @self.registry.task("email")
        async def email(payload: Any, context: TaskContext) -> None:
            self.seen.append((context.task_id, context.attempt))


@asynccontextmanager
async def working(backend: DynamoWithMemoryQueue, runs: Runs) -> AsyncIterator[Engine]:
    """An engine whose leases are far longer than the test: none of them lapses."""
    settings = Settings(visibility_timeout=300, poll_wait=1)
    engine = Engine(runs.registry, settings, backend=backend, housekeeping=False)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            await engine.stop()


async def until_ended(
    engine: Engine, backend: DynamoWithMemoryQueue, tasks: list[Task]
) -> list[Task]:
    ended = [await engine.wait(task.id, timeout=20) for task in tasks]
    assert not backend.faults.armed(WRITE)
    while (await engine.metrics()).depth.in_flight:  # noqa: ASYNC110  # the acker's doing
        await trio.sleep(0.01)
    return ended


async def sent(backend: DynamoWithMemoryQueue, number: int, **fields: Any) -> list[Task]:
    tasks = await create(backend.store, SystemClock(), number, **fields)
    await backend.queue("default").send([Message(task=task) for task in tasks])
    return tasks


async def deserted(backend: DynamoWithMemoryQueue, **fields: Any) -> Task:
    """It runs on a worker that has died; its message is there again."""
    (task,) = await sent(backend, 1, **fields)
    (delivery,) = await backend.queue("default").receive(1, wait=0, visibility=0)
    request = ClaimRequest(
        task_id=task.id,
        message_id=delivery.message_id,
        receive_count=delivery.receive_count,
        worker="dead:1",
    )
    (verdict,) = await backend.store.claim([request])
    assert isinstance(verdict, Started)
    return task


async def test_a_start(backend: DynamoWithMemoryQueue, is_remembered: bool) -> None:
    runs = Runs()
    async with backend.open():
        tasks = await sent(backend, 3)
    backend.faults.arm(lost_answer, WRITE)
    async with working(backend, runs) as engine:
        ended = await until_ended(engine, backend, tasks)
        assert [task.status for task in ended] == [TaskStatus.COMPLETED] * 3
        assert sorted(runs.seen) == sorted((task.id, 1) for task in tasks)
        if is_remembered:
            assert await backend.store.counts() == Counts(completed=3)


async def test_one_statement_of_a_batch(
    backend: DynamoWithMemoryQueue, is_remembered: bool
) -> None:
    """Those that were answered are claimed again with it, and recognised like it."""

    async def first_is_lost(send: Send, parameters: Parameters) -> dict[str, Any]:
        answer = await send(parameters)
        claims = [one for one in parameters["Statements"] if "claim_token" in one["Statement"]]
        if len(claims) < 2:  # as many are claimed as workers are free at the moment
            backend.faults.arm(first_is_lost, WRITE)
            return answer
        unanswered = {"Error": {"Code": "AccessDenied", "Message": "by a test"}}
        return answer | {"Responses": [unanswered, *answer["Responses"][1:]]}

    runs = Runs()
    async with backend.open():
        tasks = await sent(backend, 10)
    backend.faults.arm(first_is_lost, WRITE)
    async with working(backend, runs) as engine:
        await until_ended(engine, backend, tasks)
        assert sorted(runs.seen) == sorted((task.id, 1) for task in tasks)
        if is_remembered:
            assert await backend.store.counts() == Counts(completed=10)


async def test_a_takeover(backend: DynamoWithMemoryQueue, is_remembered: bool) -> None:
    runs = Runs()
    async with backend.open():
        task = await deserted(backend)
    backend.faults.arm(nothing_wrong, WRITE)  # the blind start, which is refused
    backend.faults.arm(lost_answer, WRITE)
    async with working(backend, runs) as engine:
        (ended,) = await until_ended(engine, backend, [task])
        assert (ended.status, ended.retry_count) == (TaskStatus.COMPLETED, 1)
        assert runs.seen == [(task.id, 2)]


async def test_a_task_whose_attempts_are_used_up(
    backend: DynamoWithMemoryQueue, is_remembered: bool
) -> None:
    """Its message is dead-lettered, not deleted as that of a finished task."""
    runs = Runs()
    async with backend.open():
        task = await deserted(backend, max_attempts=1)
    backend.faults.arm(nothing_wrong, WRITE)
    backend.faults.arm(lost_answer, WRITE)
    async with working(backend, runs) as engine:
        (ended,) = await until_ended(engine, backend, [task])
        assert ended.status is TaskStatus.FAILED
        page = await backend.queue("default").dead_letters.page(limit=10)
        assert [dead_letter.task_id for dead_letter in page.dead_letters] == [task.id]
    assert runs.seen == []


async def test_a_task_that_was_to_be_cancelled(
    backend: DynamoWithMemoryQueue, is_remembered: bool
) -> None:
    runs = Runs()
    async with backend.open():
        task = await deserted(backend)
        await backend.store.cancel([task.id])
    backend.faults.arm(nothing_wrong, WRITE)
    backend.faults.arm(lost_answer, WRITE)
    async with working(backend, runs) as engine:
        (ended,) = await until_ended(engine, backend, [task])
        assert ended.status is TaskStatus.CANCELLED
        depth = await backend.queue("default").depth()
        assert (depth.waiting, depth.dead) == (0, 0)
    assert runs.seen == []

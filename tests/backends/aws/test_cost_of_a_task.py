"""What a task costs the process, in what no clock is needed for: requests, and Python calls.

A bound that is passed is a slow-down: either it is mended, or it is worth its price and the bound
is raised, with the reason.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import botocore.credentials
import pytest
import trio

from task_queue_engine.backends import aws as aws_package
from task_queue_engine.backends.aws.backend import AwsBackend
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.dynamodb.table_client import MAX_KEYS
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.base import Created, Delivery, Done, Message, NewTask
from task_queue_engine.clock import SystemClock
from task_queue_engine.engine.shared_looks import LOOK_SIZE
from task_queue_engine.lifecycle import ClaimRequest, Complete, Recorded, Started
from task_queue_engine.task import Task, TaskStatus, new_task_id
from tests.backends.aws.thread_aws import ThreadAws, thread_aws

T = TypeVar("T")

_OURS = str(Path(aws_package.__file__).parent)
_PAYLOAD = b'"' + b"x" * 100 + b'"'


class Stages:
    """The backend's part of what becomes of tasks that succeed, a stage a method."""

    def __init__(self, backend: AwsBackend) -> None:
        self.store = backend.store
        self.queue = backend.queue("default")

    async def create(self, tasks: Sequence[Task]) -> None:
        new = [NewTask(task=task, payload_json=_PAYLOAD) for task in tasks]
        assert await self.store.create(new) == [Created()] * len(tasks)

    async def send(self, tasks: Sequence[Task]) -> None:
        messages = [Message(task=task, payload_json=_PAYLOAD) for task in tasks]
        assert await self.queue.send(messages) == [Done()] * len(tasks)

    async def receive(self, number: int) -> list[Delivery]:
        found = await self.queue.receive(number, wait=1, visibility=30)
        assert len(found) == number
        return found

    async def claim(self, deliveries: Sequence[Delivery]) -> list[Started]:
        verdicts = await self.store.claim(
            [
                ClaimRequest(
                    task_id=each.task_id,
                    message_id=each.message_id,
                    receive_count=each.receive_count,
                    worker="host:1",
                )
                for each in deliveries
            ]
        )
        started = [verdict for verdict in verdicts if isinstance(verdict, Started)]
        assert len(started) == len(deliveries)
        return started

    async def record(self, started: Sequence[Started]) -> None:
        writes = [
            Complete(task_id=each.task.id, attempt=each.task.attempt, result=None)
            for each in started
        ]
        recorded = [Recorded(TaskStatus.COMPLETED)] * len(started)
        assert await self.store.record(writes) == recorded

    async def delete(self, deliveries: Sequence[Delivery]) -> None:
        assert await self.queue.delete(deliveries) == [Done()] * len(deliveries)

    async def whole(self, tasks: Sequence[Task], around: Around | None = None) -> None:
        """All of them, one after the other."""

        async def stage(name: str, done: Callable[[], Awaitable[T]]) -> T:
            if around is None:
                return await done()
            with around(name):
                return await done()

        await stage("create", lambda: self.create(tasks))
        await stage("send", lambda: self.send(tasks))
        deliveries = await stage("receive", lambda: self.receive(len(tasks)))
        started = await stage("claim", lambda: self.claim(deliveries))
        await stage("record", lambda: self.record(started))
        await stage("delete", lambda: self.delete(deliveries))


Around = Callable[[str], Any]


@asynccontextmanager
async def opened(aws: ThreadAws) -> AsyncIterator[Stages]:
    client = AwsClient(
        region="us-east-1",
        endpoints={"sqs": aws.url, "dynamodb": aws.url},
        load_credentials=lambda: botocore.credentials.Credentials("AKID", "secret"),
    )
    # Nothing happens by itself.
    store = DynamoStore(client, table_name="tasks", repair_interval=0, flush_interval=3600)
    urls = QueueUrls(f"{aws.url}/123456789012/tasks", f"{aws.url}/123456789012/tasks-dlq")
    backend = AwsBackend(client=client, urls=urls, store=store, queue_name="default")
    with trio.fail_after(30):
        async with backend.open():
            stages = Stages(backend)
            # Connections are made, statements put together, the counters have their mark.
            await stages.whole(make_tasks(10))
            await store.flush_counts()
            yield stages


def make_tasks(number: int) -> list[Task]:
    now = SystemClock().now()
    return [
        Task(id=new_task_id(), type="email", payload=None, created_at=now, updated_at=now)
        for _ in range(number)
    ]


@contextmanager
def counting_calls(into: Counter[str], name: str) -> Iterator[None]:
    """Calls of the backend's own functions on this thread, comprehensions included."""

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_OURS):
            into[name] += 1

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)


# --- requests -------------------------------------------------------------------------------

_OPERATIONS = {
    "create": "batchexecutestatement",
    "send": "sendmessagebatch",
    "receive": "receivemessage",
    "claim": "batchexecutestatement",
    "record": "batchexecutestatement",
    "delete": "deletemessagebatch",
}


@pytest.mark.parametrize(
    ("number", "of_the_store", "of_the_queue"),
    [
        # One after the other, each waits for the one before it: create before send, and status
        # before ack. So a submission takes two requests' time, and a task four.
        (1, 1, 1),
        (10, 1, 1),
        (100, 4, 10),  # 25 statements and ten entries a request
    ],
)
async def test_each_step_is_one_kind_of_request(
    number: int, of_the_store: int, of_the_queue: int
) -> None:
    with thread_aws() as aws:
        async with opened(aws) as stages:
            asked: dict[str, Counter[str]] = {}

            @contextmanager
            def around(stage: str) -> Iterator[None]:
                before = aws.answered.copy()
                yield
                asked[stage] = aws.answered - before

            await stages.whole(make_tasks(number), around)

    assert asked == {
        stage: {operation: of_the_store if operation.startswith("batchexecute") else of_the_queue}
        for stage, operation in _OPERATIONS.items()
    }


async def test_nothing_is_in_the_way_of_calls_that_are_made_together() -> None:
    """The requests of one batch go out together, and so do those of three batches of each stage,
    while long polls wait: no connection, place or lock is shared that would hold them up."""
    tasks = [make_tasks(100) for _ in range(3)]
    with thread_aws() as aws:
        async with opened(aws) as stages:
            await stages.send(tasks[0])
            # Ten entries and 25 statements a request. All are answered when all are there.
            aws.together = 3 * 10 + 3 * 1 + 3 * 4
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    for each in tasks:
                        nursery.start_soon(stages.send, each)
                        nursery.start_soon(stages.receive, 10)
                        nursery.start_soon(stages.create, each)


def test_a_look_for_those_that_wait_takes_full_requests() -> None:
    assert LOOK_SIZE % MAX_KEYS == 0


# --- Python calls ---------------------------------------------------------------------------

# Calls of the backend's own functions for each of ten tasks, their part of the request included:
# what was counted on Python 3.11, where a comprehension is a call as well, and a tenth on top, for
# answers that come in several pieces.
_MOST_CALLS = {
    "create": 50,
    "send": 22,
    "receive": 16,
    "claim": 72,
    "record": 46,
    "delete": 10,
}


async def test_a_task_takes_no_more_calls_than_it_has() -> None:
    calls: Counter[str] = Counter()
    with thread_aws() as aws:
        async with opened(aws) as stages:
            await stages.whole(make_tasks(10), lambda name: counting_calls(calls, name))

    too_many = {
        stage: calls[stage] / 10 for stage, most in _MOST_CALLS.items() if calls[stage] / 10 > most
    }
    assert too_many == {}

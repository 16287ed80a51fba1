"""The redrive policy, which counts receives: what it may and may not take."""

from __future__ import annotations

import random
import secrets
from typing import Any

import pytest
import trio

from task_queue_engine.actors.backend_retry import BackendRetry
from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.reconciler import Reconciler
from task_queue_engine.backends.aws.backend import AwsBackend
from task_queue_engine.backends.base import Created, Done, Message, NewTask
from task_queue_engine.clock import ManualClock
from task_queue_engine.lifecycle import DEAD_LETTERED_ERROR_TYPE, Exhausted, Receive, Started
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.testing.conformance.harness import claim_request
from tests.backends.aws.sqs.clock_client import ClockClient
from tests.backends.aws.sqs.conformance import make_backend
from tests.backends.aws.sqs.queues import boto, make_queue, make_task, queue_of
from tests.local_servers import require

SERVERS = ["elasticmq", "moto", "fauxqs", "ministack"]
REASON = "moved by SQS: received 3 times and never settled, its process died"


@pytest.mark.parametrize(
    ("name", "delay"), [*((name, 0.0) for name in SERVERS), ("elasticmq", 1.0)]
)
async def test_giving_back_does_not_use_up_the_safety_net(name: str, delay: float) -> None:
    async with queue_of(require(name), max_receives=3) as queue:
        await queue.send([Message(task=make_task())])
        for _ in range(5 if delay == 0 else 4):
            (delivery,) = await queue.receive(1, wait=5, visibility=30)
            assert await queue.release([(delivery, delay)]) == [Done()]
        (delivery,) = await queue.receive(1, wait=5, visibility=30)
        assert delivery.receive_count < 3, "there is room for a crash"
        assert (await queue.depth()).dead == 0


@pytest.mark.parametrize("name", ["elasticmq", "moto"])
async def test_a_copy_given_back_unclaimed_says_what_it_is_a_copy_of(name: str) -> None:
    """Else the task of a dead owner would wait until no lease can be that old."""
    async with queue_of(require(name), max_receives=3) as queue:
        await queue.send([Message(task=make_task())])
        seen: list[Receive] = []
        for _ in range(7):
            (delivery,) = await queue.receive(1, wait=5, visibility=30)
            assert delivery.copy_of == tuple(seen)
            if delivery.receive_count == 2:
                seen.append(Receive(delivery.message_id, 2))
            assert await queue.release([(delivery, 0)]) == [Done()]
        assert len({one.message_id for one in seen}) == 3


async def die_three_times(name: str, *, claims: bool) -> None:
    server = require(name)
    clock = ManualClock()
    client = ClockClient.of(server, clock)
    maker = ClockClient.of(server, clock)
    async with maker.open():
        urls = await make_queue(maker, f"deaths-{secrets.token_hex(5)}")
    backend = make_backend(client, urls, clock)
    queue = backend.queue("default")
    async with backend.open():
        task = make_task(created_at=clock.now(), updated_at=clock.now(), max_attempts=10)
        await put(backend, task)
        for _ in range(3):
            (delivery,) = await queue.receive(1, wait=5, visibility=30)
            if claims:
                (verdict,) = await backend.store.claim([claim_request(delivery)])
                assert isinstance(verdict, Started)
            await client.pass_time(31)
        assert await queue.receive(1, wait=1, visibility=30) == [], "SQS has moved it"

        (dead_letter,) = await queue.dead_letters.moved_by_broker()
        assert (dead_letter.task_id, dead_letter.reason) == (task.id, REASON)
        if claims:
            assert dead_letter.message_id == delivery.message_id, "the id stays when SQS moves it"

        await reconcile_once(backend, clock)
        (found,) = await backend.store.get([task.id])
        assert found.status is TaskStatus.PROCESSING if claims else TaskStatus.PENDING
        await client.pass_time(100)
        await reconcile_once(backend, clock)

        (found,) = await backend.store.get([task.id])
        assert found.status is TaskStatus.FAILED
        assert found.error is not None
        assert (found.error.type, found.error.message) == (DEAD_LETTERED_ERROR_TYPE, REASON)
        assert found.retry_count == (3 if claims else 0)

        # And the dead letter is where it was, for the operator.
        (listed,) = (await queue.dead_letters.page(limit=10)).dead_letters
        assert (listed.task_id, listed.reason) == (task.id, REASON)
        there = boto("sqs", server).receive_message(QueueUrl=urls.dead)["Messages"]
        assert [message["MessageId"] for message in there] == [dead_letter.message_id]


async def test_a_task_whose_processes_die_has_all_its_attempts() -> None:
    """Three are what the redrive policy allows a message; a worn one is replaced."""
    server = require("elasticmq")
    clock = ManualClock()
    client = ClockClient.of(server, clock)
    maker = ClockClient.of(server, clock)
    async with maker.open():
        urls = await make_queue(maker, f"deaths-{secrets.token_hex(5)}", max_receives=3)
    backend = make_backend(client, urls, clock)
    queue = backend.queue("default")
    async with backend.open():
        task = make_task(created_at=clock.now(), updated_at=clock.now(), max_attempts=6)
        await put(backend, task)
        for attempt in range(1, 8):
            (delivery,) = await queue.receive(1, wait=5, visibility=30)
            if delivery.is_worn:  # as the claimer does
                assert await queue.release([(delivery, 0)]) == [Done()]
                (delivery,) = await queue.receive(1, wait=5, visibility=30)
            assert not delivery.is_worn
            (verdict,) = await backend.store.claim([claim_request(delivery)])
            if attempt == 7:
                assert isinstance(verdict, Exhausted), "by max_attempts, and nothing else"
                assert verdict.task.retry_count == 6
            else:
                assert isinstance(verdict, Started)
                assert verdict.task.attempt == attempt
                await client.pass_time(31)
        assert (await queue.depth()).dead == 0


async def put(backend: AwsBackend, task: Task) -> None:
    assert await backend.store.create([NewTask(task=task)]) == [Created()]
    assert await backend.queue("default").send([Message(task=task)]) == [Done()]


class OneRound(BackendRetry):
    """Says when it has been through one."""

    def __init__(self) -> None:
        super().__init__(actor="reconciler", health=ActorHealth(), rng=random.Random(1))
        self.is_over = trio.Event()

    async def call(self, *args: Any, **options: Any) -> Any:
        answer = await super().call(*args, **options)
        self.is_over.set()
        return answer


async def reconcile_once(backend: AwsBackend, clock: ManualClock) -> None:
    one_round = OneRound()
    reconciler = Reconciler(
        backend=backend,
        queue="default",
        clock=clock,
        interval=3600,
        min_age=90,
        retention=0,
        retry=one_round,
        rng=random.Random(1),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reconciler.run)
        with trio.fail_after(30):
            await one_round.is_over.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", SERVERS)
async def test_a_task_whose_process_died_three_times_fails(name: str) -> None:
    await die_three_times(name, claims=True)


async def test_so_does_one_that_never_got_as_far_as_starting() -> None:
    await die_three_times("elasticmq", claims=False)

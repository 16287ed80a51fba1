"""What the backend says it has asked for: of SQS here, of both on real servers."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
import trio

from local_aws.servers import LocalServer
from task_queue_engine import Engine, Settings, TaskRegistry
from task_queue_engine.backends.aws.backend import AwsBackend
from task_queue_engine.backends.aws.provisioning.provision import provision
from task_queue_engine.backends.aws.provisioning.resources import Names
from task_queue_engine.backends.aws.provisioning.session import AdminSession
from task_queue_engine.backends.aws.usage import MAX_TYPES, OTHER_TYPES, UsageByType, task_types
from task_queue_engine.backends.base import DeadLettering, Message, MeteredBackend
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.backends.sqlite import SqliteBackend
from tests.backends.aws.dynamodb.tables import patience
from tests.backends.aws.sqs.queues import NOW, make_task, queue_on
from tests.backends.aws.wire.canned import Answer, Request, answer, serving


def all_well(request: Request) -> Answer:
    if request.operation == "ReceiveMessage":
        bodies = [{"id": f"t{n}", "type": "email" if n < 6 else "export"} for n in range(8)]
        messages = [
            {"MessageId": f"m{n}", "ReceiptHandle": f"r{n}", "Body": json.dumps(body)}
            for n, body in enumerate(bodies)
        ]
        return answer({"Messages": messages})
    entries = request.parameters["Entries"]
    return answer({"Successful": [{"Id": entry["Id"]} for entry in entries]})


async def test_requests_are_shared_by_the_tasks_they_serve() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        deliveries = await queue.receive(10, wait=0, visibility=30)
        await queue.extend(deliveries, visibility=30)
        await queue.delete(deliveries)

    usage = queue.usage()
    assert {name: each.requests for name, each in usage.items()} == {
        "email": pytest.approx(3 * 6 / 8),
        "export": pytest.approx(3 * 2 / 8),
    }
    assert sum(each.requests for each in usage.values()) == pytest.approx(len(server.requests))


async def test_every_request_of_a_large_batch_is_shared() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        tasks = [make_task(type="email") for _ in range(24)] + [make_task(type="export")]
        await queue.send([Message(task=task) for task in tasks])

    usage = queue.usage()
    assert len(server.requests) == 3
    assert usage["email"].requests == pytest.approx(3 * 24 / 25)
    assert usage["export"].requests == pytest.approx(3 / 25)


async def test_every_request_of_a_large_receive_is_shared() -> None:
    def ten(request: Request) -> Answer:
        body = json.dumps({"id": "t", "type": "email"})
        messages = [{"MessageId": f"m{n}", "ReceiptHandle": "r", "Body": body} for n in range(10)]
        return answer({"Messages": messages})

    async with serving() as server, queue_on(server) as queue:
        server.default = ten
        await queue.receive(30, wait=0, visibility=30)

    assert len(server.requests) == 3
    assert queue.usage()["email"].requests == pytest.approx(3)


async def test_what_a_dead_letter_costs_is_its_tasks() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = all_well
        (delivery, *_) = await queue.receive(10, wait=0, visibility=30)
        before = queue.usage()["email"].requests
        dying = DeadLettering(delivery=delivery, reason="a test", task_type="email", at=NOW)
        await queue.dead_letter([dying])

    # Its lease is made sure of, it is sent, it is deleted.
    assert queue.usage()["email"].requests - before == pytest.approx(3)


async def test_an_empty_poll_belongs_to_no_type() -> None:
    async with serving() as server, queue_on(server) as queue:
        server.default = answer({"Messages": []})
        assert await queue.receive(10, wait=0, visibility=30) == []

    assert queue.usage() == {}


def test_neither_the_number_nor_the_length_of_type_names_is_without_bounds() -> None:
    usage = UsageByType()
    usage.share(["x" * 10_000], requests=1)
    for number in range(MAX_TYPES + 50):
        usage.share([f"type-{number}", "type-0"], requests=2)

    assert len(usage) == MAX_TYPES
    assert usage[OTHER_TYPES].requests == pytest.approx(1 + 51)
    total = sum(each.requests for each in usage.values())
    assert total == pytest.approx(1 + 2 * (MAX_TYPES + 50))
    assert task_types("sqs", [usage, usage])[0].requests == 2 * usage[OTHER_TYPES].requests


def test_what_is_not_billed_has_no_usage(tmp_path: Any) -> None:
    assert not isinstance(MemoryBackend(), MeteredBackend)
    assert not isinstance(SqliteBackend(str(tmp_path / "tasks.db")), MeteredBackend)


async def test_an_engine_tells_what_it_asked_of_both_services(
    elasticmq: LocalServer, dynamodb_local: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = elasticmq.credentials
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", elasticmq.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", dynamodb_local.url)
    name = f"usage-{secrets.token_hex(4)}"
    names = Names(queue=name, dead=f"{name}-dlq", table=name)
    control = await trio.to_thread.run_sync(lambda: AdminSession(elasticmq.region))
    made = await trio.to_thread.run_sync(lambda: provision(control, names))
    settings = Settings(
        aws_region=elasticmq.region,
        sqs_queue_url=made.environment["SQS_QUEUE_URL"],
        sqs_dlq_url=made.environment["SQS_DLQ_URL"],
        dynamodb_table=name,
        # DynamoDB Local tells the units of these, not of batches of statements.
        dynamodb_writes="single",
        poll_wait=1,
    )
    tasks = TaskRegistry()

    @tasks.task("email")
    async def email(payload: Any) -> None:
        return None

    with patience(), trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            engine = Engine(tasks, settings, backend=AwsBackend.from_settings(settings))
            await nursery.start(engine.run)
            handles = [await engine.submit("email", number) for number in range(5)]
            for handle in handles:
                await handle.result(timeout=30)
            usage = (await engine.metrics()).usage
            await engine.stop()

    assert usage is not None
    operations = {(each.service, each.operation): each for each in usage.operations}
    assert operations["sqs", "SendMessageBatch"].requests == 5
    assert operations["dynamodb", "PutItem"].write_units >= 5
    assert operations["dynamodb", "PutItem"].read_units == 0
    assert operations["dynamodb", "GetItem"].read_units > 0
    steps = {each.step: each for each in usage.steps}
    assert steps["create"].write_units >= 5
    assert {"claim", "record"} <= set(steps)
    types = {(each.service, each.task_type): each for each in usage.task_types}
    assert types["sqs", "email"].requests >= 5
    assert types["dynamodb", "email"].write_units >= 15

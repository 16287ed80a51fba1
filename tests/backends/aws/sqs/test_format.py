"""What other programs find on the queues, read with boto3, and what they may put there."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from msgspec import UNSET
from msgspec.structs import replace as replace_struct

from task_queue_engine.backends.aws.sqs.message_format import outgoing, outgoing_dead_letter
from task_queue_engine.backends.base import DeadLetter, Done, Message
from task_queue_engine.codec import decode_json
from task_queue_engine.task import TaskError
from task_queue_engine.trace_context import TraceContext
from tests.backends.aws.sqs.queues import (
    NOW,
    boto,
    dead_lettering,
    make_delivery,
    make_task,
    queue_of,
)
from tests.local_servers import require

ERROR = TaskError(type="ValueError", message="no\x01 \ufffe", traceback="Traceback ...")

SERVERS = ["elasticmq", "moto"]


@pytest.mark.parametrize("name", SERVERS)
async def test_a_message_is_the_task_as_the_api_returns_it(name: str) -> None:
    server = require(name)
    task = make_task(payload={"to": "ü ☃ \ufffe", "n": [1.5, None]}, retry_count=2)
    async with queue_of(server) as queue:
        assert await queue.send([Message(task=task)]) == [Done()]
        url = queue.urls.queue
        (found,) = boto("sqs", server).receive_message(QueueUrl=url, MessageAttributeNames=["All"])[
            "Messages"
        ]
    assert json.loads(found["Body"]) == {
        "id": task.id,
        "type": "email",
        "payload": {"to": "ü ☃ \ufffe", "n": [1.5, None]},
        "status": "PENDING",
        "queue": "default",
        "retry_count": 2,
        "attempt": 0,
        "max_attempts": 3,
        "timeout_seconds": None,
        "created_at": "2030-01-02T03:04:05.678901Z",
        "updated_at": "2030-01-02T03:04:05.678901Z",
        "run_at": None,
        "started_at": None,
        "finished_at": None,
        "result": None,
        "error": None,
        "progress": None,
        "worker": None,
        "cancel_requested": False,
    }
    attributes = found["MessageAttributes"]
    assert set(attributes) == {"TaskType", "RetryCount"}
    assert (attributes["TaskType"]["DataType"], attributes["TaskType"]["StringValue"]) == (
        "String",
        "email",
    )
    assert (attributes["RetryCount"]["DataType"], attributes["RetryCount"]["StringValue"]) == (
        "Number",
        "2",
    )


CONTEXT = TraceContext(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    span_id="00f067aa0ba902b7",
    sampled=True,
    tracestate='vendor=a"b,other@vendor=2',
)


async def test_a_task_of_a_trace_says_so_in_attributes_of_w3c_s_names() -> None:
    server = require("elasticmq")
    task = make_task(trace_context=CONTEXT)
    async with queue_of(server) as queue:
        client, url = boto("sqs", server), queue.urls.queue
        assert await queue.send([Message(task=task)]) == [Done()]
        (found,) = client.receive_message(
            QueueUrl=url, MessageAttributeNames=["All"], VisibilityTimeout=0
        )["Messages"]
        said = {
            name: value["StringValue"]
            for name, value in found["MessageAttributes"].items()
            if name not in ("TaskType", "RetryCount")
        }
        assert said == {
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "tracestate": 'vendor=a"b,other@vendor=2',
        }
        # As it is given back with a delay it is a new message, which says so too.
        (delivery,) = await queue.receive(1, wait=5, visibility=30)
        assert delivery.trace_context == CONTEXT
        assert await queue.release([(delivery, 1)]) == [Done()]
        (copy,) = await queue.receive(1, wait=5, visibility=30)
        assert (copy.trace_context, len(copy.copy_of)) == (CONTEXT, 1)


@pytest.mark.parametrize("traceparent", ["nonsense", CONTEXT.traceparent])
async def test_a_foreign_message_s_attribute_is_read_where_it_is_one(traceparent: str) -> None:
    server = require("elasticmq")
    async with queue_of(server) as queue:
        boto("sqs", server).send_message(
            QueueUrl=queue.urls.queue,
            MessageBody='{"id": "1", "type": "email", "payload": 1}',
            MessageAttributes={"traceparent": {"DataType": "String", "StringValue": traceparent}},
        )
        (delivery,) = await queue.receive(1, wait=5, visibility=30)
    expected = None if traceparent == "nonsense" else replace_struct(CONTEXT, tracestate=UNSET)
    assert delivery.trace_context == expected


def test_a_message_without_room_for_it_goes_without() -> None:
    plain = outgoing(Message(task=make_task()))
    traced = outgoing(Message(task=make_task(trace_context=CONTEXT)), max_bytes=plain.size)
    assert set(traced.attributes) == {"TaskType", "RetryCount"}
    assert "trace_context" not in traced.body


@pytest.mark.parametrize("name", SERVERS)
async def test_a_dead_letter_says_why_in_its_attributes(name: str) -> None:
    server = require(name)
    task = make_task()
    async with queue_of(server) as queue:
        await queue.send([Message(task=task)])
        (delivery,) = await queue.receive(1, wait=5, visibility=30)
        item = dead_lettering(
            delivery, reason="it failed 3 times", task_type="email", attempts=3, error=ERROR
        )
        assert await queue.dead_letter([item]) == [Done()]
        client = boto("sqs", server)
        (found,) = client.receive_message(
            QueueUrl=queue.urls.dead, MessageAttributeNames=["All"], VisibilityTimeout=0
        )["Messages"]
        assert not client.receive_message(QueueUrl=queue.urls.queue).get("Messages")
        (listed,) = (await queue.dead_letters.page(limit=10)).dead_letters
    assert json.loads(found["Body"])["id"] == task.id
    values = {
        key: (value["DataType"], value["StringValue"])
        for key, value in found["MessageAttributes"].items()
    }
    assert decode_json(values.pop("Error")[1].encode()) == {
        "type": "ValueError",
        "message": "no\x01 \ufffe",
        "traceback": "Traceback ...",
    }
    assert values == {
        "TaskType": ("String", "email"),
        "RetryCount": ("Number", "3"),
        "Reason": ("String", "it failed 3 times"),
        "Attempts": ("Number", "3"),
        "FailedAt": ("String", "2030-01-02T03:04:05.678901Z"),
    }
    assert listed == DeadLetter(
        id=found["MessageId"],
        task_id=task.id,
        task_type="email",
        reason="it failed 3 times",
        error=ERROR,
        attempts=3,
        at=NOW,
    )


async def test_a_message_of_the_go_service_names_its_task() -> None:
    server = require("elasticmq")
    body = {
        "id": "3f0b5a53-9d0a-4f1f-8a3f-8f576f1f3c9e",
        "type": "email",
        "payload": "user@example.com",
        "status": "PENDING",
        "retry_count": 0,
        "created_at": "2024-05-06T07:08:09.123456789Z",
        "updated_at": "2024-05-06T07:08:09.123456789Z",
    }
    async with queue_of(server) as queue:
        boto("sqs", server).send_message(QueueUrl=queue.urls.queue, MessageBody=json.dumps(body))
        (delivery,) = await queue.receive(1, wait=5, visibility=30)
    assert (delivery.task_id, delivery.receive_count) == (body["id"], 1)


async def test_what_is_no_task_dies_with_a_reason_and_its_body() -> None:
    server = require("elasticmq")
    async with queue_of(server) as queue:
        client = boto("sqs", server)
        client.send_message(QueueUrl=queue.urls.queue, MessageBody="hello?")
        (delivery,) = await queue.receive(1, wait=5, visibility=30)
        await queue.dead_letter([dead_lettering(delivery, reason="no such task in the store")])
        (listed,) = (await queue.dead_letters.page(limit=10)).dead_letters
        (found,) = client.receive_message(QueueUrl=queue.urls.dead)["Messages"]
    assert listed.reason == "its body is not a task: no such task in the store"
    assert found["Body"] == "hello?"


# --- what does not fit ----------------------------------------------------------------------


def test_a_long_traceback_is_cut_before_a_dead_letter_is_not_sent() -> None:
    body = b'{"id":"x","payload":"' + b"x" * 5000 + b'"}'
    long = TaskError(type="ValueError", message="m" * 3000, traceback="t" * 5000)
    item = dead_lettering(make_delivery(body=body), error=long)

    def error_within(limit: int) -> dict[str, str] | None:
        sent = outgoing_dead_letter(item, max_bytes=limit)
        if "Error" not in sent.attributes:
            return None
        assert sent.size <= limit
        return json.loads(sent.attributes["Error"]["StringValue"])

    assert error_within(20_000) == {"type": "ValueError", "message": "m" * 3000} | {
        "traceback": "t" * 5000
    }
    assert error_within(10_000) == {"type": "ValueError", "message": "m" * 2000, "traceback": None}
    assert error_within(6_000) == {"type": "ValueError", "message": "", "traceback": None}
    assert (
        error_within(outgoing_dead_letter(replace(item, error=None), max_bytes=9_000).size) is None
    )
    # Over the limit by itself the body goes without its payload, which is in the task's row.
    assert error_within(5_100) == {"type": "ValueError", "message": "m" * 2000, "traceback": None}
    assert outgoing_dead_letter(item, max_bytes=5_100).body == '{"id":"x"}'


def test_nothing_that_sqs_refuses_is_in_an_attribute() -> None:
    item = dead_lettering(make_delivery(), reason="bell \x07, \uffff and \U0001f388", task_type="")
    sent = outgoing_dead_letter(item, max_bytes=2**20)
    assert sent.attributes["Reason"]["StringValue"] == "bell \ufffd, \ufffd and \U0001f388"
    assert "TaskType" not in sent.attributes, "an empty value is not allowed"


async def test_dead_letters_are_listed_newest_first_page_by_page() -> None:
    server = require("elasticmq")
    async with queue_of(server) as queue:
        await queue.send([Message(task=make_task(id=f"task-{i}")) for i in range(25)])
        number = 0
        while deliveries := await queue.receive(10, wait=0, visibility=30):
            items = [
                dead_lettering(delivery, at=NOW + timedelta(seconds=number + i))
                for i, delivery in enumerate(deliveries)
            ]
            number += len(items)
            await queue.dead_letter(items)
        first = await queue.dead_letters.page(limit=20)
        second = await queue.dead_letters.page(limit=20, cursor=first.next_cursor)
        # Looked at and given back: a redrive finds them all.
        taken = await queue.dead_letters.take(limit=100)
    times = [one.at for one in first.dead_letters + second.dead_letters]
    assert times == [NOW + timedelta(seconds=i) for i in reversed(range(25))]
    assert second.next_cursor is None
    assert len(taken) == 25

"""The engine to compare with: the call pattern of the usual tutorial, made for real.

- The table has the key `id` and a `status-index` on `status`.
- Submitting: PutItem with status PENDING, then SendMessage.
- Working: ReceiveMessage in tens with long polls; for each message UpdateItem to PROCESSING, the
  work, UpdateItem to COMPLETED, DeleteMessage.
- A retry: UpdateItem back to PENDING, then ChangeMessageVisibility by the delay.
- A failure for good: UpdateItem to FAILED, SendMessage to the dead-letter queue, DeleteMessage.
- A delay of an hour: SendMessage with the 15 minutes that SQS allows, then, received too early,
  ChangeMessageVisibility by the rest: the cheapest way there is. (The waits themselves are left out
  here; they cost nothing.)

It has no fencing, no counters, no conditions, no heartbeats and keeps no result: it does less than
this project's engine, which makes the comparison a hard one.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import trio

from benchmarks.aws.cost.observed import ObservedClient
from benchmarks.aws.cost.shapes import MOST_SECONDS, RETRY_DELAY, Run, Shape, Side
from benchmarks.aws.cost.units import Index
from benchmarks.aws.cost.written import Change, TableStream
from benchmarks.aws.setup import boto
from benchmarks.phases import Tick
from local_aws.pairs import LocalAws

ALL = "reference, index of all attributes"
KEYS_ONLY = "reference, index of keys only"

_PRODUCERS = 16
_POLLERS = 4
_TABLE_KEYS = ("id",)
_INDEX = Index(name="status-index", keys=("status",), table_keys=_TABLE_KEYS)
_LONGEST_DELAY = 900


class Reference:
    def __init__(self, client: ObservedClient, queue: str, dead: str, table: str) -> None:
        self._client = client
        self._queue = queue
        self._dead = dead
        self._table = table

    async def submit(self, shape: Shape) -> None:
        now = _now()
        task = {
            "id": secrets.token_hex(16),
            "type": shape.outcome,
            "payload": "x" * shape.payload_bytes,
            "status": "PENDING",
            "retry_count": 0,
            "created_at": now,
            "updated_at": now,
        }
        item = {
            name: {"N": str(value)} if isinstance(value, int) else {"S": value}
            for name, value in task.items()
        }
        await self._client.call("dynamodb", "PutItem", {"TableName": self._table, "Item": item})
        message = {
            "QueueUrl": self._queue,
            "MessageBody": json.dumps(task),
            "MessageAttributes": {
                "TaskType": {"DataType": "String", "StringValue": shape.outcome},
                "RetryCount": {"DataType": "Number", "StringValue": "0"},
            },
        }
        await self._client.call("sqs", "SendMessage", message)

    async def work(self, shape: Shape, tick: Tick, *, in_turn: bool = False) -> None:
        """One poller, until it is cancelled.

        Args:
            in_turn: it handles what it received one after the other, not all at once.
        """
        while True:
            parameters = {
                "QueueUrl": self._queue,
                "MaxNumberOfMessages": 10,
                "WaitTimeSeconds": 20,
                "MessageSystemAttributeNames": ["ApproximateReceiveCount"],
            }
            answer = await self._client.call("sqs", "ReceiveMessage", parameters, long_poll=True)
            messages = answer.get("Messages") or ()
            if in_turn:
                for message in messages:
                    await self._work_on(shape, message, tick)
                continue
            async with trio.open_nursery() as nursery:
                for message in messages:
                    nursery.start_soon(self._work_on, shape, message, tick)

    async def _work_on(self, shape: Shape, message: dict[str, Any], tick: Tick) -> None:
        receives = int(message["Attributes"]["ApproximateReceiveCount"])
        if shape.delay > _LONGEST_DELAY and receives == 1:
            await self._hide(message, 0)  # would be the rest of the delay
            return
        task_id = json.loads(message["Body"])["id"]
        await self._set_status(task_id, "PROCESSING")
        if shape.outcome == "retried" and receives == 1:
            await self._set_status(task_id, "PENDING", retry_count=1)
            await self._hide(message, int(RETRY_DELAY))
            return
        if shape.outcome == "failed":
            await self._set_status(task_id, "FAILED", error="it cannot be done")
            dead_letter = {"QueueUrl": self._dead, "MessageBody": message["Body"]}
            await self._client.call("sqs", "SendMessage", dead_letter)
        else:
            await self._set_status(task_id, "COMPLETED")
        receipt = {"QueueUrl": self._queue, "ReceiptHandle": message["ReceiptHandle"]}
        await self._client.call("sqs", "DeleteMessage", receipt)
        tick(1)

    async def _hide(self, message: dict[str, Any], seconds: int) -> None:
        parameters = {
            "QueueUrl": self._queue,
            "ReceiptHandle": message["ReceiptHandle"],
            "VisibilityTimeout": seconds,
        }
        await self._client.call("sqs", "ChangeMessageVisibility", parameters)

    async def _set_status(self, task_id: str, status: str, **more: str | int) -> None:
        values = {"status": status, "updated_at": _now(), **more}
        await self._client.call(
            "dynamodb",
            "UpdateItem",
            {
                "TableName": self._table,
                "Key": {"id": {"S": task_id}},
                "UpdateExpression": "SET " + ", ".join(f"#{name} = :{name}" for name in values),
                "ExpressionAttributeNames": {f"#{name}": name for name in values},
                "ExpressionAttributeValues": {
                    f":{name}": {"N": str(value)} if isinstance(value, int) else {"S": value}
                    for name, value in values.items()
                },
            },
        )


def reference_provisioned(local: LocalAws) -> tuple[str, str, str]:
    """New: the URL of its queue, of its dead-letter queue, the name of its table. Blocks."""
    name = f"reference-{secrets.token_hex(4)}"
    sqs = boto(local, "sqs")
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    dead = sqs.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
    boto(local, "dynamodb").create_table(**_table(name))
    return queue, dead, name


async def run_reference(local: LocalAws, shape: Shape, count: int, tick: Tick) -> list[Run]:
    """One run, priced for an index of all attributes (as it is made here) and for one of the keys
    alone: the calls are the same."""
    queue, dead, name = reference_provisioned(local)
    stream = TableStream(boto(local, "dynamodb"), boto(local, "dynamodbstreams"), name)
    producer = ObservedClient(**local.client_options())
    consumer = ObservedClient(**local.client_options())

    async with producer.open():
        await _produce(Reference(producer, queue, dead, name), shape, count)
    created = await trio.to_thread.run_sync(stream.new_changes)

    left = count
    started = trio.current_time()
    async with consumer.open():
        worker = Reference(consumer, queue, dead, name)
        with trio.fail_after(MOST_SECONDS):
            async with trio.open_nursery() as nursery:

                def one_more(number: int) -> None:
                    nonlocal left
                    left -= number
                    tick(number)
                    if left <= 0:
                        nursery.cancel_scope.cancel()

                for _ in range(_POLLERS):
                    nursery.start_soon(worker.work, shape, one_more)
    seconds = trio.current_time() - started
    worked = await trio.to_thread.run_sync(stream.new_changes)

    def priced(engine: str, index: Index) -> Run:
        def side(client: ObservedClient, changes: list[Change]) -> Side:
            return Side.of(client, changes, [index])

        return Run(
            engine=engine,
            shape=shape.name,
            tasks=count,
            seconds=seconds,
            producing=side(producer, created),
            consuming=side(consumer, worked),
        )

    return [priced(ALL, replace(_INDEX, projected=None)), priced(KEYS_ONLY, _INDEX)]


async def _produce(reference: Reference, shape: Shape, count: int) -> None:
    numbers = iter(range(count))

    async def produce() -> None:
        for _ in numbers:
            await reference.submit(shape)

    async with trio.open_nursery() as nursery:
        for _ in range(_PRODUCERS):
            nursery.start_soon(produce)


def _table(name: str) -> dict[str, Any]:
    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [
            {"AttributeName": each, "AttributeType": "S"} for each in ("id", "status")
        ],
        "GlobalSecondaryIndexes": [
            {
                "IndexName": "status-index",
                "KeySchema": [{"AttributeName": "status", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()

"""Queues opened for a test, and what lies on them."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import boto3
import botocore.credentials
from botocore.config import Config

from local_aws.servers import LocalServer
from task_queue_engine.backends.aws.sqs.queue import SqsQueue
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.base import DeadLettering, Delivery
from task_queue_engine.clock import SystemClock
from task_queue_engine.task import Task, new_task_id
from tests.backends.aws.dynamodb.tables import patience
from tests.backends.aws.wire.canned import CannedServer

URLS = QueueUrls("https://sqs.test/1/tasks", "https://sqs.test/1/tasks-dlq")
NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def make_task(**fields: Any) -> Task:
    defaults: dict[str, Any] = {
        "id": new_task_id(),
        "type": "email",
        "payload": {"to": "user@example.com"},
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Task(**(defaults | fields))


def make_delivery(number: int = 0, *, receive_count: int = 1, body: bytes = b"") -> Delivery:
    return Delivery(
        task_id=f"task-{number}",
        message_id=f"message-{number}",
        receipt=f"receipt-{number}",
        receive_count=receive_count,
        body=body or b'{"id":"task-%d","type":"email","retry_count":1}' % number,
    )


def dead_lettering(delivery: Delivery, **fields: Any) -> DeadLettering:
    return DeadLettering(delivery=delivery, **({"reason": "a test", "at": NOW} | fields))


def client_of(url: str, key: str, secret: str, **options: Any) -> AwsClient:
    return AwsClient(
        region="us-east-1",
        endpoints={"sqs": url, "dynamodb": url},
        load_credentials=lambda: botocore.credentials.Credentials(key, secret),
        **options,
    )


async def make_queue(client: AwsClient, name: str, *, max_receives: int = 3) -> QueueUrls:
    """A queue and its dead-letter queue, as they are provisioned."""

    async def create(name: str, **attributes: str) -> str:
        answer = await client.call(
            "sqs", "CreateQueue", {"QueueName": name, "Attributes": attributes}
        )
        return str(answer["QueueUrl"])

    dead = await create(f"{name}-dlq")
    asked = {"QueueUrl": dead, "AttributeNames": ["QueueArn"]}
    arn = (await client.call("sqs", "GetQueueAttributes", asked))["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": max_receives})
    return QueueUrls(await create(name, VisibilityTimeout="30", RedrivePolicy=policy), dead)


@asynccontextmanager
async def queue_on(server: CannedServer) -> AsyncIterator[SqsQueue]:
    """A queue whose server says what it is told to."""
    client = client_of(server.url, "AKID", "secret")
    queue = SqsQueue("default", URLS, client, clock=SystemClock())
    async with client.open():
        queue.attach(is_open=True)
        yield queue


@asynccontextmanager
async def queue_of(server: LocalServer, *, max_receives: int = 3) -> AsyncIterator[SqsQueue]:
    """A new queue on a local server, provisioned as they are."""
    client = client_of(server.url, *server.credentials)
    async with client.open():
        urls = await make_queue(client, f"queue-{secrets.token_hex(6)}", max_receives=max_receives)
        queue = SqsQueue("default", urls, client, clock=SystemClock())
        queue.attach(is_open=True)
        with patience():
            yield queue


def boto(service: str, server: LocalServer) -> Any:
    """Another program's view of it."""
    key, secret = server.credentials
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name=server.region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=30),
    )

"""What a run needs on the two local servers that stand in for SQS and DynamoDB."""

from __future__ import annotations

import secrets
from typing import Any

import boto3

from local_aws.pairs import LocalAws, Pair, start
from local_aws.servers import NotAvailable
from task_queue_engine import Settings
from task_queue_engine.backends.aws.backend import AwsBackend
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.clock import Clock


def started(queue: str, table: str) -> LocalAws:
    """
    Args:
        queue, table: names of `local_aws.servers.SERVERS`.
    """
    try:
        return start(Pair(queue, table))
    except NotAvailable as reason:
        raise SystemExit(str(reason)) from None


def provisioned(local: LocalAws, **settings: Any) -> Settings:
    """New queues and a new table; the settings of an engine that uses them. Blocks."""
    made = local.provision(f"bench-{secrets.token_hex(4)}")
    return Settings(
        aws_region=local.queue.region,
        sqs_queue_url=made["SQS_QUEUE_URL"],
        sqs_dlq_url=made["SQS_DLQ_URL"],
        dynamodb_table=made["DYNAMODB_TABLE"],
        dynamodb_writes=local.pair.writes,
        **settings,
    )


def boto(local: LocalAws, service: str) -> Any:
    """Any service that one of the two servers has."""
    server = local.queue if service == "sqs" else local.table
    key, secret = server.credentials
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name=server.region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


def make_backend(
    settings: Settings, client: AwsClient, *, clock: Clock | None = None
) -> AwsBackend:
    """As `AwsBackend.from_settings`, with a client of the caller's."""
    if not (settings.sqs_queue_url and settings.sqs_dlq_url and settings.dynamodb_table):
        raise ValueError("settings without queues and table")
    store = DynamoStore(
        client,
        table_name=settings.dynamodb_table,
        clock=clock,
        writes=settings.dynamodb_writes,
        retention=settings.retention,
    )
    urls = QueueUrls(settings.sqs_queue_url, settings.sqs_dlq_url)
    return AwsBackend(client=client, urls=urls, store=store, queue_name=settings.queue, clock=clock)

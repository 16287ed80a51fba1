"""Two local servers that stand in for SQS and DynamoDB, and what the engine needs on them, made by
the package's own provisioning."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any

import boto3
import botocore.credentials

from local_aws.servers import LocalServer, NotAvailable, running
from task_queue_engine import Settings
from task_queue_engine.backends.aws.backend import AwsBackend
from task_queue_engine.backends.aws.dynamodb.store import DynamoStore
from task_queue_engine.backends.aws.provisioning.provision import provision
from task_queue_engine.backends.aws.provisioning.resources import Names
from task_queue_engine.backends.aws.provisioning.session import Control
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.endpoints import Service
from task_queue_engine.clock import Clock


class LocalAws:
    """Blocking, for use outside trio. With `endpoints` the servers run already.

    Args:
        sqs, dynamodb: names of `local_aws.servers.SERVERS`.
    """

    region = "us-east-1"

    def __init__(
        self, sqs: str, dynamodb: str, *, endpoints: Mapping[Service, str] | None = None
    ) -> None:
        self.names = (sqs, dynamodb)
        self.pids: list[int] = []
        """Of the servers that were started."""
        if endpoints is None:
            servers = {"sqs": _started(sqs), "dynamodb": _started(dynamodb)}
            self.pids = sorted({each.pid for each in servers.values() if each.pid})
            endpoints = {"sqs": servers["sqs"].url, "dynamodb": servers["dynamodb"].url}
        self.endpoints: dict[Service, str] = dict(endpoints)
        # boto3 looks for them here.
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_ENDPOINT_URL_SQS": self.endpoints["sqs"],
            "AWS_ENDPOINT_URL_DYNAMODB": self.endpoints["dynamodb"],
        }
        self._control = Control(self.region)

    def provision(self, **settings: Any) -> Settings:
        """New queues and a new table; the settings of an engine that uses them."""
        name = f"bench-{secrets.token_hex(4)}"
        made = provision(self._control, Names(queue=name, dead=f"{name}-dlq", table=name))
        return Settings(
            aws_region=self.region,
            sqs_queue_url=made.environment["SQS_QUEUE_URL"],
            sqs_dlq_url=made.environment["SQS_DLQ_URL"],
            dynamodb_table=name,
            # moto has no PartiQL that could be relied on.
            dynamodb_writes="single" if self.names[1] == "moto" else "batch",
            **settings,
        )

    def client_options(self) -> dict[str, Any]:
        """For an AwsClient."""
        return {
            "region": self.region,
            "endpoints": self.endpoints,
            "load_credentials": lambda: botocore.credentials.Credentials("testing", "testing"),
        }

    def boto(self, service: str) -> Any:
        """Any service that one of the two servers has."""
        where: Service = "sqs" if service == "sqs" else "dynamodb"
        return boto3.client(service, endpoint_url=self.endpoints[where], region_name=self.region)


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


def _started(name: str) -> LocalServer:
    try:
        return running(name)
    except NotAvailable as reason:
        raise SystemExit(str(reason)) from None

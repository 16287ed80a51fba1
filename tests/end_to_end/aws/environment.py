"""Queues and a table of their own on local servers, and engine processes that work there."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from local_aws.pairs import PAIRS, LocalAws
from task_queue_engine import TaskRegistry
from task_queue_engine.backends.aws.dynamodb.schema import create_table_parameters
from tests.backends.aws.sqs.queues import boto
from tests.cli.embedded import Embedded, embedded
from tests.cli.runner import Server, Shop
from tests.cli.shop import tasks as shop_tasks
from tests.end_to_end.aws.faults import Trouble, faulty
from tests.end_to_end.aws.read_back import dead_letters
from tests.local_servers import require

_TASKS = Path(__file__).parent.parent / "crash_tasks.py"
QUICK = {
    "TQE_VISIBILITY_TIMEOUT": "2",
    "TQE_POLL_WAIT": "1",
    "TQE_RECONCILE_INTERVAL": "0.5",
    "TQE_METRICS_INTERVAL": "0.5",
}
"""Of engines: leases of 2 s, for tests that let some lapse; idle polls of 1 s, which local servers
notice sooner when they are given up."""
LEASE = 5.0
"""Seconds, of an engine in the test's own process, which loses none when a busy machine does not
let it run for a while."""


@dataclass(frozen=True)
class Environment:
    shop: Shop
    servers: LocalAws
    queue: str
    dead: str
    table: str
    endpoints: dict[str, str] = field(default_factory=dict)
    """In place of the servers' own: a proxy's."""

    @property
    def variables(self) -> dict[str, str]:
        elsewhere = {
            f"AWS_ENDPOINT_URL_{service.upper()}": url for service, url in self.endpoints.items()
        }
        return (
            self.servers.aws_environment
            | elsewhere
            | {
                "AWS_EC2_METADATA_DISABLED": "true",
                "SQS_QUEUE_URL": self.queue,
                "SQS_DLQ_URL": self.dead,
                "DYNAMODB_TABLE": self.table,
            }
        )

    def behind(self, **endpoints: str) -> Environment:
        """The same, reached by another way."""
        return replace(self, endpoints=self.endpoints | endpoints)

    @contextmanager
    def serve(self, command: str = "serve", **settings: str) -> Iterator[Server]:
        """An engine process, for what a signal, its end or other processes have a part in."""
        variables = self.variables | {"TQE_APP": "crash_tasks:tasks"} | QUICK | settings
        with self.shop.serve(command, **variables) as server:
            yield server

    @contextmanager
    def embedded(
        self, tasks: TaskRegistry = shop_tasks, *, consume: bool = True, **settings: str
    ) -> Iterator[Embedded]:
        """An engine in the test's own process, for everything else."""
        variables = self.variables | QUICK | {"TQE_VISIBILITY_TIMEOUT": str(LEASE)} | settings
        with embedded(tasks, self.shop.path, consume=consume, **variables) as server:
            yield server

    # --- as another program does it ---------------------------------------------------------

    @cached_property
    def sqs(self) -> Any:
        return boto("sqs", self.servers.queue)

    @cached_property
    def dynamodb(self) -> Any:
        return boto("dynamodb", self.servers.table)

    def item(self, task_id: str) -> dict[str, Any] | None:
        answer = self.dynamodb.get_item(
            TableName=self.table, Key={"id": {"S": task_id}}, ConsistentRead=True
        )
        found: dict[str, Any] | None = answer.get("Item")
        return found

    def items(self) -> list[dict[str, Any]]:
        """All tasks; as `item`, what DynamoDB's client gives."""
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.table, ConsistentRead=True
        )
        # What is called @... belongs to the engine: counters.
        return [
            item for page in pages for item in page["Items"] if not item["id"]["S"].startswith("@")
        ]

    def dead_letters(self) -> list[dict[str, Any]]:
        return dead_letters(self.sqs, self.dead)

    def in_queue(self, url: str | None = None) -> tuple[int, int, int]:
        """Messages of the queue: visible, delayed, in flight."""
        names = (
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
        )
        attributes = self.sqs.get_queue_attributes(
            QueueUrl=url or self.queue, AttributeNames=list(names)
        )["Attributes"]
        visible, delayed, in_flight = (int(attributes.get(name, 0)) for name in names)
        return visible, delayed, in_flight


@contextmanager
def environment_on(
    path: Path, queue_server: str = "elasticmq", *, max_receives: int = 3
) -> Iterator[Environment]:
    """As `tqe provision` makes it, but for the length of polls that do not say how long."""
    pair = next(pair for pair in PAIRS.values() if pair.queue == queue_server)
    servers = LocalAws(pair, require(pair.queue), require(pair.table))
    name = f"end-to-end-{secrets.token_hex(5)}"
    sqs, dynamodb = boto("sqs", servers.queue), boto("dynamodb", servers.table)
    dead = sqs.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
    asked = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])
    policy = {
        "deadLetterTargetArn": asked["Attributes"]["QueueArn"],
        "maxReceiveCount": max_receives,
    }
    attributes = {"VisibilityTimeout": "30", "RedrivePolicy": json.dumps(policy)}
    queue = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    dynamodb.create_table(**create_table_parameters(name))
    dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})
    shutil.copy(_TASKS, path)
    try:
        yield Environment(Shop(path), servers, queue, dead, name)
    finally:
        for url in (queue, dead):
            sqs.delete_queue(QueueUrl=url)
        dynamodb.delete_table(TableName=name)


@contextmanager
def through(environment: Environment, **troubles: Trouble) -> Iterator[Environment]:
    """The environment with a proxy before SQS (`sqs`), DynamoDB (`dynamodb`) or both."""
    servers = {"sqs": environment.servers.queue, "dynamodb": environment.servers.table}
    with ExitStack() as stack:
        yield environment.behind(
            **{
                name: stack.enter_context(faulty(servers[name].url, trouble))
                for name, trouble in troubles.items()
            }
        )

"""The least IAM policy is what the engine asks for at run time: no action more, none less."""

from __future__ import annotations

import ast
from pathlib import Path

import botocore.session
import pytest

from task_queue_engine.backends import aws
from task_queue_engine.backends.aws.preflight.permissions import probes
from task_queue_engine.backends.aws.provisioning.resources import policy
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls

pytestmark = pytest.mark.usefixtures("bare_environment")

NOT_AT_RUN_TIME = {"provisioning", "permissions.py"}
"""Folders and files."""
ONLY_FOR_PROVISIONING = {"GetQueueUrl", "DescribeTable"}
"""In `preflight/checks.py`, which provisioning shares."""

# "Actions, resources, and condition keys", Service Authorization Reference: a batch of SQS's needs
# what its single operation needs, and a statement what it is.
BATCHES = {
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
}
STATEMENTS = {
    "INSERT INTO": "PartiQLInsert",
    "UPDATE": "PartiQLUpdate",
    "DELETE FROM": "PartiQLDelete",
}
BATCH_ONLY = {"BatchExecuteStatement"}
SINGLE_ONLY = {"PutItem", "DeleteItem"}


def texts() -> set[str]:
    """All literal text in the modules of the backend that run with the engine."""
    found: set[str] = set()
    for path in Path(aws.__path__[0]).rglob("*.py"):
        if NOT_AT_RUN_TIME.isdisjoint(path.parts):
            tree = ast.parse(path.read_text())
            found |= {
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return found


def operations(service: str) -> set[str]:
    """Of the service's, those that the engine names somewhere."""
    model = botocore.session.Session().get_service_model(service)
    return set(model.operation_names) & texts()


def allowed(writes: str) -> dict[str, set[str]]:
    """By statement id."""
    document = policy(queue_arn="q", dead_arn="d", table_arn="t", writes=writes)
    return {one["Sid"]: set(one["Action"]) for one in document["Statement"]}


def test_of_the_queues() -> None:
    used = {f"sqs:{BATCHES.get(name, name)}" for name in operations("sqs") - ONLY_FOR_PROVISIONING}
    found = allowed("batch")
    assert found["Queue"] | found["DeadLetterQueue"] == used
    assert found["DeadLetterQueue"] - found["Queue"] == {"sqs:PurgeQueue"}


@pytest.mark.parametrize("writes", ["batch", "single"])
def test_of_the_table(writes: str) -> None:
    used = operations("dynamodb") - ONLY_FOR_PROVISIONING
    used -= SINGLE_ONLY if writes == "batch" else BATCH_ONLY
    if "BatchExecuteStatement" in used:
        used -= BATCH_ONLY
        starts = {text.lstrip() for text in texts()}
        used |= {
            action
            for start, action in STATEMENTS.items()
            if any(text.startswith((f"{start} ", f'{start} "')) for text in starts)
        }
    found = allowed(writes)
    assert found["Table"] | found["Indexes"] == {f"dynamodb:{name}" for name in used}
    assert found["Indexes"] == {"dynamodb:Query"}


@pytest.mark.parametrize("writes", ["batch", "single"])
def test_the_doctor_asks_for_all_of_them(writes: str) -> None:
    asked = {probe.action for probe in probes(QueueUrls("q", "d"), "tasks", writes)}
    not_to_be_asked_for = {"sqs:PurgeQueue", "sqs:GetQueueAttributes"}
    assert asked == set().union(*allowed(writes).values()) - not_to_be_asked_for

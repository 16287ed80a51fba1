"""A server that answers for both services in good health, and goes wrong where it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from task_queue_engine.backends.aws.backend import AwsBackend
from task_queue_engine.config import Settings
from task_queue_engine.errors import TaskQueueError
from tests.backends.aws.wire.canned import Answer, Request, answer, error

Reply = Answer | Callable[[Request], Answer]

ARN = "arn:aws:sqs:us-east-1:123456789012:"


def sqs_error(code: str, message: str = "no", status: int = 400, **headers: str) -> Answer:
    """As SQS says it: the model's shape in the body, its older name in a header."""
    return answer(
        {"__type": f"com.amazonaws.sqs#{code}", "message": message},
        status=status,
        **({"x_amzn_query_error": f"AWS.SimpleQueueService.{code};Sender"} | headers),
    )


def dynamodb_error(code: str, message: str = "no", status: int = 400) -> Answer:
    """DynamoDB's own errors have a namespace of their own, its front's another one."""
    own = code in ("ResourceNotFoundException", "InternalServerError")
    space = "com.amazonaws.dynamodb.v20120810" if own else "com.amazon.coral.service"
    return answer({"__type": f"{space}#{code}", "message": message}, status=status)


def healthy(request: Request) -> Answer:
    match request.operation:
        case "GetQueueAttributes":
            name = request.parameters["QueueUrl"].rpartition("/")[2]
            attributes = {"QueueArn": ARN + name, "MessageRetentionPeriod": "1209600"}
            if not name.endswith("-dlq"):
                policy = {"deadLetterTargetArn": f"{ARN}{name}-dlq", "maxReceiveCount": "3"}
                attributes["RedrivePolicy"] = json.dumps(policy)
            return answer({"Attributes": attributes})
        case "BatchExecuteStatement":
            return statements_answered("ConditionalCheckFailed", "The conditional request failed")
        case "UpdateItem" | "PutItem" | "DeleteItem":
            return error("ConditionalCheckFailedException")
        case "DeleteMessageBatch" | "ChangeMessageVisibilityBatch":
            failed = {"Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": True}
            return answer({"Successful": [], "Failed": [failed]})
        case "SendMessageBatch":
            return sqs_error("EmptyBatchRequest")
        case "ReceiveMessage":
            return sqs_error("InvalidParameterValue")
    return answer({"Items": [], "Count": 0, "Responses": {}})


def statements_answered(code: str, message: str = "no") -> Answer:
    return answer(
        {"Responses": [{"TableName": "tasks", "Error": {"Code": code, "Message": message}}]}
    )


def but(replies: Mapping[str, Reply]) -> Callable[[Request], Answer]:
    """In good health, but for these operations."""

    def reply(request: Request) -> Answer:
        found = replies.get(request.operation, healthy)
        return found if isinstance(found, Answer) else found(request)

    return reply


def variables(url: str, **changed: str) -> dict[str, str]:
    """The environment of an engine whose AWS is at this URL."""
    return {
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "AKID",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": url,
        "SQS_QUEUE_URL": f"{url}/123456789012/tasks",
        "SQS_DLQ_URL": f"{url}/123456789012/tasks-dlq",
        "DYNAMODB_TABLE": "tasks",
        **changed,
    }


async def start(monkeypatch: Any, environment: Mapping[str, str], **options: Any) -> TaskQueueError:
    """What a backend made from this environment raises at its start: one line."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TaskQueueError) as caught:
        async with AwsBackend.from_settings(Settings(_env_file=None), **options).open():
            raise Started
    assert "\n" not in str(caught.value)
    return caught.value


class Started(TaskQueueError):
    """Nothing was found wrong."""

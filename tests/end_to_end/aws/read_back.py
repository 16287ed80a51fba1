"""What another program finds in the queue, the dead-letter queue and the table: with boto3 alone.

Reads SQS_QUEUE_URL, SQS_DLQ_URL, DYNAMODB_TABLE and AWS's own variables from the environment and
prints one JSON document: `queue` and `dead_letter_queue` (numbers of messages by what SQS calls
them), `dead_letters` and `tasks`. Dead letters are left where they are.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import boto3
from boto3.dynamodb.types import Binary

COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
)


def numbers(sqs: Any, url: str) -> dict[str, int]:
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(COUNTS))
    return {name: int(answer["Attributes"].get(name, 0)) for name in COUNTS}


def dead_letters(sqs: Any, url: str) -> list[dict[str, Any]]:
    """All messages of the dead-letter queue; each is given back."""
    found: dict[str, dict[str, Any]] = {}
    while True:
        answer = sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            VisibilityTimeout=60,
            WaitTimeSeconds=1,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        if not answer.get("Messages"):
            break
        for message in answer["Messages"]:
            found[message["MessageId"]] = message
    for message in found.values():
        sqs.change_message_visibility(
            QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
    return [
        {
            "message_id": message["MessageId"],
            "body": message["Body"],
            "attributes": {
                name: value["StringValue"]
                for name, value in message.get("MessageAttributes", {}).items()
            },
        }
        for message in found.values()
    ]


def tasks(table: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page = table.scan(ConsistentRead=True)
    while True:
        # What is called @... belongs to the engine: counters.
        found += [plain(item) for item in page["Items"] if not item["id"].startswith("@")]
        if "LastEvaluatedKey" not in page:
            return found
        page = table.scan(ConsistentRead=True, ExclusiveStartKey=page["LastEvaluatedKey"])


def plain(item: dict[str, Any]) -> dict[str, Any]:
    task = dict(item)
    encoded = ["result", "error", "progress"]
    if task.get("payload_encoding") == "json":
        encoded.append("payload")
    for name in encoded:
        if name in task:
            task[name] = json.loads(task[name])
    return task


def as_json(value: Any) -> Any:
    """A number; or what has become of long lines of an attempt, which are compressed."""
    return value.value.hex() if isinstance(value, Binary) else int(value)


def main() -> None:
    session = boto3.Session(region_name=os.environ["AWS_REGION"])
    sqs = session.client("sqs")
    queue, dead = os.environ["SQS_QUEUE_URL"], os.environ["SQS_DLQ_URL"]
    found = {
        "queue": numbers(sqs, queue),
        "dead_letter_queue": numbers(sqs, dead),
        "dead_letters": dead_letters(sqs, dead),
        "tasks": tasks(session.resource("dynamodb").Table(os.environ["DYNAMODB_TABLE"])),
    }
    json.dump(found, sys.stdout, default=as_json)


if __name__ == "__main__":
    main()

"""Beside a program that knows seven attributes and a message format, as the Go service did: what it
puts into queue and table is processed, and what the engine writes it can read."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cli.runner import Api, request
from tests.end_to_end.aws.accounting import read_back, wait_until
from tests.end_to_end.aws.environment import Environment
from tests.end_to_end.crash_tasks import tasks

SEVEN = ("id", "type", "payload", "status", "retry_count", "created_at", "updated_at")


class GoService:
    """Plain boto3, and no more knowledge than that service had."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._sqs, self._dynamodb = environment.sqs, environment.dynamodb

    def submit(
        self,
        *,
        payload: str = "user@example.com",
        at: str = "2026-01-02T03:04:05.123456789Z",
        item: Mapping[str, Any] | None = None,
        store: bool = True,
        send: bool = True,
        **extra: Any,
    ) -> str:
        """
        Args:
            item: attributes more than the seven, or in their place.
            extra: members more of the message's body.
        """
        task_id = str(uuid.uuid4())
        task: dict[str, Any] = {
            "id": task_id,
            "type": "quick",
            "payload": payload,
            "status": "PENDING",
            "retry_count": 0,
            "created_at": at,
            "updated_at": at,
        }
        if store:
            attributes: dict[str, Any] = {
                name: {"N": str(value)} if isinstance(value, int) else {"S": value}
                for name, value in task.items()
            }
            self._dynamodb.put_item(
                TableName=self._environment.table, Item={**attributes, **(item or {})}
            )
        if send:
            self._sqs.send_message(
                QueueUrl=self._environment.queue,
                MessageBody=json.dumps(task | extra),
                MessageAttributes={
                    "TaskType": {"DataType": "String", "StringValue": task["type"]},
                    "RetryCount": {"DataType": "Number", "StringValue": "0"},
                    "Traceparent": {"DataType": "String", "StringValue": "00-4bf9-00f0-01"},
                },
            )
        return task_id

    def read(self, task_id: str) -> dict[str, Any]:
        """The seven, by the types that it declared them with."""
        item = self._environment.item(task_id)
        assert item is not None
        return {
            name: int(item[name]["N"]) if name == "retry_count" else str(item[name]["S"])
            for name in SEVEN
        }


@pytest.fixture
def go(environment: Environment) -> GoService:
    return GoService(environment)


def get(server: Api, path: str, **query: Any) -> dict[str, Any]:
    answer = request("GET", f"{server.url}{path}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(server: Api, task_id: str) -> dict[str, Any]:
    return get(server, f"/tasks/{task_id}", wait=20)


def test_what_it_submits_is_processed_and_shown(environment: Environment, go: GoService) -> None:
    text = '{"to": ["a@example.com"], "n": 1.50}'
    extra = {
        "tenant": {"S": "acme"},
        "tags": {"SS": ["a", "b"]},
        "binary": {"B": b"\x00\xff"},
        "nothing": {"NULL": True},
        "nested": {"M": {"deep": {"L": [{"N": "1"}]}}},
    }
    native = {"M": {"to": {"S": "user@example.com"}, "n": {"N": "1.5"}}}
    cases = {
        "plain": go.submit(),
        "payload that is JSON text": go.submit(payload=text),
        "zone of Berlin": go.submit(at="2026-01-02T05:04:05.123456789+02:00"),
        "zone of New York, whole seconds": go.submit(at="2026-01-01T22:04:05-05:00"),
        "more attributes": go.submit(item=extra, tenant="acme", nested={"deep": [1]}),
        "payload of DynamoDB's own": go.submit(item={"payload": native}),
    }
    with environment.embedded(tasks) as server:
        found = {name: ended(server, task_id) for name, task_id in cases.items()}

        assert {task["status"] for task in found.values()} == {"COMPLETED"}
        assert {task["attempt"] for task in found.values()} == {1}
        assert {task["retry_count"] for task in found.values()} == {0}
        payloads = {name: task["payload"] for name, task in found.items()}
        assert payloads.pop("payload that is JSON text") == text, "text stays text"
        assert payloads.pop("payload of DynamoDB's own") == {"to": "user@example.com", "n": 1.5}
        assert set(payloads.values()) == {"user@example.com"}
        # The handler got it as it is, and gave it back.
        assert all(task["result"] == task["payload"] for task in found.values())
        whole_second = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        for task in found.values():
            made = datetime.fromisoformat(task["created_at"])
            assert made.replace(microsecond=0) == whole_second
            assert made.microsecond in (0, 123456)

        listed = get(server, "/tasks", status="COMPLETED")["tasks"]
        assert {task["id"] for task in listed} == set(cases.values())
        assert len(get(server, "/tasks")["tasks"]) == len(cases)
        wait_until(lambda: get(server, "/metrics")["completed_tasks"] == len(cases))
        wait_until(lambda: environment.in_queue() == (0, 0, 0))

    # Nothing of its own was lost.
    item = environment.item(cases["more attributes"])
    assert item is not None
    assert {name: item[name] for name in ("tenant", "nothing", "nested")} == {
        name: extra[name] for name in ("tenant", "nothing", "nested")
    }
    assert set(item["tags"]["SS"]) == {"a", "b"}
    assert go.read(cases["plain"]) == {
        "id": cases["plain"],
        "type": "quick",
        "payload": "user@example.com",
        "status": "COMPLETED",
        "retry_count": 0,
        "created_at": go.read(cases["plain"])["created_at"],
        "updated_at": go.read(cases["plain"])["updated_at"],
    }


def test_a_message_without_its_item_is_dead_lettered_and_says_why(
    environment: Environment, go: GoService
) -> None:
    task_id = go.submit(store=False)
    environment.sqs.send_message(QueueUrl=environment.queue, MessageBody="hello")
    with environment.embedded(tasks) as server:
        wait_until(lambda: sum(environment.in_queue(environment.dead)) == 2)
        wait_until(lambda: environment.in_queue() == (0, 0, 0))
        shown: set[str] = set()

        def all_are_shown() -> bool:
            # SQS shows none twice at a time: the engine's own look at them may be under way.
            shown.clear()
            shown.update(one["reason"] for one in get(server, "/dead-letters")["dead_letters"])
            return len(shown) == 2

        wait_until(all_are_shown)
        assert request("GET", f"{server.url}/tasks/{task_id}").status_code == 404
        assert get(server, "/metrics")["failed_tasks"] == 0
    dead_letters = {
        dead_letter["body"]: dead_letter["attributes"]
        for dead_letter in read_back(environment)["dead_letters"]
    }
    assert {attributes["Reason"] for attributes in dead_letters.values()} == shown
    assert dead_letters["hello"]["Reason"].startswith("its body is not a task")
    (body,) = dead_letters.keys() - {"hello"}
    assert json.loads(body)["id"] == task_id
    assert dead_letters[body]["Reason"] == "no such task in the store"


def test_an_item_without_a_message_stays_findable(environment: Environment, go: GoService) -> None:
    """Nothing says that a message was ever to be sent: the engine leaves it to the program
    that put it there, shows it and cancels it."""
    left, unwanted = go.submit(send=False), go.submit(send=False)
    with environment.embedded(tasks) as server:
        assert get(server, f"/tasks/{left}")["status"] == "PENDING"
        answer = request("DELETE", f"{server.url}/tasks/{unwanted}")
        assert answer.json()["status"] == "CANCELLED"
        (found,) = get(server, "/tasks")["tasks"]
        assert found["id"] == unwanted
    assert go.read(left)["status"] == "PENDING"
    assert go.read(unwanted)["status"] == "CANCELLED"


def test_it_reads_and_processes_what_the_engine_has_submitted(
    environment: Environment, go: GoService
) -> None:
    """The other way: an engine without workers, and the Go service as the worker."""
    with environment.embedded(tasks, consume=False) as server:
        task = server.post("quick", "user@example.com")
        (message,) = environment.sqs.receive_message(
            QueueUrl=environment.queue, WaitTimeSeconds=5, MessageAttributeNames=["All"]
        )["Messages"]
        body = json.loads(message["Body"])
        attributes = message["MessageAttributes"]
        assert attributes["TaskType"]["StringValue"] == "quick"
        assert attributes["RetryCount"]["StringValue"] == "0"
        assert {name: body[name] for name in SEVEN} == {name: task[name] for name in SEVEN}
        read = go.read(task["id"])
        assert read == {name: body[name] for name in SEVEN}
        for name in ("created_at", "updated_at"):  # what time.RFC3339Nano takes
            assert read[name].endswith("Z")
            datetime.fromisoformat(read[name])

        for status in ("PROCESSING", "COMPLETED"):
            environment.dynamodb.update_item(
                TableName=environment.table,
                Key={"id": {"S": task["id"]}},
                UpdateExpression="SET #s = :s, updated_at = :u",
                ExpressionAttributeNames={"#s": "status"},
                ExpressionAttributeValues={
                    ":s": {"S": status},
                    ":u": {"S": "2026-11-01T00:00:00.5Z"},
                },
            )
        environment.sqs.delete_message(
            QueueUrl=environment.queue, ReceiptHandle=message["ReceiptHandle"]
        )
        found = get(server, f"/tasks/{task['id']}")
        assert found["status"] == "COMPLETED"
        assert found["payload"] == "user@example.com"

"""Every check of the doctor's can be red, says why, and is the one that is."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from task_queue_engine.backends.aws.dynamodb import schema
from task_queue_engine.backends.aws.dynamodb.schema import create_table_parameters
from task_queue_engine.backends.aws.provisioning.doctor import Doctor, Examination, FindingStatus
from task_queue_engine.config import Settings
from tests.backends.aws import fake_aws
from tests.backends.aws.fake_aws import ARN, Reply, dynamodb_error, sqs_error, variables
from tests.backends.aws.wire.canned import CLOSE, HANG, Answer, Request, answer, error, serving

pytestmark = pytest.mark.usefixtures("bare_environment")

INDEXES = [index.name for index in schema.INDEXES]


def described(**changed: Any) -> Answer:
    description = {
        **create_table_parameters("tasks"),
        "TableStatus": "ACTIVE",
        "TableArn": "arn:aws:dynamodb:us-east-1:123456789012:table/tasks",
    }
    return answer({"Table": description | changed})


def expiring(status: str, attribute: str = schema.TTL_ATTRIBUTE) -> Answer:
    found = {"TimeToLiveStatus": status, "AttributeName": attribute}
    return answer({"TimeToLiveDescription": found})


HEALTHY: dict[str, Reply] = {
    "DescribeTable": described(),
    "DescribeTimeToLive": expiring("ENABLED"),
}


def but(replies: dict[str, Reply]) -> Callable[[Request], Answer]:
    return fake_aws.but(HEALTHY | replies)


def queues(name: str, **changed: str) -> Callable[[Request], Answer]:
    """The attributes of one of the two are others; an empty one is left out."""

    def reply(request: Request) -> Answer:
        found = fake_aws.healthy(request)
        if not request.parameters["QueueUrl"].endswith(f"/{name}"):
            return found
        attributes = json.loads(found.data.partition(b"\r\n\r\n")[2])["Attributes"] | changed
        return answer({"Attributes": {key: value for key, value in attributes.items() if value}})

    return reply


def denied(operation: str, starting: str = "") -> Callable[[Request], Answer]:
    """This operation; or only its statements that begin so, or its requests for that queue."""

    def reply(request: Request) -> Answer:
        if starting and starting not in request.body.decode():
            return fake_aws.healthy(request)
        return error("AccessDeniedException", f"not authorized to perform: {operation}", status=400)

    return reply


def small_messages(request: Request) -> Answer:
    found = json.loads(fake_aws.healthy(request).data.partition(b"\r\n\r\n")[2])
    found["Attributes"]["MaximumMessageSize"] = "262144"
    return answer(found)


def skewed(request: Request) -> Answer:
    theirs = time.time() - 1200
    if abs(request.signed_for - theirs) < 300:
        return but({})(request)
    date = email.utils.formatdate(theirs, usegmt=True)
    return sqs_error("InvalidSignatureException", "Signature not yet current", 403, date=date)


def without_index(name: str) -> Answer:
    indexes = create_table_parameters("tasks")["GlobalSecondaryIndexes"]
    left = [index for index in indexes if index["IndexName"] != name]
    return described(GlobalSecondaryIndexes=left)


def filling(name: str) -> Answer:
    indexes = create_table_parameters("tasks")["GlobalSecondaryIndexes"]
    for index in indexes:
        if index["IndexName"] == name:
            index["IndexStatus"] = "CREATING"
    return described(GlobalSecondaryIndexes=indexes)


async def examined(monkeypatch: Any, reply: Reply, **changed: str) -> Examination:
    async with serving() as server:
        server.default = reply
        for name, value in variables(server.url, TQE_RETENTION="3600", **changed).items():
            monkeypatch.setenv(name, value)
        return await Doctor(Settings(_env_file=None)).examine()


POLICY = '{"deadLetterTargetArn":"%s","maxReceiveCount":"%d"}'

CASES: dict[str, tuple[str, Reply, FindingStatus, str]] = {
    "no queue": (
        "SQS_QUEUE_URL",
        but({"GetQueueAttributes": denied("sqs:GetQueueAttributes", 'tasks"')}),
        FindingStatus.FAILED,
        "not authorized to perform: sqs:GetQueueAttributes",
    ),
    "no dead-letter queue": (
        "SQS_DLQ_URL",
        but({"GetQueueAttributes": denied("sqs:GetQueueAttributes", "tasks-dlq")}),
        FindingStatus.FAILED,
        "not authorized to perform: sqs:GetQueueAttributes",
    ),
    "small messages": (
        "message size",
        but({"GetQueueAttributes": small_messages}),
        FindingStatus.WARNING,
        "SQS_QUEUE_URL takes messages of 262144 bytes, so payloads near TQE_MAX_BODY_BYTES ",
    ),
    "no redrive": (
        "redrive policy",
        but({"GetQueueAttributes": queues("tasks", RedrivePolicy="")}),
        FindingStatus.WARNING,
        "received forever",
    ),
    "redrive elsewhere": (
        "redrive policy",
        but({"GetQueueAttributes": queues("tasks", RedrivePolicy=POLICY % (f"{ARN}other", 3))}),
        FindingStatus.FAILED,
        f"{ARN}other, which is not SQS_DLQ_URL",
    ),
    "other receives": (
        "redrive policy",
        but({"GetQueueAttributes": queues("tasks", RedrivePolicy=POLICY % (f"{ARN}tasks-dlq", 9))}),
        FindingStatus.WARNING,
        "after 9 receives, 3 are recommended",
    ),
    "forgets messages": (
        "retention",
        but({"GetQueueAttributes": queues("tasks", MessageRetentionPeriod="345600")}),
        FindingStatus.WARNING,
        "the queue keeps messages for 345600 s",
    ),
    "forgets dead letters": (
        "retention",
        but({"GetQueueAttributes": queues("tasks-dlq", MessageRetentionPeriod="345600")}),
        FindingStatus.WARNING,
        "the dead-letter queue keeps messages for 345600 s",
    ),
    "many dead letters": (
        "dead letters",
        but({"GetQueueAttributes": queues("tasks-dlq", ApproximateNumberOfMessages="1001")}),
        FindingStatus.WARNING,
        "1001: redrive or purge them",
    ),
    "no table": (
        "DYNAMODB_TABLE",
        but({"DescribeTable": dynamodb_error("ResourceNotFoundException")}),
        FindingStatus.FAILED,
        "there is no table tasks in us-east-1 (tqe provision makes one)",
    ),
    "a table of something else": (
        "DYNAMODB_TABLE",
        but({"DescribeTable": described(KeySchema=[{"AttributeName": "isbn", "KeyType": "HASH"}])}),
        FindingStatus.FAILED,
        "is not a table of tasks",
    ),
    "a table that is going": (
        "DYNAMODB_TABLE",
        but({"DescribeTable": described(TableStatus="DELETING")}),
        FindingStatus.FAILED,
        "is DELETING",
    ),
    "a table not to be looked at": (
        "DYNAMODB_TABLE",
        but({"DescribeTable": denied("dynamodb:DescribeTable")}),
        FindingStatus.WARNING,
        "no permission for dynamodb:DescribeTable",
    ),
    "something else than DynamoDB": (
        "DYNAMODB_TABLE",
        but({"DescribeTable": answer({"hello": "world"})}),
        FindingStatus.FAILED,
        "is not DynamoDB",
    ),
    **{
        f"no {name}": (
            f"index {name}",
            but({"DescribeTable": without_index(name)}),
            FindingStatus.FAILED,
            "is missing or has other keys (tqe provision makes it)",
        )
        for name in INDEXES
    },
    "an index that is filled": (
        f"index {INDEXES[0]}",
        but({"DescribeTable": filling(INDEXES[0])}),
        FindingStatus.FAILED,
        "is CREATING",
    ),
    "no conditions": (
        "TQE_DYNAMODB_WRITES",
        but({"BatchExecuteStatement": answer({"Responses": [{"TableName": "tasks"}]})}),
        FindingStatus.FAILED,
        "set TQE_DYNAMODB_WRITES=single",
    ),
    "nothing expires": (
        "expiry",
        but({"DescribeTimeToLive": expiring("DISABLED")}),
        FindingStatus.FAILED,
        "the table deletes nothing",
    ),
    "something else expires": (
        "expiry",
        but({"DescribeTimeToLive": expiring("ENABLED", "until")}),
        FindingStatus.FAILED,
        f"by until, not {schema.TTL_ATTRIBUTE}",
    ),
    "another time": ("clock", skewed, FindingStatus.WARNING, " s ahead of AWS's"),
}
QUEUE_OPERATIONS = {
    "sqs:SendMessage": "SendMessageBatch",
    "sqs:ReceiveMessage": "ReceiveMessage",
    "sqs:DeleteMessage": "DeleteMessageBatch",
    "sqs:ChangeMessageVisibility": "ChangeMessageVisibilityBatch",
}
for action, operation in QUEUE_OPERATIONS.items():
    for where, url in (("queue", 'tasks"'), ("dead-letter queue", "tasks-dlq")):
        CASES[f"{action} {where}"] = (
            f"permission {action} ({where})",
            but({operation: denied(action, url)}),
            FindingStatus.FAILED,
            f"missing: not authorized to perform: {action}",
        )
for action in ("GetItem", "BatchGetItem", "Query", "UpdateItem"):
    CASES[action] = (
        f"permission dynamodb:{action}",
        but({action: denied(action)}),
        FindingStatus.FAILED,
        f"missing: not authorized to perform: {action}",
    )
for statement in ("Insert", "Update", "Delete"):
    CASES[statement] = (
        f"permission dynamodb:PartiQL{statement}",
        but({"BatchExecuteStatement": denied(statement, statement.upper())}),
        FindingStatus.FAILED,
        f"missing: not authorized to perform: {statement}",
    )


@pytest.mark.parametrize("case", CASES)
async def test_one_thing_is_wrong(case: str, monkeypatch: Any) -> None:
    what, reply, health, said = CASES[case]
    found = await examined(monkeypatch, reply)
    (finding,) = [finding for finding in found.findings if finding.health is not FindingStatus.OK]
    assert (finding.what, finding.health) == (what, health)
    assert said in finding.detail
    assert "\n" not in finding.detail
    assert found.healthy is (health is FindingStatus.WARNING)


async def test_no_check_is_left_out_above(monkeypatch: Any) -> None:
    found = await examined(monkeypatch, but({}))
    assert [finding for finding in found.findings if finding.health is not FindingStatus.OK] == []
    elsewhere = {"credentials", "region"}  # in the tests below
    only_when_red = {"retention", "dead letters", "message size"}
    red = {what for what, *_ in CASES.values()}
    assert {finding.what for finding in found.findings} - elsewhere == red - only_when_red


# --- where nothing more can be looked at ----------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"SQS_DLQ_URL": ""}, "SQS_DLQ_URL: is not set"),
        ({"DYNAMODB_TABLE": ""}, "DYNAMODB_TABLE: is not set"),
        ({"DYNAMODB_TABLE": "a b"}, "DYNAMODB_TABLE: must be"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE: "),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials found"),
        ({"AWS_REGION": ""}, "AWS_REGION: not set"),
        (
            {
                "AWS_ENDPOINT_URL": "",
                "SQS_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/tasks",
                "SQS_DLQ_URL": "https://sqs.eu-west-1.amazonaws.com/1/tasks-dlq",
            },
            "AWS_REGION: is us-east-1, but SQS_QUEUE_URL is a queue in eu-west-1",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
async def test_settings_that_are_wrong(
    changed: dict[str, str], said: str, monkeypatch: Any
) -> None:
    found = await examined(monkeypatch, but({}), **changed)
    bad = [finding for finding in found.findings if finding.health is not FindingStatus.OK]
    assert [(finding.what, finding.health) for finding in bad] == [
        ("settings", FindingStatus.FAILED)
    ]
    assert said in bad[0].detail


async def test_refused_credentials_give_no_permission(monkeypatch: Any) -> None:
    """A service that refuses the credentials has not said that they may do something."""
    found = await examined(monkeypatch, sqs_error("InvalidClientTokenId", "invalid", 403))
    health = {finding.what: finding.health for finding in found.findings}
    assert health["SQS_QUEUE_URL"] is health["DYNAMODB_TABLE"] is FindingStatus.FAILED
    permissions = {health[what] for what in health if what.startswith("permission")}
    assert permissions == {FindingStatus.WARNING}


@pytest.mark.parametrize(
    "reply", [CLOSE, HANG, answer(body=b"<html>")], ids=["gone", "mute", "web"]
)
async def test_who_does_not_answer_is_asked_for_nothing_more(
    reply: Answer, monkeypatch: Any
) -> None:
    for module in ("preflight.checks", "provisioning.doctor"):
        monkeypatch.setattr(f"task_queue_engine.backends.aws.{module}.TIMEOUT", 0.3)
    found = await examined(monkeypatch, reply)
    bad = [finding.what for finding in found.findings if finding.health is not FindingStatus.OK]
    assert bad == ["SQS_QUEUE_URL", "SQS_DLQ_URL", "DYNAMODB_TABLE"]

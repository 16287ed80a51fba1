"""The doctor finds what is wrong, names it, and changes nothing."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from click.testing import CliRunner

from local_aws.servers import LocalServer
from task_queue_engine.backends.aws.provisioning.doctor import (
    Doctor,
    Examination,
    Finding,
    FindingStatus,
)
from task_queue_engine.backends.aws.provisioning.provision import provision
from task_queue_engine.backends.aws.provisioning.resources import Names
from task_queue_engine.backends.aws.provisioning.session import AdminSession
from task_queue_engine.cli import main
from task_queue_engine.config import Settings
from tests.backends.aws.sqs.queues import boto, client_of
from tests.backends.aws.wire.canned import Answer, Request, answer, error, serving
from tests.local_servers import require


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> LocalServer:
    server = require("moto")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.credentials[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.credentials[1])
    return server


@pytest.fixture
def settings(moto: LocalServer) -> Settings:
    name = f"doctor-{secrets.token_hex(4)}"
    made = provision(
        AdminSession(moto.region), Names(queue=name, dead=f"{name}-dlq", table=name)
    ).environment
    return Settings(
        _env_file=None,
        aws_region=moto.region,
        sqs_queue_url=made["SQS_QUEUE_URL"],
        sqs_dlq_url=made["SQS_DLQ_URL"],
        dynamodb_table=name,
        dynamodb_writes="single",
    )


def changed(settings: Settings, **values: Any) -> Settings:
    return settings.model_copy(update=values)


def bad(found: Examination) -> list[Finding]:
    return [finding for finding in found.findings if finding.health is not FindingStatus.OK]


async def test_what_was_provisioned_is_healthy(settings: Settings, moto: LocalServer) -> None:
    found = await Doctor(settings).examine()
    assert bad(found) == []
    assert found.healthy
    resources = [statement["Resource"] for statement in found.policy["Statement"]]
    table = f"arn:aws:dynamodb:us-east-1:123456789012:table/{settings.dynamodb_table}"
    assert resources[2:] == [table, f"{table}/index/*"]
    assert resources[0].endswith(f":{settings.dynamodb_table}")
    # Nothing was sent, and nothing written.
    attributes = boto("sqs", moto).get_queue_attributes(
        QueueUrl=settings.sqs_queue_url, AttributeNames=["All"]
    )["Attributes"]
    assert attributes["ApproximateNumberOfMessages"] == "0"
    assert boto("dynamodb", moto).scan(TableName=settings.dynamodb_table)["Count"] == 0


async def test_missing_things_are_named(settings: Settings) -> None:
    url = str(settings.sqs_queue_url)
    wrong = changed(settings, sqs_queue_url=f"{url}-gone", dynamodb_table="gone-too")
    found = await Doctor(wrong).examine()
    assert not found.healthy
    named = {finding.what: finding.detail for finding in bad(found)}
    assert "there is no queue" in named["SQS_QUEUE_URL"]
    assert "there is no table gone-too" in named["DYNAMODB_TABLE"]


async def test_missing_settings(settings: Settings) -> None:
    found = await Doctor(changed(settings, sqs_dlq_url=None)).examine()
    (finding,) = bad(found)
    assert finding.detail.startswith("SQS_DLQ_URL")


async def test_doubtful_settings_of_the_queues(settings: Settings, moto: LocalServer) -> None:
    sqs = boto("sqs", moto)
    other = sqs.create_queue(QueueName=f"{settings.dynamodb_table}-other")["QueueUrl"]
    sqs.set_queue_attributes(
        QueueUrl=settings.sqs_dlq_url, Attributes={"MessageRetentionPeriod": "345600"}
    )
    found = await Doctor(settings).examine()
    assert [finding.what for finding in bad(found)] == ["retention"]
    assert found.healthy, "that is a warning"

    found = await Doctor(changed(settings, sqs_dlq_url=other)).examine()
    assert "redrive policy" in [finding.what for finding in bad(found)]
    assert not found.healthy


async def test_a_missing_index(settings: Settings, moto: LocalServer) -> None:
    boto("dynamodb", moto).update_table(
        TableName=settings.dynamodb_table,
        GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "due-index"}}],
    )
    found = await Doctor(settings).examine()
    assert [finding.what for finding in bad(found)] == ["index due-index"]


async def test_each_missing_permission_is_named() -> None:
    denied = {
        "SendMessageBatch": "sqs:SendMessage",
        "BatchGetItem": "dynamodb:BatchGetItem",
        "BatchExecuteStatement": "dynamodb:PartiQL",
    }

    def reply(request: Request) -> Answer:
        if request.operation in denied:
            return error("AccessDeniedException", f"not authorized: {denied[request.operation]}")
        if request.operation == "GetQueueAttributes":
            name = request.parameters["QueueUrl"].rpartition("/")[2]
            return answer({"Attributes": {"QueueArn": f"arn:aws:sqs:us-east-1:1:{name}"}})
        if request.operation == "DescribeTable":
            return error("AccessDeniedException", "no")
        return error("ValidationException", "wrong on purpose")

    async with serving() as server:
        server.default = reply
        settings = Settings(
            _env_file=None,
            sqs_queue_url=f"{server.url}/1/tasks",
            sqs_dlq_url=f"{server.url}/1/tasks-dlq",
            dynamodb_table="tasks",
        )
        found = await Doctor(settings, client=client_of(server.url, "AKID", "secret")).examine()
    assert {
        finding.what for finding in found.findings if finding.health is FindingStatus.FAILED
    } == {
        "permission sqs:SendMessage (queue)",
        "permission sqs:SendMessage (dead-letter queue)",
        "permission dynamodb:BatchGetItem",
        "permission dynamodb:PartiQLInsert",
        "permission dynamodb:PartiQLUpdate",
        "permission dynamodb:PartiQLDelete",
    }
    assert "arn:aws:dynamodb:us-east-1:1:table/tasks" in json.dumps(found.policy)


def test_the_command(settings: Settings, monkeypatch: Any, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("SQS_QUEUE_URL", str(settings.sqs_queue_url))
    monkeypatch.setenv("SQS_DLQ_URL", str(settings.sqs_dlq_url))
    monkeypatch.setenv("DYNAMODB_TABLE", str(settings.dynamodb_table))
    monkeypatch.setenv("TQE_DYNAMODB_WRITES", "single")
    well = CliRunner().invoke(main, ["doctor", "--json"])
    assert well.exit_code == 0, well.output
    assert json.loads(well.stdout)["findings"][0]["health"] == "ok"
    written = CliRunner().invoke(main, ["doctor", "--policy"])
    assert json.loads(written.stdout)["Version"] == "2012-10-17"

    monkeypatch.setenv("DYNAMODB_TABLE", "gone")
    ill = CliRunner().invoke(main, ["doctor"])
    assert ill.exit_code == 2
    assert "there is no table gone" in ill.stdout

"""Provisioning, on moto: what is made is what is wanted, twice is once, and templates agree."""

from __future__ import annotations

import json
import secrets
from typing import Any

import hcl2
import pytest
from click.testing import CliRunner

from local_aws.servers import LocalServer
from task_queue_engine.backends.aws.dynamodb.schema import (
    INDEXES,
    KEY,
    TTL_ATTRIBUTE,
    create_table_parameters,
)
from task_queue_engine.backends.aws.provisioning import templates
from task_queue_engine.backends.aws.provisioning.provision import Action, Step, delete, provision
from task_queue_engine.backends.aws.provisioning.resources import (
    DEAD_LETTER_ATTRIBUTES,
    QUEUE_ATTRIBUTES,
    Names,
    policy,
)
from task_queue_engine.backends.aws.provisioning.session import AdminSession
from task_queue_engine.cli import main
from task_queue_engine.config import Settings
from task_queue_engine.errors import BackendRefused, BackendUnavailable, ConfigurationError
from tests.backends.aws.sqs.queues import boto
from tests.local_servers import require


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> LocalServer:
    server = require("moto")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.credentials[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.credentials[1])
    monkeypatch.setenv("AWS_REGION", server.region)
    return server


@pytest.fixture
def session(moto: LocalServer) -> AdminSession:
    return AdminSession(moto.region)


@pytest.fixture
def names() -> Names:
    name = f"made-{secrets.token_hex(4)}"
    return Names(queue=name, dead=f"{name}-dlq", table=name)


def described(moto: LocalServer, names: Names) -> dict[str, Any]:
    """What matters about the three, as another program sees it."""
    sqs, dynamodb = boto("sqs", moto), boto("dynamodb", moto)

    def queue(name: str) -> dict[str, str]:
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return dict(found)

    table = dynamodb.describe_table(TableName=names.table)["Table"]
    expiry = dynamodb.describe_time_to_live(TableName=names.table)["TimeToLiveDescription"]
    main_queue, dead = queue(names.queue), queue(names.dead)
    redrive = json.loads(main_queue["RedrivePolicy"])
    return {
        "visibility": main_queue["VisibilityTimeout"],
        "retention": (main_queue["MessageRetentionPeriod"], dead["MessageRetentionPeriod"]),
        "wait": main_queue["ReceiveMessageWaitTimeSeconds"],
        "redrive": (redrive["deadLetterTargetArn"] == dead["QueueArn"]),
        "receives": str(redrive["maxReceiveCount"]),
        "billing": table["BillingModeSummary"]["BillingMode"],
        "keys": table["KeySchema"],
        "indexes": sorted(
            (one["IndexName"], str(one["KeySchema"]), sorted(one["Projection"].items(), key=str))
            for one in table["GlobalSecondaryIndexes"]
        ),
        "expiry": (expiry["TimeToLiveStatus"], expiry.get("AttributeName")),
    }


def actions(steps: list[Step]) -> set[Action]:
    return {step.action for step in steps}


def test_it_makes_what_the_engine_needs(
    session: AdminSession, moto: LocalServer, names: Names
) -> None:
    done = provision(session, names)

    assert actions(done.steps) == {Action.CREATED}
    found = described(moto, names)
    assert found["visibility"] == "30"
    assert found["retention"] == ("1209600", "1209600")
    assert found["redrive"]
    assert found["receives"] == "3"
    assert found["billing"] == "PAY_PER_REQUEST"
    assert found["keys"] == [{"AttributeName": KEY, "KeyType": "HASH"}]
    assert [name for name, *_ in found["indexes"]] == sorted(index.name for index in INDEXES)
    assert found["expiry"] == ("ENABLED", TTL_ATTRIBUTE)
    url = done.environment["SQS_QUEUE_URL"]
    assert done.environment == {
        "AWS_REGION": moto.region,
        "SQS_QUEUE_URL": url,
        "SQS_DLQ_URL": f"{url}-dlq",
        "DYNAMODB_TABLE": names.table,
        "AWS_ENDPOINT_URL": moto.url,
    }


def test_doing_it_again_changes_nothing(session: AdminSession, names: Names) -> None:
    first = provision(session, names)
    again = provision(session, names)
    assert actions(again.steps) == {Action.KEPT}
    assert again.environment == first.environment


def test_what_differs_is_mended(session: AdminSession, moto: LocalServer, names: Names) -> None:
    provision(session, names)
    wanted = described(moto, names)
    url = session.sqs.get_queue_url(QueueName=names.queue)["QueueUrl"]
    session.sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "7"})
    session.dynamodb.update_table(
        TableName=names.table,
        GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "due-index"}}],
    )

    looked = provision(session, names, dry_run=True)
    assert described(moto, names) != wanted
    done = provision(session, names)

    assert done.steps == looked.steps
    assert Step(f"queue {names.queue}", Action.CHANGED, "was VisibilityTimeout: 7") in done.steps
    assert Step(f"index due-index of table {names.table}", Action.CREATED) in done.steps
    assert described(moto, names) == wanted


def test_a_dry_run_makes_nothing(session: AdminSession, names: Names) -> None:
    looked = provision(session, names, dry_run=True)
    assert actions(looked.steps) == {Action.CREATED}
    assert "SQS_QUEUE_URL" not in looked.environment
    assert actions(delete(session, names)) == {Action.ABSENT}


def test_delete(session: AdminSession, names: Names) -> None:
    provision(session, names)
    assert actions(delete(session, names, dry_run=True)) == {Action.DELETED}
    assert actions(provision(session, names).steps) == {Action.KEPT}
    assert actions(delete(session, names)) == {Action.DELETED}
    assert actions(delete(session, names)) == {Action.ABSENT}


def test_a_table_of_something_else_is_left_alone(session: AdminSession, names: Names) -> None:
    session.dynamodb.create_table(
        TableName=names.table,
        KeySchema=[{"AttributeName": "isbn", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "isbn", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(BackendRefused, match="its key is isbn"):
        provision(session, names)


def test_an_endpoint_that_does_not_answer(
    moto: LocalServer, monkeypatch: Any, names: Names
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(BackendUnavailable, match=r"127\.0\.0\.1:9"):
        provision(AdminSession(moto.region), names)


def test_without_credentials(moto: LocalServer, monkeypatch: Any, names: Names) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(BackendRefused, match="no usable AWS credentials"):
        provision(AdminSession(moto.region), names)


# --- names ----------------------------------------------------------------------------------


def test_names_are_those_of_the_settings() -> None:
    settings = Settings(
        _env_file=None,
        sqs_queue_url="https://h/1/work",
        sqs_dlq_url="https://h/1/died",
        dynamodb_table="rows",
    )
    assert Names.chosen(None, settings) == Names(queue="work", dead="died", table="rows")


def test_a_name_is_for_all_three() -> None:
    settings = Settings(_env_file=None)
    assert Names.chosen("x-1", settings) == Names(queue="x-1", dead="x-1-dlq", table="x-1")
    further = Settings(_env_file=None, queue="video")
    assert Names.chosen("x-1", further) == Names(
        queue="x-1-video", dead="x-1-video-dlq", table="x-1"
    )


@pytest.mark.parametrize("name", ["", "a", "x" * 76, "a b", "a/b", "tasks.fifo", "ü" * 5, "abc\n"])
def test_a_name_that_aws_would_refuse(name: str) -> None:
    if not name:
        assert Names.chosen("", Settings(_env_file=None)).queue == "tasks"
        return
    with pytest.raises(ConfigurationError, match="--name"):
        Names.chosen(name, Settings(_env_file=None))


# --- templates ------------------------------------------------------------------------------


def test_cloudformation_makes_the_same(
    session: AdminSession, moto: LocalServer, names: Names
) -> None:
    provision(session, names)
    wanted = described(moto, names)
    delete(session, names)

    stack = boto("cloudformation", moto)
    stack.create_stack(
        StackName=names.queue,
        TemplateBody=templates.cloudformation(names),
        Capabilities=["CAPABILITY_IAM"],
    )

    # moto makes no expiry of what a template says about it.
    found = described(moto, names)
    assert found | {"expiry": None} == wanted | {"expiry": None}
    resources = json.loads(templates.cloudformation(names))["Resources"]
    assert resources["Table"]["Properties"] == create_table_parameters(names.table) | {
        "TimeToLiveSpecification": {"AttributeName": TTL_ATTRIBUTE, "Enabled": True}
    }
    statements = policy(
        queue_arn="${Queue.Arn}", dead_arn="${DeadLetterQueue.Arn}", table_arn="${Table.Arn}"
    )["Statement"]
    for statement in statements:
        statement["Resource"] = {"Fn::Sub": statement["Resource"]}
    assert resources["Policy"]["Properties"]["PolicyDocument"]["Statement"] == statements
    (made,) = stack.describe_stacks(StackName=names.queue)["Stacks"]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in made["Outputs"]}
    assert outputs["SqsQueueUrl"].endswith(f"/{names.queue}")
    assert outputs["DynamodbTable"] == names.table


def test_terraform_says_the_same(names: Names) -> None:
    text = templates.terraform(names)
    document = hcl2.loads(text)
    resources: dict[str, Any] = {}
    for entry in document["resource"]:
        for kind, named in entry.items():
            for label, body in named.items():
                resources[f"{kind.strip(chr(34))}.{label.strip(chr(34))}"] = body
    table = resources["aws_dynamodb_table.tasks"]
    indexes = {plain(one["name"]): one for one in table["global_secondary_index"]}
    assert set(indexes) == {index.name for index in INDEXES}
    for index in INDEXES:
        found = {name: indexes[index.name].get(name) for name in ("hash_key", "range_key")}
        assert [plain(key) for key in found.values() if key is not None] == list(index.keys)
        projection = plain(indexes[index.name]["projection_type"])
        assert projection == index.projection["ProjectionType"]
        included = [plain(one) for one in indexes[index.name].get("non_key_attributes", [])]
        assert included == list(index.include)
    keys = {KEY, *(key for index in INDEXES for key in index.keys)}
    assert {plain(one["name"]) for one in table["attribute"]} == keys
    assert plain(table["hash_key"]) == KEY
    assert plain(table["billing_mode"]) == "PAY_PER_REQUEST"
    (expiry,) = table["ttl"]
    assert (plain(expiry["attribute_name"]), expiry["enabled"]) == (TTL_ATTRIBUTE, True)
    queue, dead = (resources[f"aws_sqs_queue.{name}"] for name in ("tasks", "dead_letters"))
    assert (plain(queue["name"]), plain(dead["name"])) == (names.queue, names.dead)
    seconds = {
        "visibility_timeout_seconds": "VisibilityTimeout",
        "message_retention_seconds": "MessageRetentionPeriod",
        "receive_wait_time_seconds": "ReceiveMessageWaitTimeSeconds",
    }
    for found, wanted in ((queue, QUEUE_ATTRIBUTES), (dead, DEAD_LETTER_ATTRIBUTES)):
        said = {seconds[key]: str(value) for key, value in found.items() if key in seconds}
        assert said == wanted
    assert "deadLetterTargetArn = aws_sqs_queue.dead_letters.arn" in text
    assert "maxReceiveCount     = 3" in text
    start, end = text.index("<<-JSON\n") + 8, text.index("\n  JSON\n")
    assert (
        json.loads(text[start:end])["Statement"]
        == policy(
            queue_arn="${aws_sqs_queue.tasks.arn}",
            dead_arn="${aws_sqs_queue.dead_letters.arn}",
            table_arn="${aws_dynamodb_table.tasks.arn}",
        )["Statement"]
    )


def plain(text: str) -> str:
    """hcl2 keeps the quotes in some versions."""
    return text.strip('"')


# --- the command ----------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def nowhere(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SQS_QUEUE_URL", "SQS_DLQ_URL", "DYNAMODB_TABLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nowhere", "moto")
def test_the_command_prints_the_lines_for_env(names: Names) -> None:
    done = run("provision", "--name", names.queue)
    assert done.exit_code == 0, done.output
    lines = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert lines["DYNAMODB_TABLE"] == names.table
    assert lines["SQS_QUEUE_URL"].endswith(f"/{names.queue}")
    assert f"queue {names.queue}" in done.stderr

    asked = run("provision", "--name", names.queue, "--delete")
    assert asked.exit_code == 2
    assert "--yes" in asked.stderr
    assert run("provision", "--name", names.queue, "--delete", "--yes").exit_code == 0


@pytest.mark.usefixtures("nowhere")
def test_a_template_needs_no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    written = run("provision", "--format", "cloudformation", "--name", "mine")
    assert json.loads(written.stdout)["Resources"]["Table"]["Properties"]["TableName"] == "mine"
    assert (
        'name         = "mine"'
        in run("provision", "--format", "terraform", "--name", "mine").stdout
    )

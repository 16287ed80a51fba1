"""`tqe provision` as a newcomer goes through it, and what it says when it cannot."""

from __future__ import annotations

import email.utils
import time
from functools import partial
from pathlib import Path
from typing import Any

import botocore.exceptions
import httpx
import pytest
import trio

from local_aws.servers import LocalServer
from task_queue_engine.backends.aws.provisioning.provision import differences
from task_queue_engine.backends.aws.provisioning.session import botocore_errors_explained
from task_queue_engine.backends.aws.wire import retry
from task_queue_engine.errors import BackendError, BackendRefused, BackendUnavailable
from tests.backends.aws.fake_aws import Reply, dynamodb_error, sqs_error, variables
from tests.backends.aws.sqs.queues import boto
from tests.backends.aws.wire.canned import CLOSE, HANG, Answer, Request, answer, serving
from tests.cli.runner import APP, TIMEOUT, Ran, Shop, tqe

pytestmark = pytest.mark.usefixtures("bare_environment")

KEYS = "AWS_ACCESS_KEY_ID=testing\nAWS_SECRET_ACCESS_KEY=testing\n"


def steps(ran: Ran) -> dict[str, str]:
    """What is said of each resource."""
    rows = [line.split("  ") for line in ran.err.splitlines()[1:]]
    return {row[0]: " ".join(part.strip() for part in row[1:] if part.strip()) for row in rows}


def test_from_nothing_to_tasks_and_back(
    elasticmq: LocalServer, dynamodb_local: LocalServer, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text(
        f"{KEYS}AWS_REGION=us-east-1\nAWS_ENDPOINT_URL_SQS={elasticmq.url}\n"
        f"AWS_ENDPOINT_URL_DYNAMODB={dynamodb_local.url}\n"
    )
    name = f"user-{time.time_ns():x}"
    sqs, dynamodb = boto("sqs", elasticmq), boto("dynamodb", dynamodb_local)

    def tables() -> list[str]:
        pages = dynamodb.get_paginator("list_tables").paginate()
        return [table for page in pages for table in page["TableNames"]]

    looked = tqe("provision", "--name", name, "--dry-run")
    assert looked.code == 0, looked.err
    assert steps(looked)[f"queue {name}"] == "created"
    assert sqs.list_queues(QueueNamePrefix=name).get("QueueUrls", []) == []
    assert name not in tables()

    made = tqe("provision", "--name", name)
    assert made.code == 0, made.err
    assert set(steps(made).values()) == {"created"}
    file.write_text(KEYS + made.out)  # as they are

    again = tqe("provision")
    assert set(steps(again).values()) == {"as it should be"}
    assert again.out == made.out

    queue = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "7"})
    assert steps(tqe("provision"))[f"queue {name}"] == "changed was VisibilityTimeout: 7"
    found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["VisibilityTimeout"])
    assert found["Attributes"]["VisibilityTimeout"] == "30"
    doctor = tqe("doctor")
    assert doctor.code == 0, doctor.out

    shop = Shop(tmp_path)
    with shop.serve() as server:
        task = server.post("echo", "hello")
        url = f"{server.url}/tasks/{task['id']}?wait=10"
        done = httpx.get(url, trust_env=False, timeout=TIMEOUT).json()
        assert (done["status"], done["result"]) == ("COMPLETED", "hello")
        server.signal()
        assert server.wait() == 0, server.log
        assert "botocore" not in server.log

    assert "--yes" in tqe("provision", "--delete").error
    assert steps(tqe("provision", "--delete", "--dry-run"))[f"table {name}"] == "deleted"
    assert name in tables()
    assert set(steps(tqe("provision", "--delete", "--yes")).values()) == {"deleted"}
    assert set(steps(tqe("provision", "--delete", "--yes")).values()) == {"not there"}
    gone = tqe("list")
    assert gone.code == 2
    assert gone.error.startswith(f"SQS_QUEUE_URL: there is no queue {queue} in us-east-1")


def test_what_a_server_does_not_tell_is_not_mended_every_time() -> None:
    wanted = {"VisibilityTimeout": "30", "MessageRetentionPeriod": "1209600", "RedrivePolicy": "{}"}
    found = {"VisibilityTimeout": "7"}
    assert differences(found, wanted) == {"VisibilityTimeout": "7", "RedrivePolicy": ""}


# --- what it says when it cannot ------------------------------------------------------------


def skewed(request: Request) -> Answer:
    theirs = time.time() + 1200
    if abs(request.signed_for - theirs) < 300:
        absent = request.operation == "GetQueueUrl"
        return sqs_error("QueueDoesNotExist") if absent else answer({"Table": {"KeySchema": []}})
    date = email.utils.formatdate(theirs, usegmt=True)
    return sqs_error("InvalidSignatureException", "Signature expired", 403, date=date)


def denied_to_create(request: Request) -> Answer:
    match request.operation:
        case "GetQueueUrl":
            return sqs_error("QueueDoesNotExist", x_amzn_query_error="x.NonExistentQueue;Sender")
        case "DescribeTable":
            return dynamodb_error("ResourceNotFoundException")
    return sqs_error("AccessDenied", f"not authorized: {request.operation}", 403)


@pytest.mark.parametrize(
    ("reply", "said", "code"),
    [
        (sqs_error("InvalidClientTokenId", "invalid", 403), "AWS does not accept the credent", 2),
        (sqs_error("ExpiredToken", "expired", 403), "have expired, renew them", 2),
        (sqs_error("AccessDenied", "not authorized: GetQueueUrl", 403), "no permission: ", 2),
        (denied_to_create, "no permission: CreateQueue", 2),
        (skewed, "this machine's clock is 1", 2),
        (answer(body=b"<html>It works!</html>"), "is not SQS (AWS_ENDPOINT_URL)", 2),
        (answer({"hello": "world"}), "is not SQS (AWS_ENDPOINT_URL)", 2),
        (CLOSE, "cannot reach SQS at http://127.0.0.1:", 2),
        (HANG, "(AWS_ENDPOINT_URL): no answer within 0.3 s", 2),
        (sqs_error("ServiceUnavailable", status=503), "ServiceUnavailable", 5),
        (sqs_error("RequestThrottled"), "RequestThrottled", 5),
    ],
    ids=[
        "wrong key",
        "expired",
        "denied",
        "denied to create",
        "clock",
        "web page",
        "other API",
        "closes",
        "silent",
        "503",
        "throttled",
    ],
)
async def test_a_service_that_does_not_help(
    reply: Reply, said: str, code: int, monkeypatch: Any
) -> None:
    if reply is HANG:  # the others answer, and a loaded machine takes its time
        monkeypatch.setattr("task_queue_engine.backends.aws.preflight.checks.TIMEOUT", 0.3)
    monkeypatch.setattr(retry, "_THROTTLED_BASE", 0.01)
    async with serving() as server:
        server.default = reply
        for command in (("provision",), ("provision", "--delete", "--yes")):
            run = partial(tqe, *command, **variables(server.url))
            ran = await trio.to_thread.run_sync(run)
            if reply is denied_to_create and "--delete" in command:
                continue  # there is nothing to delete
            assert said in ran.error
            assert ran.code == code


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("ThrottlingException", 400, BackendUnavailable),
        ("InternalServerError", 500, BackendUnavailable),
        ("AccessDeniedException", 400, BackendRefused),
        ("LimitExceeded", 400, BackendRefused),
    ],
)
def test_trouble_while_something_is_made(
    code: str, status: int, expected: type[BackendError]
) -> None:
    said = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(expected, match=f"CreateTable: {code}"), botocore_errors_explained():
        raise botocore.exceptions.ClientError(said, "CreateTable")


ON_AWS = "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials found"),
        ({"AWS_ACCESS_KEY_ID": "AK\nID"}, "contain a character"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE: "),
        ({"AWS_REGION": ""}, "AWS_REGION: not set"),
        ({"AWS_REGION": "eu central"}, "AWS_REGION: "),
        ({"AWS_ENDPOINT_URL": "localhost:1"}, "AWS_ENDPOINT_URL: must be http(s)://"),
        ({"AWS_ENDPOINT_URL": "ftp://localhost"}, "AWS_ENDPOINT_URL: must be http(s)://"),
        ({"SQS_QUEUE_URL": "tasks"}, "SQS_QUEUE_URL: must be the URL of a queue"),
        ({"DYNAMODB_TABLE": "a b"}, "DYNAMODB_TABLE: must be"),
        (
            {"AWS_ENDPOINT_URL": "", "SQS_QUEUE_URL": ON_AWS, "SQS_DLQ_URL": ""},
            "AWS_REGION: is us-east-1, but SQS_QUEUE_URL is a queue in eu-central-1",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_are_wrong(changed: dict[str, str], said: str) -> None:
    ran = tqe("provision", **variables("http://127.0.0.1:1", **changed))
    assert said in ran.error
    assert ran.code == 2


# --- as processes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "changed", "said"),
    [
        ("serve", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS does not accept the credentials of"),
        ("worker", {"SQS_QUEUE_URL": ""}, "SQS_QUEUE_URL: is not set, but SQS_DLQ_URL is"),
    ],
    ids=["credentials", "half of the settings"],
)
async def test_a_process_ends_with_one_line(
    command: str, changed: dict[str, str], said: str, tmp_path: Path
) -> None:
    shop = Shop(tmp_path)
    async with serving() as server:
        environment = variables(server.url, TQE_APP=APP, PORT="0", **changed)
        ran = await trio.to_thread.run_sync(partial(shop.run, command, **environment))
    lines = [line for line in ran.err.splitlines() if "service: Task Queue Engine" not in line]
    assert len(lines) == 1, ran.err
    assert lines[0].startswith(f"tqe: {said}")
    assert (ran.code, ran.out) == (2, "")

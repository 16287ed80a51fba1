"""Whatever is wrong with AWS is said in one line before any work is taken."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
import trio

from task_queue_engine.backends.aws.backend import AwsBackend
from task_queue_engine.backends.aws.preflight import checks
from task_queue_engine.backends.aws.settings import queue_urls, region_for
from task_queue_engine.backends.aws.sqs.queue_urls import QueueUrls, region_of, urls_by_name
from task_queue_engine.clock import ManualClock
from task_queue_engine.config import Settings
from task_queue_engine.engine.backend_factory import create_backend
from task_queue_engine.errors import BackendRefused, BackendUnavailable, ConfigurationError
from tests.backends.aws.sqs.conformance import MemoryAwsStore
from tests.backends.aws.sqs.queues import URLS, client_of
from tests.backends.aws.wire.canned import Answer, Request, answer, error, serving

ARN = "arn:aws:sqs:us-east-1:1:"
QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/tasks"


def backend_on(
    url: str, urls: QueueUrls = URLS, max_payload: int | None = None, **options: Any
) -> AwsBackend:
    return AwsBackend(
        client=client_of(url, "AKID", "secret", **options),
        urls=urls,
        store=MemoryAwsStore(ManualClock()),
        queue_name="default",
        max_payload=max_payload,
    )


def attributes(request: Request, **more: str) -> Answer:
    name = request.parameters["QueueUrl"].rpartition("/")[2]
    return answer({"Attributes": {"QueueArn": ARN + name, **more}})


async def refusal(reply: Answer | Callable[[Request], Answer]) -> str:
    async with serving() as server:
        server.default = reply
        with pytest.raises((BackendRefused, ConfigurationError)) as caught:
            async with backend_on(server.url).open():
                pass
    said = str(caught.value)
    assert "\n" not in said
    return said


# --- what SQS says --------------------------------------------------------------------------


async def test_wrong_credentials() -> None:
    said = await refusal(error("InvalidClientTokenId", "The security token is invalid"))
    assert said.startswith("AWS does not accept the credentials: ")


async def test_expired_credentials() -> None:
    assert "expired" in await refusal(error("ExpiredToken", "The security token is expired"))


@pytest.mark.parametrize("code", ["AccessDenied", "AccessDeniedException"])
async def test_no_permission(code: str) -> None:
    said = await refusal(error(code, "not authorized to perform: sqs:getqueueattributes"))
    assert said.startswith("no permission")
    assert "sqs:getqueueattributes" in said
    assert "tqe doctor" in said


async def test_a_queue_that_is_not_there() -> None:
    said = await refusal(error("QueueDoesNotExist"))
    assert said.startswith(f"SQS_QUEUE_URL: there is no queue {URLS.queue} in us-east-1")


async def test_a_dead_letter_queue_that_is_not_there() -> None:
    def reply(request: Request) -> Answer:
        missing = request.parameters["QueueUrl"] == URLS.dead
        return error("QueueDoesNotExist") if missing else attributes(request)

    assert (await refusal(reply)).startswith(f"SQS_DLQ_URL: there is no queue {URLS.dead}")


@pytest.mark.parametrize(
    "reply",
    [answer(body=b"<html>hello</html>"), answer({"hello": "world"})],
    ids=["a web page", "some other API"],
)
async def test_an_endpoint_that_is_not_sqs(reply: Answer) -> None:
    said = await refusal(reply)
    assert "http://127.0.0.1:" in said
    assert "is not SQS" in said


async def test_an_endpoint_that_does_not_answer() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(BackendRefused, match=rf"cannot reach SQS at http://127.0.0.1:{port}"):
        async with backend_on(f"http://127.0.0.1:{port}").open():
            pass


async def test_a_service_in_trouble_is_not_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PATIENCE", 0.4)
    async with serving() as server:
        server.default = error("ServiceUnavailable", status=503)
        with pytest.raises(BackendUnavailable):
            async with backend_on(server.url).open():
                pass


async def test_what_the_queue_says_about_itself_is_taken_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = json.dumps({"deadLetterTargetArn": f"{ARN}tasks-dlq", "maxReceiveCount": "5"})

    def reply(request: Request) -> Answer:
        return attributes(request, RedrivePolicy=policy, MaximumMessageSize="1000")

    async with serving() as server:
        server.default = reply
        backend = backend_on(server.url)
        async with backend.open():
            await backend.ping()
            queue = backend.queue("default")
            assert (queue._max_receives, queue._max_bytes) == (5, 1000)
    assert not caplog.records


@pytest.mark.parametrize(
    ("sizes", "warnings"),
    [
        ({"tasks": "1048576", "tasks-dlq": "1048576"}, []),
        ({}, []),
        (
            {"tasks": "262144", "tasks-dlq": "262144"},
            ["SQS_QUEUE_URL takes messages of 262144 bytes, so payloads near TQE_MAX_BODY_BYTES "],
        ),
        (
            {"tasks": "1048576", "tasks-dlq": "262144"},
            ["SQS_DLQ_URL takes messages of 262144 bytes, SQS_QUEUE_URL of 1048576: "],
        ),
    ],
)
async def test_limits_that_do_not_fit_together_are_told_at_the_start(
    sizes: dict[str, str], warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def reply(request: Request) -> Answer:
        name = request.parameters.get("QueueUrl", "").rpartition("/")[2]
        said = {"MaximumMessageSize": sizes[name]} if name in sizes else {}
        policy = json.dumps({"deadLetterTargetArn": f"{ARN}tasks-dlq", "maxReceiveCount": "3"})
        return attributes(request, RedrivePolicy=policy, **said)

    async with serving() as server:
        server.default = reply
        backend = backend_on(server.url, max_payload=256 * 1024)
        async with backend.open():
            queue = backend.queue("default")
            assert queue._max_bytes == int(sizes.get("tasks", 1048576))
            assert queue._max_dead_bytes == int(sizes.get("tasks-dlq", 1048576))
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == len(warnings)
    assert all(one.startswith(start) for one, start in zip(found, warnings, strict=True))


@pytest.mark.parametrize(
    ("policy", "warning"),
    [
        (None, "has no redrive policy"),
        ('{"deadLetterTargetArn":"arn:other","maxReceiveCount":3}', "arn:other"),
        ("nonsense", "has no redrive policy"),
    ],
)
async def test_a_doubtful_redrive_policy_is_warned_about(
    policy: str | None, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"RedrivePolicy": policy} if policy else {}
    async with serving() as server:
        server.default = lambda request: attributes(request, **more)
        async with backend_on(server.url).open():
            pass
    assert any(warning in record.getMessage() for record in caplog.records)


async def test_in_mid_run_a_missing_permission_makes_it_unready_until_it_is_back() -> None:
    async with serving() as server:
        server.default = attributes
        backend = backend_on(server.url)
        async with backend.open():
            server.default = error("AccessDenied", "no more", status=403)
            with pytest.raises(BackendUnavailable, match="no more"):
                await backend.ping()
            server.default = attributes
            await backend.ping()


# --- settings -------------------------------------------------------------------------------


def settings(**values: Any) -> Settings:
    given = {"sqs_queue_url": QUEUE, "sqs_dlq_url": f"{QUEUE}-dlq", "dynamodb_table": "tasks"}
    return Settings(_env_file=None, **(given | values))


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({"sqs_dlq_url": None}, "SQS_DLQ_URL"),
        ({"dynamodb_table": None}, "DYNAMODB_TABLE"),
        ({"sqs_queue_url": "tasks"}, "SQS_QUEUE_URL"),
        ({"sqs_queue_url": "https://sqs.us-east-1.amazonaws.com/"}, "SQS_QUEUE_URL"),
        ({"sqs_queue_url": f"{QUEUE}.fifo"}, "SQS_QUEUE_URL"),
        ({"sqs_dlq_url": "arn:aws:sqs:us-east-1:1:tasks"}, "SQS_DLQ_URL"),
        ({"sqs_dlq_url": QUEUE}, "SQS_DLQ_URL"),
    ],
)
def test_a_wrong_setting_is_named(
    values: dict[str, Any], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQS_DLQ_URL", "DYNAMODB_TABLE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError) as caught:
        create_backend(settings(**values), ManualClock())
    assert caught.value.variable == variable


@pytest.mark.parametrize(
    ("endpoint", "region", "urls", "variable", "said"),
    [
        (None, "eu-west-1", QueueUrls(QUEUE, f"{QUEUE}-dlq"), "AWS_REGION", "us-east-1"),
        (
            None,
            "us-east-1",
            QueueUrls("http://127.0.0.1:9324/0/tasks", "http://127.0.0.1:9324/0/tasks-dlq"),
            "SQS_QUEUE_URL",
            "AWS_ENDPOINT_URL_SQS=http://127.0.0.1:9324",
        ),
    ],
    ids=["another region", "a local queue without its endpoint"],
)
async def test_a_queue_elsewhere_is_noticed_before_anything_is_sent(
    endpoint: str | None,
    region: str,
    urls: QueueUrls,
    variable: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    backend = AwsBackend.from_settings(
        settings(aws_region=region, sqs_queue_url=urls.queue, sqs_dlq_url=urls.dead)
    )
    with pytest.raises(ConfigurationError, match=said) as caught:
        async with backend.open():
            pass
    assert caught.value.variable == variable


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.eu-central-1.amazonaws.com/1/q", "eu-central-1"),
        ("https://eu-central-1.queue.amazonaws.com/1/q", "eu-central-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("https://sqs-fips.us-east-1.amazonaws.com/1/q", "us-east-1"),
        ("https://sqs.us-east-1.api.aws/1/q", "us-east-1"),
        ("https://vpce-1-2.sqs.us-east-1.vpce.amazonaws.com/1/q", "us-east-1"),
        ("http://localhost:9324/000000000000/q", None),
        ("https://sqs.example.com/1/q", None),
        ("https://sqs.us-east-1.amazonaws.com.evil.example/1/q", None),
    ],
)
def test_the_region_in_a_queues_url(url: str, region: str | None) -> None:
    assert region_of(url) == region


def test_the_region_is_the_queues_where_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    found = settings()
    assert region_for(found, queue_urls(found)) == "us-east-1"
    assert region_for(settings(aws_region="eu-west-1"), queue_urls(found)) == "eu-west-1"


def test_other_queues_lie_beside_the_one_that_is_set() -> None:
    main = QueueUrls("https://h/1/tasks", "https://h/1/dead")
    video = QueueUrls("https://h/1/tasks-video", "https://h/1/tasks-video-dlq")
    assert urls_by_name(main, "default", "default") == main
    assert urls_by_name(main, "default", "video") == video
    assert urls_by_name(video, "video", "default").queue == "https://h/1/tasks"
    assert urls_by_name(video, "video", "audio").queue == "https://h/1/tasks-audio"


def test_credentials_in_a_env_file_are_found(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.setenv(name, "to be undone")
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "from the environment")
    (tmp_path / ".env").write_text(
        "AWS_ACCESS_KEY_ID=AKID\nAWS_SECRET_ACCESS_KEY=other\nAWS_PROFILE=\nHOME=/nowhere\n"
    )
    home = os.environ.get("HOME")
    AwsBackend.from_settings(settings())
    assert os.environ["AWS_ACCESS_KEY_ID"] == "AKID"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "from the environment"
    assert "AWS_PROFILE" not in os.environ
    assert os.environ.get("HOME") == home

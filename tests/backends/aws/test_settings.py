"""Settings that cannot be right, found before anything is sent."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from task_queue_engine import backends
from task_queue_engine.backends.aws.provisioning.resources import Names
from task_queue_engine.backends.aws.sqs.queue_urls import check_queue_url, region_of
from task_queue_engine.clock import SystemClock
from task_queue_engine.config import Settings
from task_queue_engine.engine.backend_factory import create_backend
from task_queue_engine.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("bare_environment")

QUEUE = "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks"


@pytest.mark.parametrize(
    "url",
    [
        QUEUE,
        f"{QUEUE}/",
        f" {QUEUE}\n",
        "https://queue.amazonaws.com/123456789012/tasks",
        "http://localhost:9324/queue/tasks",
        "http://127.0.0.1:9324/000000000000/tasks_1-a",
        "http://[::1]:9324/000000000000/tasks",
        "http://sqs.us-east-1.localhost:4566/000000000000/tasks",
    ],
)
def test_the_url_of_a_queue(url: str) -> None:
    assert check_queue_url(url, variable="SQS_QUEUE_URL") == url.strip().rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "tasks",
        "https://",
        "arn:aws:sqs:us-east-1:123456789012:tasks",
        "ftp://h/1/tasks",
        "http://[::1/1/tasks",
        "http://h:99999/1/tasks",
        "http://h:0/1/tasks",
        "http://h/1/ta sks",
        "http://h/1/täsks",
        "http://h/1/tasks?x=1",
        "http://h/1/tasks#x",
        f"http://h/1/{'x' * 81}",
        "https://someone:password@sqs.us-east-1.amazonaws.com/123456789012/tasks",
        "https://sqs.us-east-1.amazonaws.com/tasks",
        "https://sqs.us-east-1.amazonaws.com/tasks/123456789012/x",
        "http://h/1/tasks\r\nHost: elsewhere",
    ],
)
def test_what_is_no_url_of_a_queue(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be the URL of a queue, like") as caught:
        check_queue_url(url, variable="SQS_DLQ_URL")
    assert caught.value.variable == "SQS_DLQ_URL"
    assert "password" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fifo_queue() -> None:
    with pytest.raises(ConfigurationError, match="FIFO"):
        check_queue_url(f"{QUEUE}.fifo", variable="SQS_QUEUE_URL")


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("queue.amazonaws.com", "us-east-1"),
        ("sqs.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
        ("sqs.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
        ("sqs.cn-north-1.api.amazonwebservices.com.cn", "cn-north-1"),
    ],
)
def test_the_region_of_a_queue_in_every_partition(host: str, region: str) -> None:
    assert region_of(f"https://{host}/123456789012/tasks") == region


@pytest.mark.parametrize("name", ["ab", "a b", "t/../x", "tä-bl", "x" * 256, 't"; DROP', "abc\n"])
def test_a_table_that_cannot_be(name: str) -> None:
    settings = Settings(
        _env_file=None, sqs_queue_url=QUEUE, sqs_dlq_url=f"{QUEUE}-dlq", dynamodb_table=name
    )
    for look in (
        lambda: create_backend(settings, SystemClock()),
        lambda: Names.chosen(None, settings),
    ):
        with pytest.raises(ConfigurationError) as caught:
            look()
        assert caught.value.variable == "DYNAMODB_TABLE"
        assert "3 to 255" in str(caught.value)


@pytest.mark.parametrize("half", [{"sqs_dlq_url": f"{QUEUE}-dlq"}, {"dynamodb_table": "tasks"}])
def test_half_of_aws_is_not_a_file(half: dict[str, str]) -> None:
    """A misspelt SQS_QUEUE_URL would otherwise put tasks where no worker looks."""
    with pytest.raises(ConfigurationError) as caught:
        create_backend(Settings(_env_file=None, **half), SystemClock())
    assert caught.value.variable == "SQS_QUEUE_URL"
    asked_for = Settings(_env_file=None, database="mine.db", **half)
    assert create_backend(asked_for, SystemClock()).info.name == "sqlite"


def test_a_region_alone_is_no_half() -> None:
    settings = Settings(_env_file=None, aws_region="eu-central-1")
    assert create_backend(settings, SystemClock()).info.name == "sqlite"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules that need it are imported anew, without it."""
    for name in [name for name in sys.modules if name.startswith("task_queue_engine.backends.aws")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(backends, "aws", None)  # put back after the import has replaced it
    real = builtins.__import__

    def without_botocore(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] in ("boto3", "botocore"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_botocore)
    settings = Settings(
        _env_file=None, sqs_queue_url=QUEUE, sqs_dlq_url=f"{QUEUE}-dlq", dynamodb_table="tasks"
    )
    with pytest.raises(ConfigurationError, match=r"install this package with its extra 'aws'"):
        create_backend(settings, SystemClock())


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({"sqs_queue_url": "tasks"}, "SQS_QUEUE_URL"),
        ({"sqs_queue_url": QUEUE, "sqs_dlq_url": QUEUE}, "SQS_DLQ_URL"),
        ({"sqs_queue_url": f"{QUEUE}.fifo"}, "SQS_QUEUE_URL"),
    ],
)
def test_what_provisioning_would_make_of_them(values: dict[str, str], variable: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Names.chosen(None, Settings(_env_file=None, **values))
    assert caught.value.variable == variable

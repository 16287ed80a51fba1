"""What settings say about AWS: queues and region, and what a `.env` file says to botocore."""

from __future__ import annotations

import os
from pathlib import Path

from dotenv import dotenv_values

from task_queue_engine.backends.aws.sqs.queue_urls import (
    QueueUrls,
    check_queue_url,
    region_of,
    sibling,
)
from task_queue_engine.config import Settings
from task_queue_engine.errors import ConfigurationError


def adopt_env_file(path: str | Path = ".env") -> None:
    """Put the file's AWS_* variables into the environment, where those that are set stay.

    Our own settings are read from the file anyway; credentials, profile and endpoints are looked
    for in the environment, by botocore.
    """
    for name, value in dotenv_values(path).items():
        if name.startswith("AWS_") and value:
            os.environ.setdefault(name, value)


def queue_urls(settings: Settings) -> QueueUrls:
    """
    Raises:
        ConfigurationError: SQS_QUEUE_URL or SQS_DLQ_URL is missing or no URL of a queue.
    """
    if settings.sqs_queue_url is None:
        raise ConfigurationError("is not set", variable="SQS_QUEUE_URL")
    queue = check_queue_url(settings.sqs_queue_url, variable="SQS_QUEUE_URL")
    if settings.sqs_dlq_url is None:
        raise ConfigurationError(
            "is not set: the dead-letter queue's URL, "
            f"{sibling(queue, 'NAME')} (tqe provision makes one)",
            variable="SQS_DLQ_URL",
        )
    dead = check_queue_url(settings.sqs_dlq_url, variable="SQS_DLQ_URL")
    if dead == queue:
        raise ConfigurationError("is the queue itself", variable="SQS_DLQ_URL")
    return QueueUrls(queue, dead)


def region_for(settings: Settings, urls: QueueUrls) -> str | None:
    """AWS_REGION, else the region the queue's URL names; None leaves it to the AWS profile."""
    return settings.aws_region or region_of(urls.queue)

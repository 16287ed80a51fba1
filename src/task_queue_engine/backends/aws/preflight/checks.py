"""Looks at everything once before work begins, and says in one line what is wrong."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

import trio

from task_queue_engine.backends.aws.sqs.message_format import MAX_MESSAGE_BYTES
from task_queue_engine.backends.aws.sqs.queue_urls import origin_of, region_of
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.endpoints import Service
from task_queue_engine.backends.aws.wire.error_codes import Meaning, meaning_of
from task_queue_engine.backends.aws.wire.errors import AwsRequestFailed
from task_queue_engine.backends.aws.wire.explanations import clock_trouble, not_the_service, refuse
from task_queue_engine.errors import BackendError, BackendUnavailable, ConfigurationError

T = TypeVar("T")

logger = logging.getLogger("task_queue_engine.aws")

FIELDS_BYTES = 1024
"""What a task's message has besides its payload, with room: names, times, id, attributes."""

NO_SUCH_QUEUE = Meaning.QUEUE_MISSING | Meaning.ADDRESS_INVALID

TIMEOUT = 10.0
"""Seconds for one question at the start, with its retries: longer than a lost packet takes, shorter
than the patience of an operator who has just made a mistake."""

PATIENCE = 15.0
"""Seconds for which the whole start waits for trouble to pass, beyond each request's own retries:
longer than a service's bad moments last, shorter than a supervisor waits before it calls a start
hung (30 s and more)."""

# Seconds: the bounds of the waits between two tries of a check.
_FIRST_WAIT = 0.2
_LONGEST_WAIT = 3.0


class Patience:
    """What all checks of one start share: how long its trouble may last.

    A check says what is wrong in two ways. A definite answer (ConfigurationError, BackendRefused)
    is passed on at once. Trouble that may pass (BackendUnavailable) is waited out, and reported as
    what it is where it lasts.
    """

    def __init__(self) -> None:
        self._until = trio.current_time() + PATIENCE

    async def wait_out(self, check: Callable[[], Awaitable[T]]) -> T:
        """
        Args:
            check: may be made any number of times.

        Raises:
            BackendUnavailable: the trouble did not pass.
        """
        wait = _FIRST_WAIT
        while True:
            try:
                return await check()
            except BackendUnavailable as error:
                delay = max(wait * random.uniform(0.5, 1.0), min(error.retry_after or 0, wait))  # noqa: S311  # jitter
                if trio.current_time() + delay >= self._until:
                    raise
                logger.warning("not started yet, another try in %.1f s: %s", delay, error)
                await trio.sleep(delay)
                wait = min(wait * 2, _LONGEST_WAIT)


def check_regions(client: AwsClient, urls: Iterable[tuple[str, str]]) -> None:
    """Before anything is sent: the queues must be where requests will go.

    Args:
        urls: each with the variable it is from.

    Raises:
        ConfigurationError.
    """
    endpoint = client.endpoint("sqs")
    to_aws = region_of(endpoint) is not None
    for url, variable in urls:
        region = region_of(url)
        if to_aws and region is None:
            raise ConfigurationError(
                f"{url} is not a queue of AWS, where requests go; for another server set "
                f"AWS_ENDPOINT_URL_SQS={origin_of(url)}",
                variable=variable,
            )
        if to_aws and region != client.region:
            raise ConfigurationError(
                f"is {client.region}, but {variable} is a queue in {region}", variable="AWS_REGION"
            )


async def check_access(client: AwsClient, *, queue: str, table: str) -> None:
    """Both services are there and take the credentials; what they say about a queue or a table of
    these names does not matter, nor whether they may be asked for.

    Raises:
        BackendRefused, BackendUnavailable.
    """
    asked: tuple[tuple[Service, str, dict[str, str], Meaning], ...] = (
        ("sqs", "GetQueueUrl", {"QueueName": queue}, NO_SUCH_QUEUE),
        ("dynamodb", "DescribeTable", {"TableName": table}, Meaning.TABLE_MISSING),
    )
    for service, operation, parameters, absent in asked:
        try:
            answer = await client.call(service, operation, parameters, timeout=TIMEOUT)
        except BackendError as error:
            passes = absent | Meaning.ACCESS_DENIED
            if isinstance(error, AwsRequestFailed) and meaning_of(error.code) & passes:
                continue
            refuse(error, client, service)
        if not (answer.get("QueueUrl") or answer.get("Table")):
            raise not_the_service(client, service)


async def check_queue(client: AwsClient, url: str, *, variable: str) -> dict[str, str]:
    """The queue's attributes.

    Raises:
        ConfigurationError, BackendRefused: it cannot be used, and why.
        BackendUnavailable: throttled or failing; another try may help.
    """
    parameters = {"QueueUrl": url, "AttributeNames": ["All"]}
    try:
        answer = await client.call("sqs", "GetQueueAttributes", parameters, timeout=TIMEOUT)
    except BackendError as error:
        if isinstance(error, AwsRequestFailed) and meaning_of(error.code) & NO_SUCH_QUEUE:
            raise ConfigurationError(
                f"there is no queue {url} in {client.region} for these credentials "
                "(tqe provision makes one)",
                variable=variable,
            ) from error
        refuse(error, client, "sqs")
    found = answer.get("Attributes")
    attributes: dict[str, str] = found if isinstance(found, dict) else {}
    if not attributes.get("QueueArn"):
        raise not_the_service(client, "sqs")
    return attributes


def warn_of_clock(client: AwsClient) -> None:
    """The client signs for the services' time where they differ; what is stored has ours."""
    offset = client.statistics().clock_offset
    if offset:
        logger.warning("%s", clock_trouble(offset))


def parse_redrive_policy(attributes: Mapping[str, str]) -> tuple[str | None, int | None]:
    """The dead-letter queue's ARN and after how many receives a message moves there; None where
    the queue has no redrive policy, or one that cannot be read."""
    try:
        policy = json.loads(attributes.get("RedrivePolicy", ""))
        return str(policy["deadLetterTargetArn"]), int(policy["maxReceiveCount"])
    except (ValueError, KeyError, TypeError):
        return None, None


def max_message_bytes(attributes: Mapping[str, str]) -> int | None:
    """The queue's own limit, body and attributes together; None where it does not say."""
    said = attributes.get("MaximumMessageSize", "")
    return int(said) if said.isascii() and said.isdigit() and int(said) else None


def size_findings(
    queue: Mapping[str, str], dead: Mapping[str, str], *, max_payload: int | None
) -> list[str]:
    """What the limits of the queues mean for what may be submitted; empty where they fit.

    Args:
        queue, dead: attributes of the queue and of its dead-letter queue.
        max_payload: bytes of JSON that a payload may have; None: not known.
    """
    findings = []
    limit, dead_limit = max_message_bytes(queue), max_message_bytes(dead)
    if limit is not None and max_payload is not None and max_payload + FIELDS_BYTES > limit:
        findings.append(
            f"SQS_QUEUE_URL takes messages of {limit} bytes, so payloads near TQE_MAX_BODY_BYTES "
            f"({max_payload}) are refused: raise its MaximumMessageSize (SQS takes up to "
            f"{MAX_MESSAGE_BYTES}), or lower TQE_MAX_BODY_BYTES"
        )
    if limit is not None and dead_limit is not None and dead_limit < limit:
        findings.append(
            f"SQS_DLQ_URL takes messages of {dead_limit} bytes, SQS_QUEUE_URL of {limit}: dead "
            "letters of larger ones lack traceback or payload, which are in the table"
        )
    return findings

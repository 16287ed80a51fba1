"""Looks at everything once before work begins, and says in one line what is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import NoReturn

from task_queue_engine.backends.aws.sqs.queue_urls import origin_of, region_of
from task_queue_engine.backends.aws.wire.channel import NAMES
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.endpoints import Service, is_aws, setting_behind
from task_queue_engine.backends.aws.wire.errors import (
    AwsRequestFailed,
    ClockWrong,
    CredentialsExpired,
    CredentialsUnusable,
    EndpointUnreachable,
    UnexpectedAnswer,
)
from task_queue_engine.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    ConfigurationError,
)

logger = logging.getLogger("task_queue_engine.aws")

WRONG_CREDENTIALS = frozenset(
    {
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "IncompleteSignature",
        "InvalidSecurity",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
NO_PERMISSION = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "KMS.AccessDeniedException",
        "KmsAccessDenied",
        "UnauthorizedOperation",
    }
)
NO_QUEUE = frozenset({"QueueDoesNotExist", "InvalidAddress"})
_NO_SUCH_OPERATION = frozenset({"InvalidAction", "UnknownOperation", "UnknownOperationException"})
# "Credential should be scoped to a valid region." (SQS), "... to a valid Region, not 'eu-west-1'."
_WRONG_SCOPE = "Credential should be scoped to"

TIMEOUT = 10.0
"""Seconds for one question at the start, with its retries: longer than a lost packet takes, shorter
than the patience of whoever has just made a mistake."""


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
    asked: tuple[tuple[Service, str, dict[str, str], frozenset[str]], ...] = (
        ("sqs", "GetQueueUrl", {"QueueName": queue}, NO_QUEUE),
        (
            "dynamodb",
            "DescribeTable",
            {"TableName": table},
            frozenset({"ResourceNotFoundException"}),
        ),
    )
    for service, operation, parameters, absent in asked:
        try:
            answer = await client.call(service, operation, parameters, timeout=TIMEOUT)
        except BackendError as error:
            if isinstance(error, AwsRequestFailed) and error.code in absent | NO_PERMISSION:
                continue
            refuse(error, client, service)
        if not (answer.get("QueueUrl") or answer.get("Table")):
            raise _not_the_service(client, service)


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
        if isinstance(error, AwsRequestFailed) and error.code in NO_QUEUE:
            raise ConfigurationError(
                f"there is no queue {url} in {client.region} for these credentials "
                "(tqe provision makes one)",
                variable=variable,
            ) from error
        refuse(error, client, "sqs")
    found = answer.get("Attributes")
    attributes: dict[str, str] = found if isinstance(found, dict) else {}
    if not attributes.get("QueueArn"):
        raise _not_the_service(client, "sqs")
    return attributes


def _not_the_service(client: AwsClient, service: Service) -> BackendRefused:
    endpoint = client.endpoint(service)
    setting = setting_behind(service, endpoint)
    return BackendRefused(f"what answers at {endpoint} is not {NAMES[service]} ({setting})")


def refuse(error: BackendError, client: AwsClient, service: Service) -> NoReturn:
    """Raise what a request's failure at the start means for whoever started this.

    Raises:
        BackendRefused: saying what to mend.
        BackendUnavailable: where it may pass.
    """
    name = NAMES[service]
    endpoint = client.endpoint(service)
    setting = setting_behind(service, endpoint)
    why = str(error).partition(f" at {endpoint}: ")[2] or str(error)
    if isinstance(error, EndpointUnreachable):
        said = f"cannot reach {name} at {endpoint} ({setting}): {why}"
        # Where nobody has set an address the network is in trouble, and nothing has to be mended.
        if is_aws(endpoint) and not error.misdirected:
            raise BackendUnavailable(said) from error
        raise BackendRefused(said) from error
    if isinstance(error, UnexpectedAnswer):
        raise BackendRefused(
            f"what answers at {endpoint} is not {name} ({setting}): {why}"
        ) from error
    if isinstance(error, ClockWrong):
        raise BackendRefused(f"this machine's clock is wrong: {error}") from error
    if isinstance(error, CredentialsExpired):
        raise BackendRefused(f"{_credentials(client)} have expired, renew them: {error}") from error
    if isinstance(error, CredentialsUnusable):
        raise BackendRefused(f"the AWS credentials cannot be used: {error}") from error
    if isinstance(error, AwsRequestFailed):
        raise BackendRefused(_refusal(error, client, name, setting)) from error
    if isinstance(error, BackendUnavailable):
        raise error
    raise BackendRefused(str(error)) from error


def _refusal(error: AwsRequestFailed, client: AwsClient, name: str, setting: str) -> str:
    if _WRONG_SCOPE in error.message:
        return f"AWS_REGION is not the region of the endpoint ({setting}): {error}"
    if error.code in WRONG_CREDENTIALS:
        return f"AWS does not accept {_credentials(client)}: {error}"
    if error.code in NO_PERMISSION:
        return f"no permission (tqe doctor prints the policy needed): {error}"
    if error.code in _NO_SUCH_OPERATION:
        return f"what answers is not {name} ({setting}): {error}"
    return str(error)


def _credentials(client: AwsClient) -> str:
    return f"the credentials {client.credentials_origin}".rstrip()


def warn_of_clock(client: AwsClient) -> None:
    """The client signs for the services' time where they differ; what is stored has ours."""
    offset = client.statistics().clock_offset
    if offset:
        logger.warning("%s", clock_trouble(offset))


def clock_trouble(offset: float) -> str:
    """
    Args:
        offset: seconds that AWS is ahead.
    """
    side = "behind" if offset > 0 else "ahead of"
    return (
        f"this machine's clock is {abs(offset):.0f} s {side} AWS's: requests are signed for "
        "their time, but the times of tasks will be wrong (is NTP running?)"
    )


def redrive_policy(attributes: Mapping[str, str]) -> tuple[str | None, int | None]:
    """The dead-letter queue's ARN and after how many receives a message moves there; None where
    the queue has no redrive policy, or one that cannot be read."""
    try:
        policy = json.loads(attributes.get("RedrivePolicy", ""))
        return str(policy["deadLetterTargetArn"]), int(policy["maxReceiveCount"])
    except (ValueError, KeyError, TypeError):
        return None, None

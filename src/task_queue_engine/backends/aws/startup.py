"""Looks at everything once before work begins, and says in one line what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from task_queue_engine.backends.aws.client import AwsClient
from task_queue_engine.backends.aws.errors import (
    AwsRequestFailed,
    CredentialsUnusable,
    EndpointUnreachable,
    UnexpectedAnswer,
)
from task_queue_engine.backends.aws.queue_urls import QueueUrls, origin_of, region_of
from task_queue_engine.errors import (
    BackendError,
    BackendRefused,
    BackendUnavailable,
    ConfigurationError,
)

WRONG_CREDENTIALS = frozenset(
    {
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
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
_NO_QUEUE = frozenset({"QueueDoesNotExist", "InvalidAddress"})


def check_regions(client: AwsClient, urls: QueueUrls) -> None:
    """Before anything is sent: the queues must be where requests will go.

    Raises:
        ConfigurationError.
    """
    endpoint = client.endpoint("sqs")
    to_aws = region_of(endpoint) is not None
    for url, variable in ((urls.queue, "SQS_QUEUE_URL"), (urls.dead, "SQS_DLQ_URL")):
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


async def check_queue(client: AwsClient, url: str, *, variable: str) -> dict[str, str]:
    """The queue's attributes.

    Raises:
        ConfigurationError, BackendRefused: it cannot be used, and why.
        BackendUnavailable: throttled or failing; another try may help.
    """
    parameters = {"QueueUrl": url, "AttributeNames": ["All"]}
    try:
        answer = await client.call("sqs", "GetQueueAttributes", parameters)
    except BackendError as error:
        if isinstance(error, AwsRequestFailed) and error.code in _NO_QUEUE:
            raise ConfigurationError(
                f"there is no queue {url} in {client.region} for these credentials "
                "(tqe provision makes one)",
                variable=variable,
            ) from error
        refuse(error, client, "sqs")
    attributes: dict[str, str] = answer.get("Attributes") or {}
    if not attributes.get("QueueArn"):
        raise BackendRefused(f"what answers at {client.endpoint('sqs')} is not SQS")
    return attributes


def refuse(error: BackendError, client: AwsClient, service: Any) -> NoReturn:
    """Raise what a request's failure at the start means for whoever started this.

    Raises:
        BackendRefused: saying what to mend.
        BackendUnavailable: where it may pass.
    """
    name = "SQS" if service == "sqs" else "DynamoDB"
    endpoint = client.endpoint(service)
    if isinstance(error, EndpointUnreachable):
        raise BackendRefused(
            f"cannot reach {name} at {endpoint} (AWS_REGION, AWS_ENDPOINT_URL): {error}"
        ) from error
    if isinstance(error, UnexpectedAnswer):
        raise BackendRefused(
            f"what answers at {endpoint} is not {name} (AWS_ENDPOINT_URL): {error}"
        ) from error
    if isinstance(error, CredentialsUnusable):
        raise BackendRefused(f"the AWS credentials cannot be used: {error}") from error
    if isinstance(error, AwsRequestFailed):
        if error.code in WRONG_CREDENTIALS:
            raise BackendRefused(f"AWS does not accept the credentials: {error}") from error
        if error.code in EXPIRED:
            raise BackendRefused(f"the AWS credentials have expired: {error}") from error
        if error.code in NO_PERMISSION:
            raise BackendRefused(
                f"no permission (tqe doctor prints the policy needed): {error}"
            ) from error
        raise BackendRefused(str(error)) from error
    if isinstance(error, BackendUnavailable):
        raise error
    raise BackendRefused(str(error)) from error


def redrive_policy(attributes: Mapping[str, str]) -> tuple[str | None, int | None]:
    """The dead-letter queue's ARN and after how many receives a message moves there; None where
    the queue has no redrive policy, or one that cannot be read."""
    try:
        policy = json.loads(attributes.get("RedrivePolicy", ""))
        return str(policy["deadLetterTargetArn"]), int(policy["maxReceiveCount"])
    except (ValueError, KeyError, TypeError):
        return None, None

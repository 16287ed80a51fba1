"""What went wrong, in one line for the operator: which setting, key or permission to mend."""

from __future__ import annotations

from typing import NoReturn

from task_queue_engine.backends.aws.wire.channel import NAMES
from task_queue_engine.backends.aws.wire.client import AwsClient
from task_queue_engine.backends.aws.wire.endpoints import Service, is_aws, setting_behind
from task_queue_engine.backends.aws.wire.error_codes import Meaning, meaning_of
from task_queue_engine.backends.aws.wire.errors import (
    AwsRequestFailed,
    ClockWrong,
    CredentialsExpired,
    CredentialsUnusable,
    EndpointUnreachable,
    UnexpectedAnswer,
)
from task_queue_engine.errors import BackendError, BackendRefused, BackendUnavailable

# "Credential should be scoped to a valid region." (SQS), "... to a valid Region, not 'eu-west-1'."
_WRONG_SCOPE = "Credential should be scoped to"


def not_the_service(client: AwsClient, service: Service) -> BackendRefused:
    endpoint = client.endpoint(service)
    setting = setting_behind(service, endpoint)
    return BackendRefused(f"what answers at {endpoint} is not {NAMES[service]} ({setting})")


def refuse(error: BackendError, client: AwsClient, service: Service) -> NoReturn:
    """Raise what a request's failure at the start means for the operator.

    Raises:
        BackendRefused: saying what to mend.
        BackendUnavailable: where it may pass.
    """
    name = NAMES[service]
    endpoint = client.endpoint(service)
    setting = setting_behind(service, endpoint)
    why = str(error).partition(f" at {endpoint}: ")[2] or str(error)
    known = client.has_answered(service)
    if isinstance(error, EndpointUnreachable):
        said = f"cannot reach {name} at {endpoint} ({setting}): {why}"
        # At an address that is AWS's own, or has answered before, the network is in trouble, and
        # nothing has to be mended.
        if known or (is_aws(endpoint) and not error.misdirected):
            raise BackendUnavailable(said) from error
        raise BackendRefused(said) from error
    if isinstance(error, UnexpectedAnswer) and not known:
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
    means = meaning_of(error.code)
    if means & Meaning.CREDENTIALS_WRONG:
        return f"AWS does not accept {_credentials(client)}: {error}"
    if means & Meaning.ACCESS_DENIED:
        return f"no permission (tqe doctor prints the policy needed): {error}"
    if means & Meaning.OPERATION_UNKNOWN:
        return f"what answers is not {name} ({setting}): {error}"
    return str(error)


def _credentials(client: AwsClient) -> str:
    return f"the credentials {client.credentials_origin}".rstrip()


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

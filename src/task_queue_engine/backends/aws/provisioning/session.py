"""boto3 for the control plane: creating, describing, deleting. Never at run time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import botocore.config
import botocore.exceptions

from task_queue_engine.backends.aws.wire.error_codes import Meaning, meaning_of, present_name
from task_queue_engine.backends.aws.wire.retry import FailureKind, classify
from task_queue_engine.errors import BackendRefused, BackendUnavailable, ConfigurationError


class AdminSession:
    """Clients of the three services, with errors of ours.

    Args:
        region: None takes the profile's.

    Raises:
        ConfigurationError: no region, no such profile, a malformed endpoint.
    """

    def __init__(self, region: str | None = None, **session_options: Any) -> None:
        with botocore_errors_explained():
            session = boto3.Session(region_name=region, **session_options)
            # An operator waits for each: time for a slow network, and for a service that throttles.
            config = botocore.config.Config(
                connect_timeout=5,
                read_timeout=15,
                retries={"mode": "standard", "total_max_attempts": 4},
            )
            # Any: boto3 ships no types.
            self.sqs: Any = session.client("sqs", config=config)
            self.dynamodb: Any = session.client("dynamodb", config=config)

    @property
    def region(self) -> str:
        return str(self.sqs.meta.region_name)

    def endpoint(self, service: str) -> str:
        return str(getattr(self, service).meta.endpoint_url)


@contextmanager
def botocore_errors_explained() -> Iterator[None]:
    """What botocore raises, as one of our errors in one line.

    Raises:
        ConfigurationError, BackendRefused, BackendUnavailable.
    """
    try:
        yield
    except botocore.exceptions.NoRegionError:
        raise ConfigurationError("is not set", variable="AWS_REGION") from None
    except botocore.exceptions.ProfileNotFound as error:
        raise ConfigurationError(str(error), variable="AWS_PROFILE") from None
    except (
        botocore.exceptions.NoCredentialsError,
        botocore.exceptions.PartialCredentialsError,
        botocore.exceptions.CredentialRetrievalError,
    ) as error:
        raise BackendRefused(f"no usable AWS credentials: {error}") from error
    except botocore.exceptions.ClientError as error:
        raise _explained(error) from error
    except (
        botocore.exceptions.ConnectionError,
        botocore.exceptions.HTTPClientError,
        botocore.exceptions.WaiterError,
    ) as error:
        raise BackendUnavailable(str(error)) from error
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise BackendRefused(f"AWS: {error}") from error


def code_of(error: botocore.exceptions.ClientError) -> str:
    """Its bare name; `QueueDoesNotExist`, however the service spells it."""
    code = str(error.response.get("Error", {}).get("Code", "")).rpartition(".")[2]
    return present_name(code)


def _explained(error: botocore.exceptions.ClientError) -> BackendRefused | BackendUnavailable:
    code = code_of(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = str(error.response.get("Error", {}).get("Message", ""))
    said = f"{error.operation_name}: {code}: {message}"
    means = meaning_of(code)
    if means & Meaning.CREDENTIALS_WRONG:
        return BackendRefused(f"AWS does not accept the credentials: {said}")
    if means & (Meaning.CREDENTIALS_EXPIRED | Meaning.SIGNED_TOO_LONG_AGO):
        return BackendRefused(f"the AWS credentials have expired: {said}")
    if means & Meaning.ACCESS_DENIED:
        return BackendRefused(f"no permission: {said}")
    if classify(status, code, message) in (FailureKind.TRANSIENT, FailureKind.THROTTLED):
        return BackendUnavailable(said)
    return BackendRefused(said)

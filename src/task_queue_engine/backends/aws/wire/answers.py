"""What an answer means: the result, or a failure and what it calls for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from task_queue_engine.backends.aws.wire import json_protocol as protocol
from task_queue_engine.backends.aws.wire.connection import Response
from task_queue_engine.backends.aws.wire.errors import (
    AwsRequestFailed,
    ClockWrong,
    CredentialsExpired,
    Throttled,
    UnexpectedAnswer,
)
from task_queue_engine.backends.aws.wire.retry import Kind, classify
from task_queue_engine.errors import BackendError, BackendUnavailable


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that did not succeed."""

    kind: Kind
    error: BackendError
    """To be raised if it is not retried."""
    retry_after: float | None = None
    """Seconds, where the service said so."""
    server_time: float | None = None
    """The service's clock, in seconds since 1970."""


def judge(response: Response, request: str) -> dict[str, Any] | Failure:
    """
    Args:
        request: what was asked of whom, for the error's text.
    """
    status = response.status
    try:
        document = protocol.decode(response)
    except protocol.NotTheProtocol as error:
        # A gateway in front of the service says such things in HTML when it is in trouble.
        kind = BackendUnavailable if status >= 500 or status == 429 else UnexpectedAnswer
        return Failure(
            Kind.THROTTLED if status == 429 else Kind.TRANSIENT,
            kind(f"{request}: {error}"),
            protocol.retry_after(response),
        )
    if 200 <= status < 300:
        return document
    code, message = protocol.error_of(response, document)
    kind_of_failure = classify(status, code, message)
    if not code and kind_of_failure is Kind.FINAL:
        what = f"{request}: HTTP {status} without an error code"
        return Failure(Kind.TRANSIENT, UnexpectedAnswer(what))
    return Failure(
        kind_of_failure,
        _error(kind_of_failure, status, code, message, request, document),
        protocol.retry_after(response),
        protocol.server_time(response),
    )


def _error(
    kind: Kind, status: int, code: str, message: str, request: str, document: dict[str, Any]
) -> BackendError:
    said = f"{request}: {code or f'HTTP {status}'}{': ' if message else ''}{message}"
    if kind is Kind.THROTTLED:
        return Throttled(said)
    if kind is Kind.EXPIRED:
        return CredentialsExpired(said)
    if kind is Kind.CLOCK_SKEW:
        return ClockWrong(said)
    if kind is Kind.TRANSIENT:
        return BackendUnavailable(said)
    return AwsRequestFailed(code, message, status, request=request, answer=document)

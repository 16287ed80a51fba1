"""What an answer means: the result, or a failure and what it calls for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from task_queue_engine.backends.aws.wire import json_protocol
from task_queue_engine.backends.aws.wire.connection import Response
from task_queue_engine.backends.aws.wire.errors import (
    AwsRequestFailed,
    ClockWrong,
    CredentialsExpired,
    Throttled,
    UnexpectedAnswer,
)
from task_queue_engine.backends.aws.wire.retry import FailureKind, classify
from task_queue_engine.errors import BackendError, BackendUnavailable

_ERRORS: dict[FailureKind, type[BackendUnavailable]] = {
    FailureKind.THROTTLED: Throttled,
    FailureKind.EXPIRED: CredentialsExpired,
    FailureKind.CLOCK_SKEW: ClockWrong,
    FailureKind.TRANSIENT: BackendUnavailable,
}


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """What came of an attempt, where that is no answer."""

    kind: FailureKind
    error: BackendError
    """To be raised if it is not retried."""
    retry_after: float | None = None
    """Seconds, where the service said so."""
    server_time: float | None = None
    """The service's clock, in seconds since 1970."""


def judge(response: Response, request: str) -> dict[str, Any] | FailedAttempt:
    """
    Args:
        request: what was asked of whom, for the error's text.
    """
    status = response.status
    try:
        document = json_protocol.decode(response)
    except json_protocol.NotTheProtocol as error:
        # A gateway in front of the service says such things in HTML when it is in trouble.
        error_class = BackendUnavailable if status >= 500 or status == 429 else UnexpectedAnswer
        return FailedAttempt(
            FailureKind.THROTTLED if status == 429 else FailureKind.TRANSIENT,
            error_class(f"{request}: {error}"),
            json_protocol.retry_after(response),
        )
    if 200 <= status < 300:
        return document
    code, message = json_protocol.error_of(response, document)
    kind = classify(status, code, message)
    if not code and kind is FailureKind.FINAL:
        what = f"{request}: HTTP {status} without an error code"
        return FailedAttempt(FailureKind.TRANSIENT, UnexpectedAnswer(what))
    return FailedAttempt(
        kind,
        _error(kind, status, code, message, request, document),
        json_protocol.retry_after(response),
        json_protocol.server_time(response),
    )


def _error(
    kind: FailureKind, status: int, code: str, message: str, request: str, document: dict[str, Any]
) -> BackendError:
    error_class = _ERRORS.get(kind)
    if error_class is None:
        return AwsRequestFailed(code, message, status, request=request, answer=document)
    return error_class(f"{request}: {code or f'HTTP {status}'}{': ' if message else ''}{message}")

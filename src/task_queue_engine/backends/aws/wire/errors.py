"""What an AWS service can answer, as errors of this package."""

from __future__ import annotations

from typing import Any

from task_queue_engine.errors import BackendError, BackendUnavailable


class AwsRequestFailed(BackendError):
    """The service refused the request, and sending it again would not help.

    `code` is the error's bare name ("ConditionalCheckFailedException", "QueueDoesNotExist"),
    `status` the HTTP status, `answer` the whole error document: some errors carry more than a
    message (`CancellationReasons`, `Item`).
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int,
        *,
        request: str = "",
        answer: dict[str, Any] | None = None,
    ) -> None:
        said = f"{code}: {message}" if message else code
        super().__init__(f"{request}: {said}" if request else said)
        self.code = code
        self.message = message
        self.status = status
        self.answer = answer or {}


class EndpointUnreachable(BackendUnavailable):
    """No connection, or one that broke or went silent before the answer was complete.

    `misdirected` where that speaks of a wrong address and not of an outage: no such host, a
    certificate for another name, a proxy that does not let us through.
    """

    def __init__(self, message: str, *, misdirected: bool = False) -> None:
        super().__init__(message)
        self.misdirected = misdirected


class UnexpectedAnswer(BackendUnavailable):
    """The other side does not speak the services' protocol, or what it said arrived damaged.

    In mid-run this passes (a gateway in trouble); at the start it means a wrong endpoint.
    """


class Throttled(BackendUnavailable):
    """The service asked for fewer requests, and the retries are used up."""


class CredentialsUnusable(BackendUnavailable):
    """The credentials have expired or cannot be renewed. Work goes on once they are."""


class CredentialsExpired(CredentialsUnusable):
    """A service says so, and their source has no newer ones."""


class CredentialSourceInTrouble(CredentialsUnusable):
    """The service that gives them (instance metadata, STS) did not answer or failed: this passes,
    and says nothing about the credentials."""


class ClockWrong(BackendUnavailable):
    """The service refuses the time a request was signed for, even where it is its own."""

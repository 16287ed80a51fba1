"""What a fetch may cost and how it ends badly; for those who set it up, and need no httpx yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from task_queue_engine.errors import TaskQueueError
from task_queue_engine.handlers.fetch.address_policy import AddressPolicy


class FetchRefused(TaskQueueError):
    """This fetch will never be made or never succeed: forbidden address, 404, too large, ..."""


class FetchFailed(TaskQueueError):
    """This fetch did not succeed now: timeout, connection trouble, 503, ... Trying again may
    help, after `retry_after` seconds where the server named a time."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """What one fetch may cost. Times are seconds."""

    max_bytes: int
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    connect_timeout: float = 5.0
    read_timeout: float = 10.0
    """The longest silence."""
    total_timeout: float = 60.0
    """From the start to the last byte, over all redirects."""
    max_redirects: int = 5

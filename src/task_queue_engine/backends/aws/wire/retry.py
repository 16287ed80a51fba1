"""Standard retry mode, as AWS's SDKs have it since 2026, and what deserves a retry.

Source: "Retry behavior", AWS SDKs and Tools Reference Guide, and botocore 1.44. The numbers are
pinned here: what the environment says about other SDKs' retries (AWS_RETRY_MODE) does not count.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum, auto

from task_queue_engine.backends.aws.wire.endpoints import Service

MAX_ATTEMPTS: dict[Service, int] = {"sqs": 3, "dynamodb": 4}
"""Sending it the first time included."""

_BASE: dict[Service, float] = {"sqs": 0.05, "dynamodb": 0.025}
_THROTTLED_BASE = 1.0
_CAP = 20.0
_MOST_ADDED = 5.0

_CAPACITY = 500
_COST = 14
_THROTTLED_COST = 5

THROTTLES = frozenset(
    {
        # DynamoDB has two names for it: one for a table's own limits, one for everything else.
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "BandwidthLimitExceeded",
        "KmsThrottled",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
_TRANSIENT = frozenset(
    {
        "InternalFailure",
        "InternalServerError",
        "ReplicatedWriteConflictException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
    }
)
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
_MAYBE_SKEWED = frozenset(
    {"AuthFailure", "InvalidSignatureException", "SignatureDoesNotMatch", "InvalidSignature"}
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_UNKNOWN_IDENTITY = frozenset(
    {
        "AuthFailure",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignature",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
CLEAR_SKEW = 240.0
"""Seconds of difference above which a refused signature is blamed on the clock. AWS allows 5
minutes to either side."""


class Kind(Enum):
    """What an attempt's failure calls for."""

    TRANSIENT = auto()
    THROTTLED = auto()
    CLOCK_SKEW = auto()
    """Sign for the server's time."""
    MAYBE_CLOCK_SKEW = auto()
    """The same if the clocks clearly differ; else as UNKNOWN_IDENTITY."""
    EXPIRED = auto()
    """The credentials were good once: look for new ones."""
    UNKNOWN_IDENTITY = auto()
    """The credentials may have been replaced: look for others."""
    FINAL = auto()


def classify(status: int, code: str, message: str) -> Kind:
    """What to do about an answer that is not a 200."""
    if code in THROTTLES or (status == 429 and not code):
        return Kind.THROTTLED
    if code in _EXPIRED:
        return Kind.EXPIRED
    if code in _SKEWED or (code in _MAYBE_SKEWED and _speaks_of_time(message)):
        return Kind.CLOCK_SKEW
    if code in _MAYBE_SKEWED:
        return Kind.MAYBE_CLOCK_SKEW
    if code in _UNKNOWN_IDENTITY:
        return Kind.UNKNOWN_IDENTITY
    if code in _TRANSIENT or status >= 500 or status == 429:
        return Kind.TRANSIENT
    return Kind.FINAL


def _speaks_of_time(message: str) -> bool:
    return "expired" in message or "not yet current" in message


def backoff(
    service: Service,
    kind: Kind,
    attempt: int,
    rng: random.Random,
    *,
    retry_after: float | None = None,
) -> float:
    """Seconds to wait after the `attempt`-th attempt (1, 2, ...): full jitter below a bound that
    doubles, at least what the service asks for within reason."""
    base = _THROTTLED_BASE if kind is Kind.THROTTLED else _BASE[service]
    delay = rng.random() * min(base * 2.0 ** (attempt - 1), _CAP)
    if retry_after is None:
        return delay
    return max(delay, min(retry_after, delay + _MOST_ADDED))


@dataclass(slots=True)
class RetryQuota:
    """A bucket of tokens that retries are paid from, so that a service in trouble is not given
    more to do by everybody's retries. A success gives back what its last retry cost, or one."""

    capacity: int = _CAPACITY

    def take(self, kind: Kind) -> int | None:
        """The price paid; None when there is not enough left."""
        price = _THROTTLED_COST if kind is Kind.THROTTLED else _COST
        if price > self.capacity:
            return None
        self.capacity -= price
        return price

    def give_back(self, price: int | None) -> None:
        self.capacity = min(_CAPACITY, self.capacity + (1 if price is None else price))

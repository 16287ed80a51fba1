"""Standard retry mode, as AWS's SDKs have it since 2026, and what deserves a retry.

Source: "Retry behavior", AWS SDKs and Tools Reference Guide, and botocore 1.44. The numbers are
pinned here: what the environment says about other SDKs' retries (AWS_RETRY_MODE) does not count.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum, auto

from task_queue_engine.backends.aws.wire.endpoints import Service
from task_queue_engine.backends.aws.wire.error_codes import Meaning, meaning_of

MAX_ATTEMPTS: dict[Service, int] = {"sqs": 3, "dynamodb": 4}
"""The first one included."""

# Seconds: the bounds of the first wait.
_BASE: dict[Service, float] = {"sqs": 0.05, "dynamodb": 0.025}
_THROTTLED_BASE = 1.0
# Seconds: the longest wait.
_CAP = 20.0
# Seconds that what the service asks for may add to a wait.
_MOST_ADDED = 5.0

# Tokens of a full bucket, and what a retry takes from it.
_CAPACITY = 500
_COST = 14
_THROTTLED_COST = 5

CLEAR_SKEW = 240.0
"""Seconds of difference above which a refused signature is blamed on the clock. AWS allows 5
minutes to either side."""


class FailureKind(Enum):
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


def classify(status: int, code: str, message: str) -> FailureKind:
    """What to do about an answer that is not a 200."""
    means = meaning_of(code)
    if means & Meaning.THROTTLED or (status == 429 and not code):
        return FailureKind.THROTTLED
    if means & Meaning.CREDENTIALS_EXPIRED:
        return FailureKind.EXPIRED
    if means & Meaning.CLOCK_REFUSED:
        return FailureKind.CLOCK_SKEW
    if means & Meaning.SIGNATURE_REFUSED:
        timed = _speaks_of_time(message)
        return FailureKind.CLOCK_SKEW if timed else FailureKind.MAYBE_CLOCK_SKEW
    if means & Meaning.IDENTITY_UNKNOWN:
        return FailureKind.UNKNOWN_IDENTITY
    if means & Meaning.TRANSIENT or status >= 500 or status == 429:
        return FailureKind.TRANSIENT
    return FailureKind.FINAL


def _speaks_of_time(message: str) -> bool:
    return "expired" in message or "not yet current" in message


def backoff(
    service: Service,
    kind: FailureKind,
    attempt: int,
    rng: random.Random,
    *,
    retry_after: float | None = None,
) -> float:
    """Seconds to wait after the `attempt`-th attempt (1, 2, ...): full jitter below a bound that
    doubles, at least what the service asks for within reason."""
    base = _THROTTLED_BASE if kind is FailureKind.THROTTLED else _BASE[service]
    delay = rng.random() * min(base * 2.0 ** (attempt - 1), _CAP)
    if retry_after is None:
        return delay
    return max(delay, min(retry_after, delay + _MOST_ADDED))


@dataclass(slots=True)
class RetryQuota:
    """A bucket of tokens that retries are paid from, so that retries do not add to the load of
    a service in trouble. A success gives back what its last retry cost, or one."""

    capacity: int = _CAPACITY

    def take(self, kind: FailureKind) -> int | None:
        """The price paid; None when there is not enough left."""
        price = _THROTTLED_COST if kind is FailureKind.THROTTLED else _COST
        if price > self.capacity:
            return None
        self.capacity -= price
        return price

    def give_back(self, price: int | None) -> None:
        self.capacity = min(_CAPACITY, self.capacity + (1 if price is None else price))

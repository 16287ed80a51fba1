"""What a queue and a store answer for each item of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from task_queue_engine.task import Task


@dataclass(frozen=True, slots=True)
class Done:
    """The item was carried out."""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The receipt is stale: another receiver holds the message by now, or it is gone."""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """This item failed for a passing reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """This item can never succeed (too large, malformed)."""

    reason: str


QueueVerdict = Done | LeaseLost | TryAgain | Rejected


@dataclass(frozen=True, slots=True)
class Created:
    """The row is durable."""


@dataclass(frozen=True, slots=True)
class AlreadyExists:
    """A task with this id was there before: an idempotency key used twice, or the caller's own
    write whose answer was lost. The row is unchanged."""

    task: Task


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The item is over the backend's limit, in bytes; not stored."""

    size: int
    limit: int


CreateVerdict = Created | AlreadyExists | TooLarge | TryAgain

"""Retry policy, pure: (task, error, now) -> what happens next.

A handler steers it by raising `Retry`, `Snooze` or `Discard`; any other exception follows the
type's `Backoff`. The waiting follows "exponential backoff and full jitter"
(AWS Architecture Blog, 2015): a uniform draw between 0 and the growing cap.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from task_queue_engine.foreign import shown
from task_queue_engine.task import Task

Seconds = float | timedelta

MAX_SECONDS = 100 * 365 * 24 * 3600.0
"""A hundred years: beyond any use, and well inside what a datetime can hold."""


def to_seconds(value: Seconds, *, name: str) -> float:
    """Seconds as a float. Raises ValueError, naming `name`, for what is no number of seconds and
    outside 0 to MAX_SECONDS."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    # Compared before it is converted: an integer may be too large for a float.
    if not _is_number(seconds) or not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"{name} must be 0 to {MAX_SECONDS:.0f} seconds, not {shown(value)}")
    return float(seconds)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Retry(Exception):
    """Raised by a handler: this attempt failed, try again after `delay` seconds (None: by the
    type's backoff). Counts as an attempt; past `max_attempts` the task fails."""

    def __init__(self, delay: Seconds | None = None, reason: str = "") -> None:
        super().__init__(reason or "the handler asked for a retry")
        self.delay = None if delay is None else to_seconds(delay, name="Retry.delay")


class Snooze(Exception):
    """Raised by a handler: not now, come back after `delay` seconds. Costs no attempt."""

    def __init__(self, delay: Seconds, reason: str = "") -> None:
        super().__init__(reason or "the handler snoozed")
        self.delay = to_seconds(delay, name="Snooze.delay")


class Discard(Exception):
    """Raised by a handler: no retry will ever help. The task fails now, whatever is left of its
    attempts."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the handler discarded the task")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits between attempts, in seconds: after the n-th failure a uniform draw from
    0 to min(cap, base * factor**(n-1)); with `jitter=False` that bound itself."""

    base: float = 1.0
    factor: float = 2.0
    cap: float = 300.0
    jitter: bool = True

    def __post_init__(self) -> None:
        # Written so that NaN is refused too: a wait no calendar can hold would surface in a worker.
        in_range = (
            all(map(_is_number, (self.base, self.factor, self.cap)))
            and 0 <= self.base <= MAX_SECONDS
            and 0 <= self.cap <= MAX_SECONDS
            and 1 <= self.factor <= sys.float_info.max
        )
        if not in_range or not isinstance(self.jitter, bool):
            raise ValueError(
                f"Backoff needs base and cap of 0 to {MAX_SECONDS:.0f} seconds, a finite factor of "
                f"at least 1 and a jitter of True or False, not {shown(self)}"
            )

    def delay(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after the `failures`-th failed attempt (1, 2, ...)."""
        try:
            bound = min(self.cap, self.base * float(self.factor) ** (failures - 1))
        except OverflowError:
            bound = self.cap if self.base else 0.0
        return rng.uniform(0, bound) if self.jitter else bound


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Another attempt follows, not before `run_at`: `delay` seconds from now."""

    run_at: datetime
    delay: float


@dataclass(frozen=True, slots=True)
class SnoozeUntil:
    """The same attempt again, at no cost, `delay` seconds from now."""

    run_at: datetime
    delay: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The task is FAILED."""

    reason: str
    """For the dead letter: why there is no further attempt."""


Decision = RetryAt | SnoozeUntil | GiveUp

ErrorRules = Mapping[type[BaseException], Backoff | None]


def decide(
    task: Task,
    error: BaseException,
    now: datetime,
    *,
    backoff: Backoff,
    rules: ErrorRules,
    rng: random.Random,
) -> Decision:
    """What follows an attempt that raised `error`.

    `rules` gives exception types a backoff of their own, None meaning: never retry. The most
    specific class in the error's MRO wins.
    """
    if isinstance(error, Snooze):
        return SnoozeUntil(now + timedelta(seconds=error.delay), error.delay)
    if isinstance(error, Discard):
        return GiveUp("discarded by its handler")

    chosen: Backoff | None = backoff
    for cls in type(error).__mro__:
        if cls is Exception and isinstance(error, Retry):
            break  # a rule for whatever goes wrong does not overrule what the handler asks for
        if cls in rules:
            chosen = rules[cls]
            break
    if chosen is None:
        return GiveUp(f"{type(error).__name__} is not retried")

    failures = task.retry_count + 1
    if failures >= task.max_attempts:
        return GiveUp(f"attempts exhausted ({failures} of {task.max_attempts})")
    if isinstance(error, Retry) and error.delay is not None:
        delay = error.delay
    else:
        delay = chosen.delay(failures, rng)
    return RetryAt(now + timedelta(seconds=delay), delay)

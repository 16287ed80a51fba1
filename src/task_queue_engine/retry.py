"""Retry policy, pure: (task, error, now) -> what happens next.

A handler steers it by raising `Retry`, `Snooze` or `Discard`; any other exception follows the
type's `Backoff`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from task_queue_engine.errors import ResultNotStorable, WrongAsyncLibrary, lacks_resources
from task_queue_engine.foreign import shown
from task_queue_engine.task import Task

Seconds = float | timedelta

# Of a wait. Enough that what failed together does not come back together; a draw from zero on would
# let all waits of a task be over before the trouble is.
_JITTER = 0.25

MAX_SECONDS = 100 * 365 * 24 * 3600.0
"""A hundred years: beyond any use, and well inside what a datetime can hold."""


# Seconds, about: a few handlers of common length have ended by then and given back what they held.
_UNTIL_RESOURCES = 5.0


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
    """Waits between attempts, in seconds: after the n-th failure min(cap, base * factor**(n-1)),
    less up to a quarter of that at random; with `jitter=False` exactly that.

    A type that is given none has `DEFAULT_BACKOFF`.
    """

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
        return rng.uniform(1 - _JITTER, 1) * bound if self.jitter else bound


DEFAULT_BACKOFF = Backoff(base=20.0, factor=40.0, cap=3600.0)
"""Of types that say nothing. With the default of three attempts the last one comes at least ten
minutes after the first (three quarters of 20 + 800 s): past a restart, a failover or a deploy of
what the handler calls. The first wait is short, for what passes at once; neither is longer than SQS
holds a message back (15 minutes). From the third on there is one attempt an hour: with 35 a day is
ridden out. See docs/adr/0027-waits-that-ride-out-ten-minutes.md."""


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

_CANNOT_SUCCEED = (ResultNotStorable, WrongAsyncLibrary)
"""Another attempt would only repeat the side effects. A rule that names the class overrules it."""


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
    specific class in the error's MRO wins. Where the process has no file descriptors, threads or
    processes left the attempt costs nothing, whatever the rules say.
    """
    if isinstance(error, Snooze):
        delay = to_seconds(error.delay, name="Snooze.delay")
        return SnoozeUntil(now + timedelta(seconds=delay), delay)
    if isinstance(error, Discard):
        return GiveUp("discarded by its handler")
    if isinstance(error, _CANNOT_SUCCEED) and type(error) not in rules:
        return GiveUp(f"no attempt can succeed: {type(error).__name__}")
    if lacks_resources(error):
        # The process is in trouble, not the task.
        delay = rng.uniform(0.5, 1.5) * _UNTIL_RESOURCES
        return SnoozeUntil(now + timedelta(seconds=delay), delay)

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
        delay = to_seconds(error.delay, name="Retry.delay")
    else:
        # A team's own Backoff may say anything.
        delay = to_seconds(chosen.delay(failures, rng), name="Backoff.delay")
    return RetryAt(now + timedelta(seconds=delay), delay)

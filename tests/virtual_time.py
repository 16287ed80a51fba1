"""Tests on virtual time: what waits for hours is over at once, what waits for ever fails."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

import trio
from trio.testing import MockClock

from task_queue_engine.execution import checks

T = TypeVar("T")

_VIRTUAL_YEARS = 3 * 365 * 24 * 3600.0
_REAL_SECONDS = 60
# Seconds; for as long the loop leaves the interpreter to a thread that works.
_LOOK_AGAIN = 0.001


def run_on_virtual_time(
    function: Callable[..., Awaitable[T]],
    *args: Any,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """`trio.run` on a clock that jumps over every wait, with two guards: a deadlock fails after
    virtual years, a loop that never waits after a minute of real time."""

    clock = clock or MockClock(autojump_threshold=0)

    async def bounded() -> T:
        _hold_while_threads_work(clock)
        with trio.fail_after(_VIRTUAL_YEARS):
            return await function(*args)

    with _real_time_limit(), _no_check_is_slow():
        return trio.run(bounded, clock=clock, instruments=instruments)


def _hold_while_threads_work(clock: trio.abc.Clock) -> None:
    """What the engine hands to trio's own threads (a page to make, a file to read) takes no virtual
    time: the clock would jump from one timer to the next for as long as it takes, for hours on a
    busy machine. Handlers and payload checks have threads of their own, and may hang in them."""
    threads = trio.to_thread.current_default_thread_limiter()
    jump: Callable[[], None] = clock._autojump  # type: ignore[attr-defined]

    def jump_or_wait() -> None:
        if threads.borrowed_tokens:
            time.sleep(_LOOK_AGAIN)
        else:
            jump()

    clock._autojump = jump_or_wait  # type: ignore[attr-defined]


@contextmanager
def _no_check_is_slow() -> Iterator[None]:
    """How long payload checks take is measured in real time. On a busy machine a quick one would be
    given to a thread, and the clock would jump over all that the engine allows it."""
    with mock.patch.multiple(checks, SLOW=math.inf, WAITED=math.inf):
        yield


@contextmanager
def _real_time_limit() -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise AssertionError(f"still busy after {_REAL_SECONDS} s of real time")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_REAL_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

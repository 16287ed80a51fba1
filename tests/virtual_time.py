"""Tests on virtual time: what waits for hours is over at once, what waits for ever fails."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
from trio.testing import MockClock

T = TypeVar("T")

_VIRTUAL_YEARS = 3 * 365 * 24 * 3600.0
_REAL_SECONDS = 60


def run_on_virtual_time(
    function: Callable[..., Awaitable[T]],
    *args: Any,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """`trio.run` on a clock that jumps over every wait, with two guards: a deadlock fails after
    virtual years, a loop that never waits after a minute of real time."""

    async def bounded() -> T:
        with trio.fail_after(_VIRTUAL_YEARS):
            return await function(*args)

    with _real_time_limit():
        return trio.run(
            bounded, clock=clock or MockClock(autojump_threshold=0), instruments=instruments
        )


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

"""Wall clocks, so that no other module asks the machine for the time of day.

Durations and deadlines inside the engine run on `trio.current_time()`. A `Clock` only says what
goes into rows and messages: `created_at`, `run_at`, when a message becomes visible again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The time of day, timezone-aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class TrioClock:
    """Follows trio's clock from a fixed epoch: with pytest-trio's `autojump_clock`, time of day
    and timers jump together.
    """

    def __init__(self, epoch: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._epoch = epoch
        self._start: float | None = None

    def now(self) -> datetime:
        # Only here: worker processes take the time of day too, and have no trio.
        import trio

        if self._start is None:
            self._start = trio.current_time()
        return self._epoch + timedelta(seconds=trio.current_time() - self._start)


class ManualClock:
    """Stands still until told to `advance`; for tests that step through time by hand."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)

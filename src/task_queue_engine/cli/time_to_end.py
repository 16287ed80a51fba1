"""How long a shutdown takes at most, and who ends a process that takes longer: its watchdog first,
which can say most, then its guard, then the process that supervises it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from task_queue_engine.config import Settings

# Seconds for answers that are under way when the server is to stop; no more than handlers get.
_HTTP_GRACE = 5.0
# Seconds of the watchdog beyond all deadlines: what they bound takes a moment to unwind.
_MARGIN = 3.0
# Seconds more on AWS: a write that is under way at the hard deadline is carried to its end, at most
# 8 (`backends/aws/dynamodb/store.py`), and the counters' last flush is given 2.
_LAST_WRITES = 10.0
# Seconds of each beyond the one before, whose last words take up to one.
_AFTER_THE_LAST = 3.0


@dataclass(frozen=True, slots=True)
class TimeToEnd:
    """Seconds, from the first signal and from the second one, until the process is to be gone."""

    timeout: float
    hurried: float

    @classmethod
    def of_watchdog(cls, settings: Settings, *, http: bool) -> Self:
        hard_deadline = settings.shutdown_grace + settings.shutdown_flush
        if http:
            hard_deadline += http_grace(settings)
        margin = _MARGIN + (_LAST_WRITES if settings.uses_aws else 0)
        return cls(hard_deadline + margin, settings.shutdown_flush + margin)

    def then(self) -> Self:
        """Of the next one, for where this one could not end it."""
        return type(self)(self.timeout + _AFTER_THE_LAST, self.hurried + _AFTER_THE_LAST)


def http_grace(settings: Settings) -> float:
    return min(_HTTP_GRACE, settings.shutdown_grace)

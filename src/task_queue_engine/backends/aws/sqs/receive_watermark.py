"""How far the queue has been read: what was sent long before the messages that now arrive has been
received, or is lost.

SQS cannot be asked whether a message exists. Yet it hands messages out roughly in the order they
were sent, so a task that is still PENDING while messages sent much later arrive has lost its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import trio

from task_queue_engine.backends.aws.sqs import message_format

WINDOW: Final = 60.0
"""Seconds: the oldest message of about the last minute counts."""
SLACK: Final = timedelta(seconds=900 + 120)
"""The longest delay of a message, and 2 minutes for clocks and for the order being rough."""


class ReceiveWatermark:
    """Told of every receive; answers with the time before which no message is left."""

    def __init__(self) -> None:
        self._began = -2 * WINDOW
        self._oldest: datetime | None = None
        self._oldest_before: datetime | None = None

    def note(self, received: Iterable[Mapping[str, Any]]) -> None:
        """A message that was received before was late for a reason of its own."""
        oldest = message_format.first_sent(received)
        if oldest is not None:
            self._add(oldest)

    def note_empty(self, now: datetime) -> None:
        """A long poll has found nothing: all that was sent has been received."""
        self._add(now)

    def reached(self) -> datetime | None:
        """None: nothing was received lately, so nothing can be said."""
        self._rotate()
        known = [at for at in (self._oldest, self._oldest_before) if at is not None]
        return min(known) - SLACK if known else None

    def _add(self, at: datetime) -> None:
        self._rotate()
        self._oldest = at if self._oldest is None else min(self._oldest, at)

    def _rotate(self) -> None:
        now = trio.current_time()
        if now < self._began + WINDOW:
            return
        recent = now < self._began + 2 * WINDOW
        self._oldest_before, self._oldest = (self._oldest if recent else None), None
        self._began = now

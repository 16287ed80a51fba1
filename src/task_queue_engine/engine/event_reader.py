"""One who watches: what is to be shown waits here, and never holds anything up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import trio

from task_queue_engine.task_events import GapEvent, LogEvent, OfTask, ProgressEvent

# What waits for one that is slow: a moment of two thousand events a second.
_MOST = 1000
_MOST_BYTES = 2**20


class Entry(NamedTuple):
    number: int
    event: OfTask | GapEvent
    size: int
    """Bytes, roughly."""


class Reader:
    """
    Args:
        task_id: of the one task that it is about; None: all tasks.
        wants: of these, which.
    """

    def __init__(self, task_id: str | None, wants: Callable[[OfTask], bool]) -> None:
        self.task_id = task_id
        self.is_closed = False
        self._wants = wants
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._missed = 0
        self._something_is_there = trio.Event()

    def is_about(self, event: OfTask | GapEvent) -> bool:
        return self.task_id is None or isinstance(event, GapEvent) or event.task_id == self.task_id

    def offer(self, entry: Entry) -> None:
        event = entry.event
        if not isinstance(event, GapEvent) and not self._wants(event):
            return
        if len(self._entries) >= _MOST or self._bytes + entry.size > _MOST_BYTES:
            # The latest are worth more than the oldest.
            self._missed += len(self._entries)
            self._entries.clear()
            self._bytes = 0
        self._entries.append(entry)
        self._bytes += entry.size
        self._something_is_there.set()

    async def wait(self) -> None:
        """Until something is there, or it was woken."""
        await self._something_is_there.wait()

    def wake(self) -> None:
        self._something_is_there.set()

    def close(self) -> None:
        self.is_closed = True
        self.wake()

    def take(self) -> list[Entry]:
        """What has come; in front of it a gap where it was too much."""
        self._something_is_there = trio.Event()
        entries = list(self._entries)
        self._entries.clear()
        self._bytes = 0
        if self._missed:
            missed, self._missed = self._missed, 0
            before = entries[0].number - 1 if entries else 0
            gap = GapEvent(reason="the reader was too slow", missed=missed)
            entries.insert(0, Entry(before, gap, 0))
        return entries


def size_of(event: OfTask) -> int:
    """Bytes, roughly."""
    if isinstance(event, LogEvent):
        return 300 + len(event.line.message)
    if isinstance(event, ProgressEvent):
        return 300 + len(msgspec.json.encode(event.progress))
    return 300

"""Batches: from a channel whatever has come together, of a sequence what fits into a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


def in_batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in their order, at most `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Batcher(Generic[T]):
    """Flushes on size, on time or at the end of the stream, and counts which.

    With `linger` 0 a batch is the first item plus all that wait behind it at that moment: while
    one batch is being written the next one gathers, so batches grow with the load by themselves.
    """

    def __init__(self, items: trio.MemoryReceiveChannel[T], *, size: int, linger: float) -> None:
        self._items = items
        self._size = size
        self._linger = linger
        self.flushes: Counter[str] = Counter()

    async def next(self) -> list[T]:
        """The next batch: 1 to `size` items; empty at the end of the stream."""
        try:
            batch = [await self._items.receive()]
        except trio.EndOfChannel:
            return []
        self._take_waiting(batch)
        if self._linger and len(batch) < self._size:
            with trio.move_on_after(self._linger):
                try:
                    while len(batch) < self._size:
                        batch.append(await self._items.receive())
                        self._take_waiting(batch)
                except trio.EndOfChannel:
                    self.flushes["end"] += 1
                    return batch
        self.flushes["size" if len(batch) >= self._size else "time"] += 1
        return batch

    def _take_waiting(self, batch: list[T]) -> None:
        try:
            while len(batch) < self._size:
                batch.append(self._items.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return

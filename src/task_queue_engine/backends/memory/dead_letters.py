"""Dead letters in the order of their arrival."""

from __future__ import annotations

import math
from collections.abc import Sequence

from task_queue_engine.backends.base import (
    DeadLetter,
    DeadLetterPage,
    Done,
    LeaseLost,
    QueueVerdict,
)
from task_queue_engine.backends.cursors import Int64, check_limit, decode_cursor, encode_cursor
from task_queue_engine.backends.memory.state import MemoryState
from task_queue_engine.lifecycle import BrokerDeadLetter


class MemoryDeadLetters:
    """The dead letters of one queue, oldest first."""

    def __init__(self, queue: str, state: MemoryState) -> None:
        self._state = state
        self._queue = state.queue(queue)

    async def page(self, *, limit: int, cursor: str | None = None) -> DeadLetterPage:
        def page() -> DeadLetterPage:
            check_limit(limit)
            below = math.inf
            if cursor is not None:
                (below,) = decode_cursor(cursor, "dead", tuple[Int64])
            found = [
                each for each in reversed(self._queue.dead_letters.values()) if int(each.id) < below
            ]
            return DeadLetterPage(
                dead_letters=tuple(found[:limit]),
                next_cursor=encode_cursor("dead", (int(found[limit - 1].id),))
                if len(found) > limit
                else None,
            )

        return await self._state.call("dead_letters.page", page)

    async def take(self, *, limit: int, ids: Sequence[str] | None = None) -> list[DeadLetter]:
        def take() -> list[DeadLetter]:
            wanted = None if ids is None else set(ids)
            found = [
                each
                for each in self._queue.dead_letters.values()
                if wanted is None or each.id in wanted
            ]
            return found[:limit]

        return await self._state.call("dead_letters.take", take)

    async def delete(self, dead_letters: Sequence[DeadLetter]) -> list[QueueVerdict]:
        def remove(dead_letter: DeadLetter) -> QueueVerdict:
            self._queue.moved_by_broker.pop(dead_letter.id, None)
            was_there = self._queue.dead_letters.pop(dead_letter.id, None) is not None
            return Done() if was_there else LeaseLost()

        return await self._state.write(self._queue, "dead_letters.delete", dead_letters, remove)

    async def purge(self) -> int:
        def purge() -> int:
            count = len(self._queue.dead_letters)
            self._queue.dead_letters.clear()
            self._queue.moved_by_broker.clear()
            return count

        return await self._state.call("dead_letters.purge", purge)

    async def moved_by_broker(self) -> list[BrokerDeadLetter]:
        return await self._state.call(
            "dead_letters.moved_by_broker", lambda: list(self._queue.moved_by_broker.values())
        )

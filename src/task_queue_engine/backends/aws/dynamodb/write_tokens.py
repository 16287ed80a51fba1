"""Recognising one's own write after its answer was lost.

Every write leaves a token in the row. Where a call got no answer, its tokens are remembered; when
the caller repeats the call, the same request gets the same token, and a row that carries it was
written by the first try. The caller of `claim` could do without, since it recognises its own
attempts by itself; the counters could not: a write is counted by the call that hears of it.
Retries of one HTTP request need no memory: they carry the same token anyway.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count

from task_queue_engine.task import TaskStatus

StatusChange = tuple[TaskStatus | None, TaskStatus | None]
"""From and to, as the counters see it; None: not in the table, or not counted."""


@dataclass(slots=True)
class WriteToken:
    text: str
    written: StatusChange | None = None
    """What an earlier, unanswered try was about to write."""
    counted: bool = False
    """That try is known to have been applied, and is in the counters."""


class WriteTokens:
    """
    Args:
        capacity: tokens remembered at most; the oldest are forgotten then. A forgotten one costs a
            wrong count until the next repair, and an answer that the call came too late; never a
            task.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        # 48 bits for this process, a number for each write.
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)
        self._unanswered: OrderedDict[Hashable, WriteToken] = OrderedDict()

    def take(self, request_key: Hashable) -> WriteToken:
        """A fresh token, or that of the unanswered try of this request. The latter is given out
        once, so that a duplicate does not find its twin's write to be its own.

        Args:
            request_key: equal for a repetition of the same call.
        """
        return self._unanswered.pop(request_key, None) or WriteToken(self._fresh())

    def _fresh(self) -> str:
        return f"{self._prefix}{next(self._numbers):x}"

    def remember(self, request_key: Hashable, token: WriteToken) -> None:
        """The call that used it has not been answered."""
        self._unanswered[request_key] = token
        self._unanswered.move_to_end(request_key)
        while len(self._unanswered) > self._capacity:
            self._unanswered.popitem(last=False)

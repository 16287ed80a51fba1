"""Recognising one's own write after its answer was lost.

Every write leaves a token in the row. Where a call got no answer, its tokens are remembered; when
the caller repeats the call, the same request gets the same token, and a row that carries it was
written by the first try. The caller of `claim` could do without, since it recognises its own
attempts by itself; the counters could not: a write is counted by the call that hears of it.
Retries of one HTTP request need no memory: they carry the same token anyway.

A token names its process and numbers its writes, so a row says who wrote it last and, beside the
numbers up to which that process had counted, whether that write is in the counters: see
`crash_recovery`.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from itertools import count

import msgspec

from task_queue_engine.task import TaskStatus

StatusChange = tuple[TaskStatus | None, TaskStatus | None]
"""From and to, as the counters see it; None: not in the table, or not counted."""


# Characters of a process's name: 48 bits in hexadecimal.
_PROCESS = 12


def new_process() -> str:
    """A name for this process, in its tokens and in the counters."""
    return secrets.token_hex(_PROCESS // 2)


def read_token(text: str) -> tuple[str, int]:
    """Process and number of a token; a number of 0 where it is none of these."""
    try:
        return text[:_PROCESS], int(text[_PROCESS:], 16)
    except ValueError:
        return text, 0


class WriteToken(msgspec.Struct):
    text: str
    number: int = 0
    """Of this process's tokens."""
    written: StatusChange | None = None
    """What an earlier, unanswered try was about to write."""
    counted: bool = False
    """That try is known to have been applied, and is in the counters."""


class WriteTokens:
    """
    Args:
        process: of `new_process`.
        capacity: tokens remembered at most; the oldest are forgotten then. A forgotten one costs a
            wrong count until the next repair, and an answer that the call came too late; never a
            task.
    """

    def __init__(self, process: str, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._process = process
        self._numbers = count(1)
        self._last = 0
        self._in_use: set[int] = set()
        self._settled = 0
        self._unanswered: OrderedDict[Hashable, WriteToken] = OrderedDict()

    def take(self, request_key: Hashable) -> WriteToken:
        """A fresh token, or that of the unanswered try of this request. The latter is given out
        once, so that a duplicate does not find its twin's write to be its own.

        Args:
            request_key: equal for a repetition of the same call.
        """
        token = None
        if self._unanswered:  # mostly there are none, and a key takes long to hash
            token = self._unanswered.pop(request_key, None)
        if token is None:
            token = self._fresh()
        self._in_use.add(token.number)
        return token

    def _fresh(self) -> WriteToken:
        self._last = next(self._numbers)
        return WriteToken(f"{self._process}{self._last:x}", self._last)

    def release(self, tokens: Iterable[WriteToken]) -> None:
        """The calls that used them are over: what they have written is counted."""
        self._in_use.difference_update([token.number for token in tokens])

    def settled(self) -> int:
        """The number up to which no token is in use. It never goes back."""
        lowest = min(self._in_use, default=self._last + 1)
        self._settled = max(self._settled, lowest - 1)
        return self._settled

    def remember(self, request_key: Hashable, token: WriteToken) -> None:
        """The call that used it has not been answered."""
        self._unanswered[request_key] = token
        self._unanswered.move_to_end(request_key)
        while len(self._unanswered) > self._capacity:
            self._unanswered.popitem(last=False)

"""Recognising one's own write after its answer was lost.

Every write leaves a token in the row. Where a call got no answer, its tokens are remembered; when
the caller repeats the call, the same question gets the same token, and a row that carries it was
written by the first try. Retries of one request by the client need no memory: they carry the same
token anyway.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count

from task_queue_engine.task import TaskStatus

Transition = tuple[TaskStatus | None, TaskStatus | None]
"""From and to, as the counters see it; None: not in the table, or not counted."""


@dataclass(slots=True)
class Token:
    text: str
    written: Transition | None = None
    """What an earlier, unanswered try was about to write."""
    counted: bool = False
    """That try is known to have been applied, and is in the counters."""


class Tokens:
    """
    Args:
        capacity: tokens remembered at most; the oldest are forgotten then. A forgotten one costs
            an attempt (its row looks like a duplicate until the lease runs out), never a task.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        # 48 bits for this process, a number for each write.
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)
        self._unanswered: OrderedDict[Hashable, Token] = OrderedDict()

    def take(self, question: Hashable) -> Token:
        """A fresh token, or the one of this question's unanswered try: that one goes to one
        caller only, so that a duplicate does not find its twin's write to be its own."""
        return self._unanswered.pop(question, None) or Token(self.fresh())

    def fresh(self) -> str:
        return f"{self._prefix}{next(self._numbers):x}"

    def remember(self, question: Hashable, token: Token) -> None:
        self._unanswered[question] = token
        self._unanswered.move_to_end(question)
        while len(self._unanswered) > self._capacity:
            self._unanswered.popitem(last=False)

"""Checks of payloads, kept from holding the event loop.

A check is code of an annotation: it may take a microsecond or seconds, and its payload comes from
the submitter. Small payloads of types that are known to be quick are checked at once; all else in a
thread, where the interpreter lets the loop have its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec
import trio

from task_queue_engine.errors import InvalidTask
from task_queue_engine.registry import TaskDefinition

T = TypeVar("T")

LARGE = 4096
"""Characters and members of a payload that is checked in a thread. A hundred
mail addresses, a tenth of a millisecond each, are as many."""

SLOW = 0.002
"""Seconds of CPU. A type whose last two checks took longer has the next one in a thread; one
alone may have been the garbage collector's time."""

# More would only take the interpreter from the loop; with one, a check that waits for something
# would hold up those of all other types.
_THREADS = 2

# What a member counts for beside its text: the least it can cost to check one, in characters.
_MEMBER = 8


class PayloadChecks:
    """One for each engine, so that its threads are limited."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_THREADS)
        self._took: dict[str, tuple[float, float]] = {}

    async def call(self, definition: TaskDefinition, payload: object, check: Callable[[], T]) -> T:
        """`check()`, which checks a payload of this type; raises what it raises. A checkpoint only
        where it goes to a thread, which is left behind when the caller is cancelled."""
        timed = partial(self._timed, definition.name, check)
        is_slow = min(self._took.get(definition.name, (0.0, 0.0))) > SLOW
        if not is_slow and not is_large(payload):
            return timed()
        return await trio.to_thread.run_sync(
            _uninterrupted, timed, abandon_on_cancel=True, limiter=self._limiter
        )

    async def convert(self, definition: TaskDefinition, payload: object) -> Any:
        """The payload as its handler wants it. Raises InvalidTask."""
        return await self.call(definition, payload, partial(definition.convert_payload, payload))

    def _timed(self, name: str, check: Callable[[], T]) -> T:
        start = time.thread_time()
        try:
            return check()
        finally:
            _, before = self._took.get(name, (0.0, 0.0))
            self._took[name] = before, time.thread_time() - start


def is_large(payload: object) -> bool:
    """Whether this JSON has more than LARGE characters and members; takes some microseconds."""
    left, stack = LARGE, [payload]
    while stack and left > 0:
        item = stack.pop()
        left -= _MEMBER
        # By their exact types: the methods of others are foreign code; JSON has no others.
        if type(item) is str:
            left -= len(item)
        elif type(item) is msgspec.Raw:
            left -= len(bytes(item))
        elif type(item) is dict or type(item) is list:
            left -= _MEMBER * len(item)
            if left > 0:
                stack.extend(item)
                stack.extend(item.values() if type(item) is dict else ())
    return left <= 0


def _uninterrupted(check: Callable[[], T]) -> T:
    """In a thread a KeyboardInterrupt is the check's own, no Ctrl-C."""
    try:
        return check()
    except KeyboardInterrupt:
        raise InvalidTask("its own check raised KeyboardInterrupt", field="payload") from None

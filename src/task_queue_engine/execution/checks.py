"""Checks of payloads, kept from holding the event loop.

A check is code of an annotation: it may take a microsecond or seconds, and its payload comes from
the submitter. Small payloads of types that are known to be quick are checked at once; all else in a
thread, where the interpreter lets the loop have its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import msgspec
import trio

from task_queue_engine.errors import InvalidTask
from task_queue_engine.registry import TaskDefinition

T = TypeVar("T")

LARGE = 4096
"""Characters and members of a payload that is checked in a thread. A hundred and sixty short mail
addresses, a tenth of a millisecond each, are as many."""

SLOW = 0.002
"""Seconds of CPU. A type whose last two checks took longer has the next one in a thread; one
alone may have been the garbage collector's time."""

WAITED = 0.02
"""Seconds, for a check that waits (for a name server, for a lock) and takes no CPU: longer than
the turns of a few other threads, in which a quick one has to wait as well."""

# For each type: more would only take the interpreter from the loop. Not for all types together,
# since checks that wait for something would hold up those of all others.
_THREADS = 2

# Of each type, threads that were left behind and do not count: one payload whose check hangs must
# not keep others of its type from theirs. With more of them, which may be busy after all, the loop
# would wait for its turn over 50 ms (5 ms a thread).
_LEFT_BEHIND = 8

# What a value counts for beside its text, and once more where it is a member of another: the least
# it can cost to check one, in characters.
_MEMBER = 8


class PayloadChecks:
    """One for each engine: for submissions, before a claim and in attempts."""

    def __init__(self) -> None:
        self._limiters: dict[str, trio.CapacityLimiter] = {}
        # By type, whether the last two checks were slow.
        self._slow: dict[str, tuple[bool, bool]] = {}

    def is_quick(self, definition: TaskDefinition, payload: object) -> bool:
        """Whether a check of this payload may run on the event loop."""
        name = definition.name
        limiter = self._limiters.get(name)
        # While a thread that was left behind hangs, the next check might hang the loop.
        hangs = limiter is not None and limiter.total_tokens > _THREADS
        return not (hangs or all(self._slow.get(name, _QUICK)) or is_large(payload))

    async def call(self, definition: TaskDefinition, payload: object, check: Callable[[], T]) -> T:
        """`check()`, which checks a payload of this type; raises what it raises. A checkpoint only
        where it goes to a thread, which is left behind when the caller is cancelled."""
        if self.is_quick(definition, payload):
            return self.call_here(definition, check)
        return await self.call_in_thread(definition, check)

    async def convert(self, definition: TaskDefinition, payload: object) -> Any:
        """The payload as its handler wants it. Raises InvalidTask."""
        return await self.call(definition, payload, partial(definition.convert_payload, payload))

    def call_here(self, definition: TaskDefinition, check: Callable[[], T]) -> T:
        """As `call`, on the event loop."""
        return self._timed(definition.name, check, 1)

    async def call_in_thread(
        self, definition: TaskDefinition, check: Callable[[], T], *, items: int = 1
    ) -> T:
        """As `call`, in a thread. `items`: how many payloads `check` checks."""
        name = definition.name
        limiter = self._limiters.get(name)
        if limiter is None:
            limiter = self._limiters[name] = trio.CapacityLimiter(_THREADS)
        place = _Place(limiter)
        try:
            return await trio.to_thread.run_sync(
                _uninterrupted,
                partial(self._timed, name, check, items),
                abandon_on_cancel=True,
                # trio takes "anything providing compatible" methods, its annotation does not say so
                limiter=cast("trio.CapacityLimiter", place),
            )
        except trio.Cancelled:
            place.leave_behind()
            raise

    def _timed(self, name: str, check: Callable[[], T], items: int) -> T:
        cpu, clock = time.thread_time(), time.perf_counter()
        try:
            return check()
        finally:
            slow = (
                time.thread_time() - cpu > SLOW * items
                or time.perf_counter() - clock > WAITED * items
            )
            _, before = self._slow.get(name, _QUICK)
            self._slow[name] = before, slow


_QUICK = False, False


class _Place:
    """A thread's place among those of its type; trio takes it for the limiter of the thread, and
    so tells when a thread that was left behind has ended."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter
        self._is_taken = self._does_not_count = False

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(self)
        self._is_taken = True

    def release_on_behalf_of(self, borrower: object) -> None:
        self._is_taken = False
        self._limiter.release_on_behalf_of(self)
        if self._does_not_count:
            self._limiter.total_tokens -= 1

    def leave_behind(self) -> None:
        if self._is_taken and self._limiter.total_tokens < _THREADS + _LEFT_BEHIND:
            self._does_not_count = True
            self._limiter.total_tokens += 1


def is_small_json(payload: object) -> bool:
    """Whether it is nothing but JSON, as builtins or `msgspec.Raw`, and not large."""
    return _room_left(payload, only_json=True) > 0


def is_large(payload: object) -> bool:
    """Whether this JSON has more than LARGE characters and members; takes some microseconds."""
    return _room_left(payload, only_json=False) <= 0


_PLAIN = frozenset({int, float, bool, type(None)})


def _room_left(payload: object, *, only_json: bool) -> int:
    """Of LARGE characters and members; 0 where it is not `only_json`."""
    left, stack = LARGE, [payload]
    while stack and left > 0:
        item = stack.pop()
        left -= _MEMBER
        # By their exact types: the methods of others are foreign code; JSON has no others.
        if type(item) is str:
            left -= len(item)
        elif type(item) is msgspec.Raw:
            encoded = bytes(item)
            left -= len(encoded)
            if left > 0 and not only_json:  # else no code but the engine's goes through them
                # Commas in a text count too: a thread costs less than to tell them apart.
                left -= 2 * _MEMBER * encoded.count(b",")
        elif type(item) is dict or type(item) is list:
            left -= _MEMBER * len(item)
            if left > 0:
                stack.extend(item)
                stack.extend(item.values() if type(item) is dict else ())
        elif only_json and type(item) not in _PLAIN:
            return 0
    return left


def _uninterrupted(check: Callable[[], T]) -> T:
    """In a thread a KeyboardInterrupt is the check's own, no Ctrl-C."""
    try:
        return check()
    except KeyboardInterrupt:
        raise InvalidTask("its own check raised KeyboardInterrupt", field="payload") from None

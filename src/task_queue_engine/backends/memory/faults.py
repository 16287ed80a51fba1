"""Trouble on demand, for tests: what `MemoryBackend.faults` offers.

Operations are named like the methods of the backend Protocols: "send", "claim", "record", ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from task_queue_engine.errors import BackendUnavailable


@dataclass(slots=True)
class Gate:
    """Holds calls of one operation back, before they take effect. They stay cancellable."""

    arrived: trio.Event = field(default_factory=trio.Event)
    """Set when the first call stands before the gate."""
    opened: trio.Event = field(default_factory=trio.Event)

    def open(self) -> None:
        """Let through the calls that wait and all that follow."""
        self.opened.set()


class Faults:
    """Each method arms a fault; each fault is used up by the calls (or items) it hits.

    >>> backend.faults.unavailable("record", times=2)        # two calls raise BackendUnavailable
    >>> with backend.faults.outage("send", "receive"):       # so do all until the block ends
    ...     ...
    >>> backend.faults.lose_answer("create")                 # done, but the caller sees it fail
    >>> backend.faults.try_again("send", items=3)            # verdict TryAgain for three items
    >>> backend.faults.reject("send", items=1)               # verdict Rejected for one
    >>> backend.faults.duplicate_deliveries(1)               # the next message arrives twice
    >>> with backend.faults.block("claim") as gate:          # claims stand still ...
    ...     await gate.arrived.wait()                        # ... until the block ends
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        """Calls so far, by operation, those that failed included."""
        self._unavailable: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._try_again: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._duplicates = 0
        self._gates: dict[str, Gate] = {}
        self._outages: Counter[str] = Counter()
        self._defects: dict[str, Exception] = {}

    def unavailable(self, operation: str, times: int = 1) -> None:
        """The next `times` calls raise BackendUnavailable and do nothing."""
        self._unavailable[operation] += times

    @contextmanager
    def outage(self, *operations: str) -> Iterator[None]:
        """Calls of these operations raise BackendUnavailable until the block is left."""
        self._outages.update(operations)
        try:
            yield
        finally:
            self._outages.subtract(operations)

    def defect(self, operation: str, error: Exception) -> None:
        """The next call raises `error`, which no caller expects."""
        self._defects[operation] = error

    def lose_answer(self, operation: str, times: int = 1) -> None:
        """The next `times` calls take effect and then raise BackendUnavailable. (For "receive":
        what was taken stays invisible until its lease ends.)"""
        self._lost[operation] += times

    def try_again(self, operation: str, items: int = 1) -> None:
        """The next `items` items of "create" or of a queue's write get the verdict TryAgain and
        nothing is done about them."""
        self._try_again[operation] += items

    def reject(self, operation: str, items: int = 1) -> None:
        """The next `items` items of a queue's write get the verdict Rejected and nothing is done
        about them."""
        self._rejected[operation] += items

    def duplicate_deliveries(self, messages: int = 1) -> None:
        """The next `messages` deliveries are handed out a second time, by the same or the next
        receive: same message, same receive count."""
        self._duplicates += messages

    def clear(self) -> None:
        """Disarm all faults. Outages and blocks end with their own blocks."""
        for armed in (
            self._unavailable,
            self._lost,
            self._try_again,
            self._rejected,
            self._defects,
        ):
            armed.clear()
        self._duplicates = 0

    @contextmanager
    def block(self, operation: str) -> Iterator[Gate]:
        """Calls of `operation` wait until the block is left or the gate is opened."""
        gate = self._gates[operation] = Gate()
        try:
            yield gate
        finally:
            gate.open()
            if self._gates.get(operation) is gate:
                del self._gates[operation]

    # --- for the backend ---------------------------------------------------------------------

    async def enter(self, operation: str) -> None:
        self.calls[operation] += 1
        gate = self._gates.get(operation)
        if gate is not None:
            gate.arrived.set()
            await gate.opened.wait()
        else:
            await trio.lowlevel.checkpoint()
        if operation in self._defects:
            raise self._defects.pop(operation)
        if self._outages[operation] or _use_one(self._unavailable, operation):
            raise BackendUnavailable(f"{operation}: made to fail by a test", retry_after=0.1)

    def leave(self, operation: str) -> None:
        if _use_one(self._lost, operation):
            raise BackendUnavailable(f"{operation}: answer lost by a test", retry_after=0.1)

    def hits_item(self, operation: str) -> bool:
        return _use_one(self._try_again, operation)

    def rejects_item(self, operation: str) -> bool:
        return _use_one(self._rejected, operation)

    def hits_delivery(self) -> bool:
        if self._duplicates == 0:
            return False
        self._duplicates -= 1
        return True


def _use_one(armed: Counter[str], operation: str) -> bool:
    if armed[operation] <= 0:
        return False
    armed[operation] -= 1
    return True

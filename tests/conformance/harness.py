"""What a backend brings along to be held to the contract of `backends/base.py`.

To add a backend: write a `Harness`, and name it in `conftest.HARNESSES`. What the backend cannot do
by its nature is said once, in `Capabilities`, and the tests then ask for what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from task_queue_engine.backends.base import Backend
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.clock import Clock, ManualClock


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Each True is a promise beyond the contract; a backend that cannot keep it says False."""

    exact_depth: bool = True
    """`depth` and `purge_dead` count exactly, not approximately."""
    ordered_messages: bool = True
    """Messages come in the order in which they became visible."""
    ordered_dead_letters: bool = True
    """Dead letters are listed newest first and taken oldest first."""
    stable_dead_letter_pages: bool = True
    """A walk through the dead letters shows each of them exactly once."""
    notices_stale_delete: bool = True
    """Deleting with a stale receipt answers LeaseLost. (SQS says Done and deletes nothing.)"""
    exact_stranded: bool = True
    """`stranded` finds nothing that is not stranded."""


class Harness(Protocol):
    name: str
    capabilities: Capabilities
    clock: Clock
    lease: float
    """Seconds; a visibility timeout and a delay short enough for `advance` to outlast."""

    def make(self) -> Backend:
        """A backend on the data of this test, to be opened; at a second call the same data."""
        ...

    async def advance(self, seconds: float) -> None:
        """Let time pass, for the backend and for `clock`."""
        ...


class _ManualHarness:
    capabilities = Capabilities()
    lease = 30.0

    def __init__(self) -> None:
        self.clock = ManualClock()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


class MemoryHarness(_ManualHarness):
    name = "memory"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        # Its data is the object's.
        self._backend = MemoryBackend(clock=self.clock, max_item_bytes=10_000)

    def make(self) -> Backend:
        return self._backend


class SqliteHarness(_ManualHarness):
    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "tasks.db"

    def make(self) -> Backend:
        return SqliteBackend(self._path, clock=self.clock, max_item_bytes=10_000)

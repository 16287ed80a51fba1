"""What a trio task has asked a database thread for, and waits for."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import outcome
import trio

from task_queue_engine.backends.sqlite.transaction import Work


@dataclass(slots=True, eq=False)
class Request:
    """A trio task waits for this work."""

    work: Work
    task: trio.lowlevel.Task
    begun: threading.Lock = field(default_factory=threading.Lock)
    """Acquired once and for good, by whichever is first: the thread that begins the work, or the
    trio task that is cancelled before."""
    result: outcome.Outcome[Any] | None = None


@dataclass(slots=True, eq=False)
class Parking:
    """Where a trio task waits in `WriterThread.park`."""

    leave: Callable[[], None] | None = None
    """Ends the wait, unless the work has begun. None while nothing waits."""


# For a parked request whose transaction came to nothing: it may look for itself.
NOTHING = outcome.Value(None)


def withdraw(request: Request) -> None:
    if request.begun.acquire(blocking=False):
        trio.lowlevel.reschedule(request.task, outcome.Value(None))


def fail(group: Sequence[Request], error: BaseException) -> None:
    for request in group:
        # To each its own: an exception that is raised twice carries both tracebacks.
        request.result = outcome.Error(copy.copy(error))

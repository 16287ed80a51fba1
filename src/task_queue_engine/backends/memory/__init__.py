"""A backend in memory: a verified fake. For tests of an application and of the engine itself.

It keeps `Row`s and asks the pure functions of `lifecycle` what to do, and it passes the same
conformance suite as the real backends. Nothing survives the process. `faults` makes trouble.

Waiting runs on trio's clock and visibility on the `Clock` given: with `TrioClock` both follow
pytest-trio's `autojump_clock`. A `ManualClock` never wakes a waiting receiver by itself.
"""

from task_queue_engine.backends.memory.backend import MemoryBackend
from task_queue_engine.backends.memory.queue import MAX_DELAY, MemoryQueue

__all__ = ["MAX_DELAY", "MemoryBackend", "MemoryQueue"]

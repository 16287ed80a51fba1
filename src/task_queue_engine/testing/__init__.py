"""For tests of applications, of handlers and of backends.

`MemoryBackend` is a backend that keeps nothing and passes the same conformance suite as the others;
its `faults` make trouble on demand. `ManualClock` stands still until it is told to advance,
`TrioClock` follows trio's own clock, and so pytest-trio's `autojump_clock`.

`testing.conformance` is that suite, for authors of backends.
"""

from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.backends.memory.faults import Faults, Gate
from task_queue_engine.clock import ManualClock, TrioClock

__all__ = ["Faults", "Gate", "ManualClock", "MemoryBackend", "TrioClock"]

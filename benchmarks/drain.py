"""Watch a worker empty a full queue, by the marks its handlers leave."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import marks
from benchmarks.processes import Failed, Process, cpu_seconds, peak_mib

# Seconds. Until the first task: starting up on a busy machine.
_MOST_START = 40
# After the last: what is left to write and to acknowledge.
_AFTERWARDS = 0.5


def watch(worker: Process, path: Path, tasks: int, *, seconds: float = 90) -> dict[str, float]:
    """
    Tasks per second are between the first and the last handler's start; CPU is that of the worker
    and all below it from the first task until half a second after the last, over the tasks done by
    then: starting up is left out, the last results and acknowledgements are in.

    Args:
        path: of the marks.
        tasks: so many are waited for; the queue may hold more.
        seconds: for all of them.

    Raises:
        Failed: the worker ended, or they were not done in time.
    """
    starting_up = 0.0

    def has_begun() -> bool:
        """The last look before the first task, 10 ms earlier at most, is where CPU counts from."""
        nonlocal starting_up
        if marks.count(path) == 0:
            starting_up = cpu_seconds(worker.pid)
            return False
        return True

    worker.wait_for(has_begun, "the first task", seconds=_MOST_START)
    worker.wait_for(lambda: marks.count(path) >= tasks, "all tasks", seconds=seconds)
    time.sleep(_AFTERWARDS)
    done, cpu = marks.count(path), cpu_seconds(worker.pid) - starting_up
    peak = peak_mib(worker.pid)
    at = sorted(when for _, when in marks.read(path))[:tasks]
    if len(at) < 2:
        raise Failed("one task is no measurement")
    return {
        "tasks_per_second": (len(at) - 1) / (at[-1] - at[0]) * 1e9,
        "cpu_us_per_task": cpu / done * 1e6,
        "peak_rss_mib": peak,
    }

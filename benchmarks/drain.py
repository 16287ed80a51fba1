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
    and all below it from the first task until half a second after the last, over the tasks in
    between: starting up is left out, the last results and acknowledgements are in.

    Args:
        path: of the marks.
        tasks: so many are waited for; the queue may hold more.
        seconds: for all of them.

    Raises:
        Failed: the worker ended, or they were not done in time.
    """
    worker.wait_for(lambda: marks.count(path) > 0, "the first task", seconds=_MOST_START)
    before, cpu = marks.count(path), cpu_seconds(worker.pid)
    worker.wait_for(lambda: marks.count(path) >= tasks, "all tasks", seconds=seconds)
    time.sleep(_AFTERWARDS)
    after, cpu = marks.count(path), cpu_seconds(worker.pid) - cpu
    peak = peak_mib(worker.pid)
    at = sorted(when for _, when in marks.read(path))[:tasks]
    if after <= before or at[-1] <= at[0]:
        raise Failed(f"{tasks} tasks were done before they could be measured")
    return {
        "tasks_per_second": (len(at) - 1) / (at[-1] - at[0]) * 1e9,
        "cpu_us_per_task": cpu / (after - before) * 1e6,
        "peak_rss_mib": peak,
    }

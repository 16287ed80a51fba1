"""What benchmarks share: measuring, one process for each phase, showing, writing down.

A phase runs in a process of its own, so that none lives off another one's caches. The child prints
JSON lines: {"tick": n} as it goes on, {"result": {...}} at its end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from benchmarks.tables import Progress, table
from task_queue_engine import Engine, Refused, Submission, __version__
from task_queue_engine.events import AttemptRecorded, Event

_CHUNK = 500

Tick = Callable[[int], None]

Result = dict[str, float]


class Usage:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self.wall = time.perf_counter()
        self.cpu = time.process_time()

    def result(self, count: int) -> Result:
        wall = time.perf_counter() - self.wall
        cpu = time.process_time() - self.cpu
        return {
            "tasks": count,
            "seconds": wall,
            "tasks_per_second": count / wall,
            "cpu_us_per_task": cpu / count * 1e6,
        }


async def fill(engine: Engine, count: int, payload_bytes: int, tick: Tick) -> None:
    """Submit so many tasks of the type "noop"."""
    payload = "x" * payload_bytes
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        for verdict in await engine.submit_many([Submission(task="noop", payload=payload)] * size):
            if isinstance(verdict, Refused):
                raise SystemExit(f"a task could not be submitted: {verdict.error}")
        tick(size)


async def submit_one_by_one(
    engine: Engine, count: int, payload_bytes: int, *, producers: int
) -> None:
    """Submit so many tasks of the type "noop", each by a call of its own, several at a time."""
    payload = "x" * payload_bytes
    numbers = iter(range(count))

    async def produce() -> None:
        for _ in numbers:
            await engine.submit("noop", payload)

    async with trio.open_nursery() as nursery:
        for _ in range(producers):
            nursery.start_soon(produce)


class Ended:
    """A hook that counts the tasks that have ended: asking the backend would be work, and cost."""

    def __init__(self, expected: int, tick: Tick) -> None:
        self._left = expected
        self._tick = tick
        self._all = trio.Event()

    def __call__(self, event: Event) -> None:
        if isinstance(event, AttemptRecorded) and event.status.is_terminal:
            self._left -= 1
            self._tick(1)
            if self._left <= 0:
                self._all.set()

    async def wait(self, engine: Engine) -> None:
        """Until all have ended and the last message is gone too, not only the last status
        written."""
        await self._all.wait()
        while engine.statistics()["lease_keeper"]["held"]:  # noqa: ASYNC110  # no event says it
            await trio.sleep(0.01)


async def until_completed(engine: Engine, count: int, tick: Tick) -> None:
    seen = 0
    while seen < count:
        await trio.sleep(0.02)
        metrics = await engine.metrics()
        # The last message has to be gone too, not only the last status written.
        completed = metrics.counts.completed
        done = completed if completed < count or metrics.depth.waiting == 0 else count - 1
        tick(done - seen)
        seen = done


def tell_tick(count: int) -> None:
    """In the child."""
    print(json.dumps({"tick": count}), flush=True)


def tell_result(result: Result) -> None:
    """In the child, once."""
    # Kilobytes on Linux, bytes on macOS (getrusage(2)).
    unit = 1 if sys.platform == "darwin" else 1024
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    print(json.dumps({"result": result}), flush=True)


def run_phase_in_child(module: str, phase: str, arguments: Sequence[str], *, total: int) -> Result:
    """`python -m module --phase phase` and the arguments; what it told."""
    command = [sys.executable, "-m", module, "--phase", phase, *arguments]
    with (
        Progress(phase.replace("_", " "), total) as progress,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child,
    ):
        if child.stdout is None:
            raise SystemExit("no pipe to the child")
        result: Result = {}
        for line in child.stdout:
            message = json.loads(line)
            progress.advance(message.get("tick", 0))
            result = message.get("result", result)
    if child.returncode != 0 or not result:
        raise SystemExit(f"phase {phase} failed with exit code {child.returncode}")
    return result


def show(title: str, results: Mapping[str, Result], columns: Mapping[str, tuple[str, int]]) -> None:
    """A row for each phase.

    Args:
        columns: heading -> (key of the result, digits after the point).
    """
    rows: list[list[str]] = []
    for phase, result in results.items():
        cells = [
            f"{result[key]:,.{digits}f}" if key in result else ""
            for key, digits in columns.values()
        ]
        rows.append([phase.replace("_", " "), *cells])
    print(table(title, ["phase", *columns], rows))


def document_of(args: argparse.Namespace, results: Any) -> dict[str, Any]:
    """For --json: the results, and what they were measured with."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "arguments": {k: v for k, v in vars(args).items() if k not in ("phase", "json")},
        "results": results,
    }

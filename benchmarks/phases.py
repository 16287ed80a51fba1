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

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from task_queue_engine import __version__

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


def tell_tick(count: int) -> None:
    """In the child."""
    print(json.dumps({"tick": count}), flush=True)


def tell_result(result: Result) -> None:
    """In the child, once."""
    # Kilobytes on Linux, bytes on macOS (getrusage(2)).
    unit = 1 if sys.platform == "darwin" else 1024
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    print(json.dumps({"result": result}), flush=True)


def run_phase_in_child(
    module: str, phase: str, arguments: Sequence[str], *, total: int, progress: Progress
) -> Result:
    """`python -m module --phase phase` and the arguments; what it told."""
    bar = progress.add_task(phase.replace("_", " "), total=total)
    command = [sys.executable, "-m", module, "--phase", phase, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        if child.stdout is None:
            raise SystemExit("no pipe to the child")
        result: Result = {}
        for line in child.stdout:
            message = json.loads(line)
            progress.update(bar, advance=message.get("tick", 0))
            result = message.get("result", result)
    if child.returncode != 0 or not result:
        raise SystemExit(f"phase {phase} failed with exit code {child.returncode}")
    return result


def make_progress() -> Progress:
    """On standard error."""
    return Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def show(title: str, results: Mapping[str, Result], columns: Mapping[str, tuple[str, int]]) -> None:
    """A row for each phase.

    Args:
        columns: heading -> (key of the result, digits after the point).
    """
    table = Table(title=title)
    table.add_column("phase")
    for heading in columns:
        table.add_column(heading, justify="right")
    for phase, result in results.items():
        cells = [
            f"{result[key]:,.{digits}f}" if key in result else ""
            for key, digits in columns.values()
        ]
        table.add_row(phase.replace("_", " "), *cells)
    Console().print(table)


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

"""Several processes on one SQLite file: how fast together, what a task costs them in CPU and in
commits. Each commit is a sync of the disk (`synchronous=FULL`).

    python -m benchmarks.capacity.one_file --processes 2 --tasks 10000

The file is filled first; then that many processes drain it. Commits are counted by a hook on each
of their connections.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apsw
import trio

from benchmarks.phases import fill
from task_queue_engine import Engine, Settings, TaskRegistry
from task_queue_engine.backends.sqlite import SqliteBackend

_MOST_SECONDS = 600.0
_SYNCS = 200
_PAGE = 4096

tasks = TaskRegistry()


@tasks.task("noop")
async def noop(payload: Any) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    processes: int
    workers: int
    tasks: int
    tasks_per_second: float
    cpu_us_per_task: float
    writer_cpu_us_per_task: float
    """Of the threads that commit. No two processes can spend it at once: SQLite has one writer at a
    time, and what these threads do between two commits is done with the file locked, but for a
    little."""
    commits_per_task: float


# --- a process that drains --------------------------------------------------------------------


class Commits:
    """Of every connection that is opened from now on: how many, and the CPU of their threads."""

    def __init__(self) -> None:
        self.count = 0
        self._cpu: dict[int, float] = {}
        apsw.connection_hooks.append(self._watch)

    def _watch(self, connection: apsw.Connection) -> None:
        connection.set_commit_hook(self._note)

    def _note(self) -> bool:
        self.count += 1
        self._cpu[threading.get_ident()] = time.thread_time()
        return False  # go on

    def cpu(self) -> float:
        """Seconds, at their last commits."""
        return sum(self._cpu.values())


async def _drain(path: str, workers: int, prefetch: int, total: int) -> dict[str, float]:
    commits = Commits()
    settings = Settings(worker_count=workers, prefetch=prefetch)
    async with trio.open_nursery() as nursery:
        engine = Engine(tasks, settings, backend=SqliteBackend(path))
        await nursery.start(engine.run)
        before, cpu, writers = commits.count, time.process_time(), commits.cpu()
        with trio.fail_after(_MOST_SECONDS):
            # The others' tasks, too: no event of this process says that they have ended.
            while (await engine.metrics()).counts.completed < total:  # noqa: ASYNC110
                await trio.sleep(0.05)
        found = {
            "cpu": time.process_time() - cpu,
            "commits": commits.count - before,
            "writers": commits.cpu() - writers,
        }
        await engine.stop()
    return found


async def _fill(path: str, total: int) -> None:
    async with trio.open_nursery() as nursery:
        engine = Engine(tasks, Settings(), backend=SqliteBackend(path), consume=False)
        await nursery.start(engine.run)
        await fill(engine, total, 100, lambda _: None)
        await engine.stop()


# --- the parent -------------------------------------------------------------------------------


def drain(*, processes: int, workers: int, prefetch: int, count: int, folder: str) -> Drained:
    path = str(Path(folder) / f"{processes}-{workers}.db")
    trio.run(_fill, path, count)
    command = [sys.executable, "-m", "benchmarks.capacity.one_file", "--drain", path]
    command += ["--tasks", str(count), "--workers", str(workers), "--prefetch", str(prefetch)]
    begin = time.perf_counter()
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    said = [child.communicate()[0].splitlines() for child in children]
    seconds = time.perf_counter() - begin
    if any(child.returncode for child in children):
        raise SystemExit("a process that drains the file has failed")
    found = [json.loads(lines[-1]) for lines in said]
    return Drained(
        processes=processes,
        workers=workers,
        tasks=count,
        # From the first process's readiness to the last task, by the slowest of them.
        tasks_per_second=count / min(seconds, max(each["seconds"] for each in found)),
        cpu_us_per_task=sum(each["cpu"] for each in found) / count * 1e6,
        writer_cpu_us_per_task=sum(each["writers"] for each in found) / count * 1e6,
        commits_per_task=sum(each["commits"] for each in found) / count,
    )


def sync_seconds(folder: str) -> float:
    """The median time of an fdatasync after a page has been written at the end of a file."""
    took: list[float] = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(_SYNCS):
            os.write(file.fileno(), b"x" * _PAGE)
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begin)
    return statistics.median(took)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity.one_file",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, default=2, help="(2)")
    parser.add_argument("--tasks", type=int, default=10_000, help="(10000)")
    parser.add_argument("--workers", type=int, default=64, help="of each process (64)")
    parser.add_argument("--prefetch", type=int, default=64, help="of each process (64)")
    parser.add_argument("--folder", help="where the file goes (the temporary folder)")
    parser.add_argument("--drain", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if min(args.processes, args.tasks, args.workers) < 1 or args.prefetch < 0:
        parser.error("--processes, --tasks and --workers need at least 1, --prefetch at least 0")
    if args.drain:
        begin = time.perf_counter()
        found = trio.run(_drain, args.drain, args.workers, args.prefetch, args.tasks)
        print(json.dumps(found | {"seconds": time.perf_counter() - begin}), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="tqe-bench-", dir=args.folder) as folder:
        result = drain(
            processes=args.processes,
            workers=args.workers,
            prefetch=args.prefetch,
            count=args.tasks,
            folder=folder,
        )
    print(json.dumps(asdict(result), indent=2))


if __name__ == "__main__":
    main()

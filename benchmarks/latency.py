"""What a task waits for where nothing is busy, and what an engine costs that has nothing to do.

    python -m benchmarks.latency
    python -m benchmarks.latency --phases two_processes idle --json result.json

What the rows mean, all on one SQLite file, settings as they come:

- in one process: from the call of `submit` to the handler's first line, and until
  `handle.result()` has returned, one task at a time with a pause after each.
- two processes: the same, submitted in one process and run by a worker in another.
- waiters: as two processes, and in the one that submits `--waiters` other calls each wait for a
  task of their own which has not ended.
- idle: CPU of a worker without work, as a share of one core, and the bytes that it writes.

Times are those of one clock for all processes (CLOCK_MONOTONIC). Machines are noisy: compare two
versions by running them in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from benchmarks.phases import Result, show
from task_queue_engine import Engine, Refused, Settings, Submission, TaskRegistry
from task_queue_engine.backends.sqlite import SqliteBackend

PHASES = ("one_process", "two_processes", "waiters", "idle")
COLUMNS = {
    "start p50 ms": ("start_p50_ms", 2),
    "start p99 ms": ("start_p99_ms", 2),
    "result p50 ms": ("result_p50_ms", 2),
    "result p99 ms": ("result_p99_ms", 2),
    "CPU %": ("cpu_percent", 2),
    "bytes written": ("bytes_written", 0),
}
# The first ones pay for imports and caches.
_WARM_UP = 20

tasks = TaskRegistry()


@tasks.task("stamp")
async def stamp(payload: Any) -> float:
    return time.monotonic()


async def measure(engine: Engine, samples: int) -> Result:
    starts: list[float] = []
    results: list[float] = []
    for n in range(samples + _WARM_UP):
        # At no moment that anything else could be in step with.
        await trio.sleep(random.uniform(0.01, 0.06))
        submitted_at = time.monotonic()
        handle = await engine.submit(stamp, n)
        started_at = await handle.result(timeout=30)
        if n >= _WARM_UP:
            starts.append((started_at - submitted_at) * 1e3)
            results.append((time.monotonic() - submitted_at) * 1e3)
    return {
        "samples": samples,
        "start_p50_ms": statistics.median(starts),
        "start_p99_ms": statistics.quantiles(starts, n=100)[98],
        "result_p50_ms": statistics.median(results),
        "result_p99_ms": statistics.quantiles(results, n=100)[98],
    }


async def run_submitter(database: Path, samples: int, *, consume: bool, waiters: int = 0) -> Result:
    async with trio.open_nursery() as nursery:
        engine = Engine(tasks, Settings(), backend=SqliteBackend(database), consume=consume)
        await nursery.start(engine.run)
        later = Submission(task=stamp, delay=86_400)
        async with trio.open_nursery() as waiting:
            for start in range(0, waiters, 1000):
                for verdict in await engine.submit_many([later] * min(1000, waiters - start)):
                    if isinstance(verdict, Refused):
                        raise SystemExit(f"a task could not be submitted: {verdict.error}")
                    waiting.start_soon(partial(engine.wait, verdict.task.id, timeout=3600))
            result = await measure(engine, samples)
            waiting.cancel_scope.cancel()
        await engine.stop()
    return result


async def run_worker(database: Path, seconds: float) -> None:
    """In the child: work for as long as standard input is open, or for `seconds`; tell what that
    took."""
    async with trio.open_nursery() as nursery:
        engine = Engine(tasks, Settings(), backend=SqliteBackend(database))
        await nursery.start(engine.run)
        await trio.sleep(1)
        print("ready", flush=True)
        wall, cpu, written = time.perf_counter(), time.process_time(), _written()
        if seconds:
            await trio.sleep(seconds)
        else:
            await trio.to_thread.run_sync(sys.stdin.read)
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)
        print(json.dumps({"cpu_percent": share * 100, "bytes_written": _written() - written}))
        await engine.stop()


def _written() -> int:
    """Bytes this process has caused to be written to disks; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


@contextmanager
def worker(database: Path, seconds: float = 0.0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.latency"]
    command += ["--worker", str(database), "--seconds", str(seconds)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            if _line_of(process) != "ready":
                raise SystemExit("the worker did not start")
            yield process
        finally:
            process.communicate()


def _line_of(process: subprocess.Popen[str]) -> str:
    return "" if process.stdout is None else process.stdout.readline().strip()


def run_phase(phase: str, database: Path, args: argparse.Namespace) -> Result:
    if phase == "idle":
        with worker(database, args.seconds) as process:
            result: Result = json.loads(_line_of(process))
        return result
    if phase == "one_process":
        return trio.run(partial(run_submitter, database, args.samples, consume=True))
    waiters = args.waiters if phase == "waiters" else 0
    with worker(database):
        return trio.run(
            partial(run_submitter, database, args.samples, consume=False, waiters=waiters)
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--samples", type=int, default=300, help="tasks a phase (300)")
    parser.add_argument("--waiters", type=int, default=10_000, help="waits beside (10000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of idling (20)")
    parser.add_argument("--folder", help="where the database files go (the temporary folder)")
    parser.add_argument("--json", metavar="FILE", help="write the results there as well")
    parser.add_argument("--worker", metavar="DATABASE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.samples < 2:
        parser.error("--samples needs at least 2")
    if args.worker:
        trio.run(run_worker, Path(args.worker), args.seconds)
        return
    results: dict[str, Result] = {}
    for phase in args.phases:
        with tempfile.TemporaryDirectory(prefix="tqe-latency-", dir=args.folder) as folder:
            results[phase] = run_phase(phase, Path(folder) / "bench.db", args)
    show("Task Queue Engine: latency", results, COLUMNS)
    if args.json:
        document = {"cpus": os.cpu_count(), "results": results}
        Path(args.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

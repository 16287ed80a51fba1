"""How fast one engine process is: fill, drain, end to end, latency, CPU and memory.

    python -m benchmarks.throughput                       # SQLite, synchronous=FULL
    python -m benchmarks.throughput --tasks 50000 --workers 64 --json result.json

What the rows mean:

- fill: tasks stored per second by `submit_many`, no worker running.
- drain: tasks per second from a full queue until the last status is durable and its message gone.
- end to end: `--producers` coroutines call `submit` one task at a time while the workers run;
  from the first submit until the last task is COMPLETED. The number to compare engines by.
- start latency: an idle engine, one task at a time; from the call of `submit` to the handler's
  first line.

The handler is a no-op, so this measures the engine and nothing else. Every phase runs in a process
of its own, on a new database file, so that no phase lives off another one's caches. CPU is user
plus system time of that process, all threads, divided by the number of tasks. Machines are noisy:
compare two versions by running them in turn, and quote ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from benchmarks.phases import (
    Result,
    Tick,
    Usage,
    document_of,
    fill,
    run_phase_in_child,
    show,
    submit_one_by_one,
    tell_result,
    tell_tick,
    until_completed,
)
from task_queue_engine import Engine, Settings, TaskRegistry
from task_queue_engine.backends.base import Backend
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.backends.sqlite import SqliteBackend

PHASES = ("fill", "drain", "end_to_end", "latency")
COLUMNS = {
    "tasks/s": ("tasks_per_second", 0),
    "CPU us/task": ("cpu_us_per_task", 0),
    "p50 ms": ("p50_ms", 2),
    "p99 ms": ("p99_ms", 2),
    "peak RSS MiB": ("peak_rss_mib", 0),
}

tasks = TaskRegistry()
started_at: list[float] = []


@tasks.task("noop")
async def noop(payload: Any) -> None:
    return None


@tasks.task("stamp")
async def stamp(payload: Any) -> None:
    started_at.append(time.perf_counter())


def make_backend(args: argparse.Namespace, folder: str) -> Backend:
    if args.backend == "memory":
        return MemoryBackend()
    return SqliteBackend(str(Path(folder) / "bench.db"))


def make_settings(args: argparse.Namespace) -> Settings:
    return Settings(worker_count=args.workers, prefetch=args.prefetch)


async def run_fill(args: argparse.Namespace, folder: str, tick: Tick) -> Result:
    async with trio.open_nursery() as nursery:
        engine = Engine(
            tasks, make_settings(args), backend=make_backend(args, folder), consume=False
        )
        await nursery.start(engine.run)
        usage = Usage()
        await fill(engine, args.tasks, args.payload_bytes, tick)
        result = usage.result(args.tasks)
        await engine.stop()
    return result


async def run_drain(args: argparse.Namespace, folder: str, tick: Tick) -> Result:
    backend = make_backend(args, folder)
    async with trio.open_nursery() as nursery:
        filler = Engine(tasks, make_settings(args), backend=backend, consume=False)
        await nursery.start(filler.run)
        await fill(filler, args.tasks, args.payload_bytes, lambda _: None)
        if args.backend != "memory":
            await filler.stop()
        engine = Engine(tasks, make_settings(args), backend=backend)
        usage = Usage()
        await nursery.start(engine.run)
        await until_completed(engine, args.tasks, tick)
        result = usage.result(args.tasks)
        await engine.stop()
        nursery.cancel_scope.cancel()
    return result


async def run_end_to_end(args: argparse.Namespace, folder: str, tick: Tick) -> Result:
    async with trio.open_nursery() as nursery:
        engine = Engine(tasks, make_settings(args), backend=make_backend(args, folder))
        await nursery.start(engine.run)
        usage = Usage()
        async with trio.open_nursery() as both:
            both.start_soon(until_completed, engine, args.tasks, tick)
            await submit_one_by_one(
                engine, args.tasks, args.payload_bytes, producers=args.producers
            )
        result = usage.result(args.tasks)
        await engine.stop()
    return result


async def run_latency(args: argparse.Namespace, folder: str, tick: Tick) -> Result:
    latencies: list[float] = []
    async with trio.open_nursery() as nursery:
        engine = Engine(tasks, make_settings(args), backend=make_backend(args, folder))
        await nursery.start(engine.run)
        for n in range(args.samples + 20):
            submitted_at = time.perf_counter()
            handle = await engine.submit("stamp", n)
            await handle.result(timeout=30)
            if n >= 20:  # the first ones pay for imports and caches
                latencies.append((started_at[-1] - submitted_at) * 1e3)
                tick(1)
        await engine.stop()
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "samples": len(latencies),
        "p50_ms": statistics.median(latencies),
        "p99_ms": cuts[98],
        "max_ms": max(latencies),
    }


def run_phase(args: argparse.Namespace) -> None:
    """In the child: run one phase, print ticks and the result as JSON lines."""
    runner = {
        "fill": run_fill,
        "drain": run_drain,
        "end_to_end": run_end_to_end,
        "latency": run_latency,
    }[args.phase]

    with tempfile.TemporaryDirectory(prefix="tqe-bench-", dir=args.folder) as folder:
        tell_result(trio.run(runner, args, folder, tell_tick))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=20_000, help="per phase (20000)")
    parser.add_argument("--workers", type=int, default=5, help="concurrent handlers (5)")
    parser.add_argument(
        "--prefetch", type=int, default=None, help="held beside those that run (by itself)"
    )
    parser.add_argument("--producers", type=int, default=64, help="concurrent submitters (64)")
    parser.add_argument("--samples", type=int, default=500, help="for the latency (500)")
    parser.add_argument("--payload-bytes", type=int, default=100, help="size of a payload (100)")
    parser.add_argument("--backend", choices=("sqlite", "memory"), default="sqlite")
    parser.add_argument("--folder", help="where the database files go (the temporary folder)")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--json", metavar="FILE", help="write the results there as well")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.tasks, args.workers, args.producers, args.samples) < 1:
        parser.error("--tasks, --workers, --producers and --samples need at least 1")
    return args


def main() -> None:
    args = parse_arguments()
    if args.phase:
        run_phase(args)
        return
    results = {
        phase: run_phase_in_child(
            "benchmarks.throughput",
            phase,
            sys.argv[1:],
            total=args.samples if phase == "latency" else args.tasks,
        )
        for phase in args.phases
    }
    show("Task Queue Engine: throughput", results, COLUMNS)
    if args.json:
        document = document_of(args, results)
        Path(args.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""How fast one engine process is: fill, drain, end to end, latency, CPU and memory.

    python benchmarks/throughput.py                       # SQLite, synchronous=FULL
    python benchmarks/throughput.py --tasks 50000 --workers 64 --json result.json

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
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from task_queue_engine import Engine, Settings, Submission, TaskRegistry, __version__
from task_queue_engine.backends.base import Backend
from task_queue_engine.backends.memory import MemoryBackend
from task_queue_engine.backends.sqlite import SqliteBackend

PHASES = ("fill", "drain", "end_to_end", "latency")
CHUNK = 500

Tick = Callable[[int], None]

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


class Usage:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self.wall = time.perf_counter()
        self.cpu = time.process_time()

    def result(self, count: int) -> dict[str, float]:
        wall = time.perf_counter() - self.wall
        cpu = time.process_time() - self.cpu
        return {
            "tasks": count,
            "seconds": wall,
            "tasks_per_second": count / wall,
            "cpu_us_per_task": cpu / count * 1e6,
        }


async def fill(engine: Engine, args: argparse.Namespace, tick: Tick) -> None:
    payload = "x" * args.payload_bytes
    for start in range(0, args.tasks, CHUNK):
        count = min(CHUNK, args.tasks - start)
        await engine.submit_many([Submission(task="noop", payload=payload)] * count)
        tick(count)


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


async def run_fill(args: argparse.Namespace, folder: str, tick: Tick) -> dict[str, float]:
    async with trio.open_nursery() as nursery:
        engine = Engine(
            tasks, make_settings(args), backend=make_backend(args, folder), consume=False
        )
        await nursery.start(engine.run)
        usage = Usage()
        await fill(engine, args, tick)
        result = usage.result(args.tasks)
        await engine.stop()
    return result


async def run_drain(args: argparse.Namespace, folder: str, tick: Tick) -> dict[str, float]:
    backend = make_backend(args, folder)
    async with trio.open_nursery() as nursery:
        filler = Engine(tasks, make_settings(args), backend=backend, consume=False)
        await nursery.start(filler.run)
        await fill(filler, args, lambda _: None)
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


async def run_end_to_end(args: argparse.Namespace, folder: str, tick: Tick) -> dict[str, float]:
    payload = "x" * args.payload_bytes
    numbers = iter(range(args.tasks))

    async def produce(engine: Engine) -> None:
        for _ in numbers:
            await engine.submit("noop", payload)

    async with trio.open_nursery() as nursery:
        engine = Engine(tasks, make_settings(args), backend=make_backend(args, folder))
        await nursery.start(engine.run)
        usage = Usage()
        async with trio.open_nursery() as producers:
            for _ in range(args.producers):
                producers.start_soon(produce, engine)
            producers.start_soon(until_completed, engine, args.tasks, tick)
        result = usage.result(args.tasks)
        await engine.stop()
    return result


async def run_latency(args: argparse.Namespace, folder: str, tick: Tick) -> dict[str, float]:
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

    def tick(count: int) -> None:
        print(json.dumps({"tick": count}), flush=True)

    with tempfile.TemporaryDirectory(prefix="tqe-bench-", dir=args.folder) as folder:
        result = trio.run(runner, args, folder, tick)
    # Kilobytes on Linux, bytes on macOS (getrusage(2)).
    unit = 1 if sys.platform == "darwin" else 1024
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    print(json.dumps({"result": result}), flush=True)


def measure(args: argparse.Namespace, phase: str, progress: Progress) -> dict[str, float]:
    total = args.samples if phase == "latency" else args.tasks
    bar = progress.add_task(phase.replace("_", " "), total=total)
    command = [sys.executable, __file__, "--phase", phase, *sys.argv[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        if child.stdout is None:
            raise SystemExit("no pipe to the child")
        result: dict[str, float] = {}
        for line in child.stdout:
            message = json.loads(line)
            progress.update(bar, advance=message.get("tick", 0))
            result = message.get("result", result)
    if child.returncode != 0 or not result:
        raise SystemExit(f"phase {phase} failed with exit code {child.returncode}")
    return result


def show(results: dict[str, dict[str, float]], console: Console) -> None:
    table = Table(title="Task Queue Engine: throughput")
    for column in ("phase", "tasks/s", "CPU us/task", "p50 ms", "p99 ms", "peak RSS MiB"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase, result in results.items():

        def cell(key: str, digits: int = 0, result: dict[str, float] = result) -> str:
            return f"{result[key]:,.{digits}f}" if key in result else ""

        table.add_row(
            phase.replace("_", " "),
            cell("tasks_per_second"),
            cell("cpu_us_per_task"),
            cell("p50_ms", 2),
            cell("p99_ms", 2),
            cell("peak_rss_mib"),
        )
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=20_000, help="per phase (20000)")
    parser.add_argument("--workers", type=int, default=64, help="concurrent handlers (64)")
    parser.add_argument("--prefetch", type=int, default=64, help="claimed ahead of them (64)")
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
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        results = {phase: measure(args, phase, progress) for phase in args.phases}
    show(results, Console())
    if args.json:
        document = {
            "version": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "arguments": {k: v for k, v in vars(args).items() if k not in ("phase", "json")},
            "results": results,
        }
        Path(args.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

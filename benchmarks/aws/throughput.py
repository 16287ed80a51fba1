"""How fast one engine process is on SQS and DynamoDB, and what a task costs it in CPU.

    python -m benchmarks.aws.throughput
    python -m benchmarks.aws.throughput --tasks 2000 --sqs elasticmq --dynamodb dynamodb-local

Third-party servers stand in for AWS, on this machine, and they are what limits the speed: their
CPU is several times the engine's. So the figure that matters is the engine's own CPU for a task; "a
core could" is what that leaves room for, if AWS keeps up and the process has a core for itself.

The rows, as in benchmarks.throughput:

- fill: tasks stored and sent per second by `submit_many`, no worker running.
- drain: tasks per second from a full queue until the last status is written and its message gone.
- end to end: `--producers` coroutines call `submit` one task at a time while the workers run; from
  the first submit until the last task is COMPLETED.

The handler is a no-op. Every phase runs in a process of its own, on queues and a table of its own.
CPU is user plus system time of that process, all threads; of the servers the same, of both together
(Linux only). Requests are HTTP requests, retries and empty polls included. Machines are noisy:
compare two versions by running them in turn, and quote ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from benchmarks.aws.setup import make_backend, provisioned, started
from benchmarks.phases import (
    Ended,
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
)
from local_aws.pairs import LocalAws, Pair
from local_aws.servers import LocalServer
from task_queue_engine import Engine, TaskRegistry
from task_queue_engine.backends.aws.wire.client import AwsClient

PHASES = ("fill", "drain", "end_to_end")
COLUMNS = {
    "tasks/s": ("tasks_per_second", 0),
    "CPU us/task": ("cpu_us_per_task", 0),
    "a core could, tasks/s": ("tasks_per_core_second", 0),
    "requests/task": ("requests_per_task", 2),
    "CPU us/request": ("cpu_us_per_request", 0),
    "servers' CPU us/task": ("server_cpu_us_per_task", 0),
    "peak RSS MiB": ("peak_rss_mib", 0),
}
MOST_SECONDS = 1800.0

tasks = TaskRegistry()


@tasks.task("noop")
async def noop(payload: Any) -> None:
    return None


class AwsUsage:
    """What a client's process and the servers have used since this was made."""

    def __init__(self, client: AwsClient, pids: Sequence[int]) -> None:
        self._client = client
        self._pids = pids
        self._requests = client.statistics().requests
        self._server_cpu = _cpu_of(pids)
        self._usage = Usage()

    def result(self, count: int) -> Result:
        result = self._usage.result(count)
        requests = self._client.statistics().requests - self._requests
        cpu = result["cpu_us_per_task"]
        result |= {
            "requests_per_task": requests / count,
            "cpu_us_per_request": cpu * count / requests,
            "tasks_per_core_second": 1e6 / cpu,
        }
        server_cpu = _cpu_of(self._pids)
        if server_cpu is not None and self._server_cpu is not None:
            result["server_cpu_us_per_task"] = (server_cpu - self._server_cpu) / count * 1e6
        return result


def _cpu_of(pids: Sequence[int]) -> float | None:
    """Seconds, user and system; None where the system does not say."""
    ticks = 0
    try:
        for pid in pids:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
            # After the name, which may hold blanks: state is field 3, utime 14, stime 15 (proc(5)).
            fields = stat.rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    except OSError:
        return None
    return ticks / os.sysconf("SC_CLK_TCK") if pids else None


# --- phases -----------------------------------------------------------------------------------


class Bench:
    """In the child: one phase on queues and a table of its own."""

    def __init__(self, args: argparse.Namespace, tick: Tick) -> None:
        self._args = args
        self._tick = tick
        queue, table = map(LocalServer, (args.sqs, args.dynamodb), args.endpoints)
        self._local = LocalAws(Pair(args.sqs, args.dynamodb), queue, table)
        tuned = {"worker_count": args.workers, "prefetch": args.prefetch}
        self._settings = provisioned(self._local, **({} if args.as_it_comes else tuned))

    def _engine(
        self, *, consume: bool = True, ended: Ended | None = None
    ) -> tuple[Engine, AwsClient]:
        client = AwsClient(**self._local.client_options())
        engine = Engine(
            tasks,
            self._settings,
            backend=make_backend(self._settings, client),
            consume=consume,
            housekeeping=consume,
            hooks=[ended] if ended else [],
        )
        return engine, client

    async def fill(self) -> Result:
        args = self._args
        engine, client = self._engine(consume=False)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            usage = AwsUsage(client, args.pids)
            await fill(engine, args.tasks, args.payload_bytes, self._tick)
            result = usage.result(args.tasks)
            await engine.stop()
        return result

    async def drain(self) -> Result:
        args = self._args
        filler, _ = self._engine(consume=False)
        async with trio.open_nursery() as nursery:
            await nursery.start(filler.run)
            await fill(filler, args.tasks, args.payload_bytes, lambda _: None)
            await filler.stop()
        ended = Ended(args.tasks, self._tick)
        engine, client = self._engine(ended=ended)
        usage = AwsUsage(client, args.pids)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            await ended.wait(engine)
            result = usage.result(args.tasks)
            await engine.stop()
        return result

    async def end_to_end(self) -> Result:
        args = self._args
        ended = Ended(args.tasks, self._tick)
        engine, client = self._engine(ended=ended)
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            usage = AwsUsage(client, args.pids)
            await submit_one_by_one(
                engine, args.tasks, args.payload_bytes, producers=args.producers
            )
            await ended.wait(engine)
            result = usage.result(args.tasks)
            await engine.stop()
        return result


async def run_phase(args: argparse.Namespace) -> Result:
    bench = Bench(args, tell_tick)
    run = {"fill": bench.fill, "drain": bench.drain, "end_to_end": bench.end_to_end}[args.phase]
    with trio.fail_after(MOST_SECONDS):
        return await run()


# --- command line -----------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aws.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=5000, help="per phase (5000)")
    parser.add_argument("--workers", type=int, default=64, help="concurrent handlers (64)")
    parser.add_argument("--prefetch", type=int, default=64, help="claimed ahead of them (64)")
    parser.add_argument(
        "--as-it-comes", action="store_true", help="neither of the two: the defaults' own choice"
    )
    parser.add_argument("--producers", type=int, default=64, help="concurrent submitters (64)")
    parser.add_argument("--payload-bytes", type=int, default=100, help="size of a payload (100)")
    parser.add_argument(
        "--sqs", choices=("fauxqs", "elasticmq", "ministack", "moto"), default="fauxqs"
    )
    parser.add_argument(
        "--dynamodb", choices=("ministack", "dynamodb-local", "moto"), default="ministack"
    )
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--json", metavar="FILE", help="write the results there as well")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--endpoints", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--pids", nargs="*", type=int, default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.tasks, args.workers, args.producers) < 1:
        parser.error("--tasks, --workers and --producers need at least 1")
    return args


def main() -> None:
    args = parse_arguments()
    if args.phase:
        tell_result(trio.run(run_phase, args))
        return
    local = started(args.sqs, args.dynamodb)
    pids = sorted({each.pid for each in (local.queue, local.table) if each.pid})
    servers = ["--endpoints", local.queue.url, local.table.url, "--pids", *map(str, pids)]
    results = {
        phase: run_phase_in_child(
            "benchmarks.aws.throughput",
            phase,
            [*sys.argv[1:], *servers],
            total=args.tasks,
        )
        for phase in args.phases
    }
    show(f"Task Queue Engine on {args.sqs} and {args.dynamodb}", results, COLUMNS)
    if args.json:
        document = document_of(args, results)
        Path(args.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

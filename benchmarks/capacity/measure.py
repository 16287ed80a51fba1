"""Measure what the model needs: `benchmarks/results/capacity_inputs.json`.

    python -m benchmarks.capacity.measure                   # all of it, about ten minutes
    python -m benchmarks.capacity.measure --only sqlite     # the others stay as they are

Requests and units do not depend on the machine. CPU does, by its clock and by what else it does:
ratios hold, absolutes do not, and the file names the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trio

from benchmarks.aws.cost.engine import JumpingClock, make_tasks
from benchmarks.aws.setup import make_backend, provisioned, started
from benchmarks.capacity import one_file
from benchmarks.capacity.inputs import FILE
from benchmarks.capacity.pattern import SHAPES
from benchmarks.phases import Ended
from local_aws.pairs import LocalAws
from local_aws.servers import stop_all
from task_queue_engine import Engine, Settings, Submission
from task_queue_engine.backends.aws.dynamodb.crash_recovery import uncounted_changes
from task_queue_engine.backends.aws.wire.client import AwsClient

COST = "python -m benchmarks.aws.cost --tasks 1000 --idle 30"
CPU = "python -m benchmarks.aws.throughput --tasks 2000"
SWEEP = "python -m benchmarks.capacity.measure --only sweep"
SQLITE = "python -m benchmarks.capacity.one_file"
SUBMIT = "python -m benchmarks.throughput --tasks 10000 --phases fill end_to_end"

# Seconds: both looks of the sweep are due by then.
_HOURS_AFTER = 7200.0
_CHUNK = 500


def run(command: str, *more: str) -> Any:
    """The JSON that one of the benchmarks writes."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        words = [sys.executable, *command.split()[1:], *more, "--json", file.name]
        subprocess.run(words, check=True, stdout=sys.stderr)
        return json.loads(Path(file.name).read_text(encoding="utf-8"))["results"]


def cost() -> dict[str, Any]:
    """Requests and units, of the engine only."""
    shapes = [shape.measured for shape in SHAPES if shape.measured]
    found = run(COST, "--shapes", *shapes)
    return {"command": COST, **cost_of(found)}


def cost_of(found: Any) -> dict[str, Any]:
    ours = [each for each in found["runs"] if each["engine"] == "this engine"]
    idle = found["idle"]
    return {
        "shapes": {each["shape"]: _shape(each) for each in ours},
        "idle_per_second": {
            "sqs_requests": sum(idle["sqs_requests"].values()) / idle["seconds"],
            "write_units": idle["write_units"] / idle["seconds"],
            "read_units": idle["read_units"] / idle["seconds"],
        },
    }


def _shape(found: Any) -> dict[str, float]:
    sides = (found["producing"], found["consuming"])
    return {
        "sqs_requests": sum(sum(side["sqs_requests"].values()) for side in sides) / found["tasks"],
        "write_units": found["write_units_per_task"],
        "read_units": found["read_units_per_task"],
    }


def cpu() -> dict[str, Any]:
    found = run(CPU)
    return {"command": CPU} | {phase: each["cpu_us_per_task"] for phase, each in found.items()}


def sqlite() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tqe-bench-") as folder:
        drained = {
            name: asdict(one_file.drain(**options, count=5_000, folder=folder))
            for name, options in {
                "as it comes": {"processes": 1, "workers": 5, "prefetch": 0},
                "tuned": {"processes": 1, "workers": 64, "prefetch": 64},
                "tuned, two processes": {"processes": 2, "workers": 64, "prefetch": 64},
            }.items()
        }
        sync = one_file.sync_seconds(folder)
    submitted = {phase: each["cpu_us_per_task"] for phase, each in run(SUBMIT).items()}
    return {
        "command": SQLITE,
        "drained": drained,
        "sync_seconds": sync,
        "submit_command": SUBMIT,
        "cpu_us": submitted,
    }


# --- the sweep --------------------------------------------------------------------------------


def sweep(count: int = 1_500) -> dict[str, Any]:
    stop_all()
    local = started("elasticmq", "dynamodb-local")
    settings = provisioned(local, worker_count=100, prefetch=100)
    return {"command": SWEEP, **trio.run(_sweep, local, settings, count)}


async def _sweep(local: LocalAws, settings: Settings, count: int) -> dict[str, Any]:
    """The CPU of a look at an entry of tasks that have ended: by the sweep, and after a crash."""
    clock = JumpingClock()
    client = AwsClient(**local.client_options(), clock=clock)
    ended = Ended(count, lambda _: None)
    async with trio.open_nursery() as nursery:
        backend = make_backend(settings, client, clock=clock)
        engine = Engine(make_tasks(), settings, backend=backend, clock=clock, hooks=[ended])
        await nursery.start(engine.run)
        for begin in range(0, count, _CHUNK):
            some = [Submission(task="done", payload="x" * 100)] * min(_CHUNK, count - begin)
            await engine.submit_many(some)
        await ended.wait(engine)
        await engine.stop()
    clock.jump(_HOURS_AFTER)
    client = AwsClient(**local.client_options(), clock=clock)
    backend = make_backend(settings, client, clock=clock)
    async with backend.open():
        before = time.process_time()
        await backend.stranded(settings.queue, before=clock.now(), limit=1_000)
        swept = time.process_time() - before
        before = time.process_time()
        # The queries of empty shards are in it, and pages are not full: an upper bound.
        await uncounted_changes(
            backend.store._table,
            {"0123456789ab": 0},
            clock.now() - timedelta(days=1),
            before_page=trio.lowlevel.checkpoint,
        )
        recovered = time.process_time() - before
    return {
        # Each entry is looked at twice.
        "cpu_us_per_entry": swept / (2 * count) * 1e6,
        "cpu_us_per_row_recovered": recovered / count * 1e6,
    }


# --- command line -----------------------------------------------------------------------------

PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "cost": cost,
    "cpu": cpu,
    "sweep": sweep,
    "sqlite": sqlite,
}


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args(arguments)
    document = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    for name in args.only:
        document[name] = PARTS[name]() | {"machine": machine()}
        FILE.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

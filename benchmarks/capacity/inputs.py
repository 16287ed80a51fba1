"""What was measured: `benchmarks/results/capacity_inputs.json`, made by
`python -m benchmarks.capacity.measure`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "results"
FILE = RESULTS / "capacity_inputs.json"
SIMULATED = RESULTS / "partition_simulation.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Of SQS and DynamoDB: of one task, or of one second."""

    sqs_requests: float
    write_units: float
    read_units: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OneFile:
    """A SQLite file that was drained."""

    cpu_us: float
    """A task, of all processes."""
    writer_cpu_us: float
    """Of that, of the threads that commit: one at a time in all processes."""
    commits: float
    """A task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    shapes: dict[str, Use]
    """Of one task, by the name that `benchmarks.aws.cost` gives its shape."""
    idle: Use
    """Of a process with nothing to do, in a second."""
    end_to_end_cpu_us: float
    """Submitting a task and running it on SQS and DynamoDB, without HTTP."""
    drain_cpu_us: float
    sweep_cpu_us: float
    """Looking at one entry of the index."""
    recovery_cpu_us: float
    """Looking at one row after a crash."""
    files: dict[str, OneFile]
    sync_seconds: float
    submit_cpu_us: float
    """Of `submit_many` on SQLite."""
    commands: dict[str, str]
    dates: dict[str, str]


def read(path: Path = FILE) -> Inputs:
    found = json.loads(path.read_text(encoding="utf-8"))
    cost, cpu, sweep, sqlite = (found[name] for name in ("cost", "cpu", "sweep", "sqlite"))
    return Inputs(
        shapes={name: Use(**each) for name, each in cost["shapes"].items()},
        idle=Use(**cost["idle_per_second"]),
        end_to_end_cpu_us=cpu["end_to_end"],
        drain_cpu_us=cpu["drain"],
        sweep_cpu_us=sweep["cpu_us_per_entry"],
        recovery_cpu_us=sweep["cpu_us_per_row_recovered"],
        files={
            name: OneFile(
                cpu_us=each["cpu_us_per_task"],
                writer_cpu_us=each["writer_cpu_us_per_task"],
                commits=each["commits_per_task"],
            )
            for name, each in sqlite["drained"].items()
        },
        sync_seconds=sqlite["sync_seconds"],
        submit_cpu_us=sqlite["cpu_us"]["fill"],
        commands={name: part["command"] for name, part in found.items()}
        | {"submit": sqlite["submit_command"]},
        dates={name: part["machine"]["date"] for name, part in found.items()}
        | {"submit": sqlite["machine"]["date"]},
    )

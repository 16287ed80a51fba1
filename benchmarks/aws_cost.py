"""What a million tasks cost on AWS: SQS requests, DynamoDB units and dollars, counted.

    python -m benchmarks.aws_cost
    python -m benchmarks.aws_cost --tasks 500 --shapes "100 B" "one retry" --details

It starts local servers (ElasticMQ for SQS, Amazon's DynamoDB Local), makes queues and table with
the package's own provisioning, fills the queue with tasks of one shape, drains it with the real
engine and its real settings, and does the same with a reference engine that makes the calls of the
usual tutorial. The rows:

- this engine
- reference, index of all attributes: receives in tens, writes each status by itself, sends and
  deletes one by one; its table has a status-index that projects all attributes.
  `benchmarks/cost/reference.py` is that engine.
- reference, index of keys only: the same run, priced for the leanest index it could have.

The columns, all for one task:

- SQS sent, SQS worked: SQS requests of the producing and of the consuming side, as AWS bills them:
  every HTTP request with its retries and empty polls, one more for each further 64 KB of payload.
- worked, all: requests of the consuming side to both services.
- write units: by AWS's published rules from what was really written. A stream on the table gives
  every item before and after; table and index writes follow from that. Local servers do not report
  what indexes cost. Refused and unchanging writes are counted too.
- read units: by the bytes and the consistency of what was read.

The shapes: payloads of 100 B, 1.5 KB and 5 KB; one retry; delayed by an hour; failed and moved to
the dead-letter queue. What does not depend on the number of tasks (opening, looking for due tasks,
gauges, counters) is part of the run it happened in and grows small with --tasks; the line about an
idle engine shows it alone.

Batches grow with the load, and so does what they save: few workers with long tasks ask for few
messages at a time. --workers, --prefetch, --linger and --work show what your own load would cost.

Counted too: what the store does about the same tasks in the hours after, its sweep.

Not counted: storage, data transfer, TTL deletes (free), free tiers, what monitoring asks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio
from rich.progress import Progress
from rich.table import Table

from benchmarks.cost import reference
from benchmarks.cost.engine import NAME, run_engine, run_idle
from benchmarks.cost.prices import PRICES
from benchmarks.cost.reference import ALL, run_reference
from benchmarks.cost.shapes import SHAPES, Idle, Run, Shape, Side
from benchmarks.local import LocalAws
from benchmarks.phases import document_of, make_console, make_progress
from local_aws.servers import stop_all
from task_queue_engine import Settings

GOAL_REQUESTS = 0.35
"""Of the consuming side, a task, at load."""
GOAL_DOLLARS = 0.5
"""Of the reference's."""


def fresh(args: argparse.Namespace) -> LocalAws:
    """Servers that have only just started: DynamoDB Local slows down with the length of its
    streams, and a server that lets requests time out would be billed for their retries."""
    stop_all()
    return LocalAws(args.sqs, "dynamodb-local")


def make_settings(local: LocalAws, args: argparse.Namespace) -> Settings:
    return local.provision(
        worker_count=args.workers, prefetch=args.prefetch, batch_linger=args.linger
    )


def measure(args: argparse.Namespace, shape: Shape, progress: Progress) -> list[Run]:
    engine_bar = progress.add_task(f"{shape.name}, engine", total=args.tasks)
    reference_bar = progress.add_task(f"{shape.name}, reference", total=args.tasks)

    def tick_engine(count: int) -> None:
        progress.update(engine_bar, advance=count)

    def tick_reference(count: int) -> None:
        progress.update(reference_bar, advance=count)

    local = fresh(args)
    settings = make_settings(local, args)
    ours = trio.run(run_engine, local, settings, shape, args.tasks, tick_engine, args.work)
    theirs = trio.run(run_reference, fresh(args), shape, args.tasks, tick_reference)
    return [ours, *theirs]


# --- showing ----------------------------------------------------------------------------------


def summary(runs: Sequence[Run]) -> Table:
    table = Table(title="One task, and the dollars for a million")
    for column in (
        "shape",
        "engine",
        "SQS sent",
        "SQS worked",
        "worked, all",
        "write units",
        "read units",
        "$/million",
        "of reference",
    ):
        left = column in ("shape", "engine")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    dearest = {run.shape: run.per_million(PRICES) for run in runs if run.engine == ALL}
    for run in runs:
        dollars = run.per_million(PRICES)
        table.add_row(
            run.shape if run.engine == NAME else "",
            run.engine,
            f"{run.producing.sqs.total() / run.tasks:.3f}",
            f"{run.consuming.sqs.total() / run.tasks:.3f}",
            f"{run.consuming.requests / run.tasks:.3f}",
            f"{run.write_units / run.tasks:.2f}",
            f"{run.read_units / run.tasks:.3f}",
            f"{dollars:.2f}",
            f"{dollars / dearest[run.shape]:.2f}",
            end_section=run.engine == reference.KEYS_ONLY,
        )
    return table


def details(run: Run) -> Table:
    title = f"{run.shape}, {run.engine}: for one task"
    table = Table(title=title)
    for column in (
        "side",
        "what",
        "requests",
        "writes",
        "table units",
        "index units",
        "read units",
    ):
        left = column in ("side", "what")
        table.add_column(column, justify="left" if left else "right")

    def number(value: float, digits: int = 3) -> str:
        return f"{value / run.tasks:.{digits}f}" if value else ""

    for name, side in (("producing", run.producing), ("consuming", run.consuming)):
        for operation, requests in sorted(side.sqs.items()):
            table.add_row(name, f"SQS {operation}", number(requests))
        for operation, requests in sorted(side.dynamodb.items()):
            reads = side.read_units.get(operation, 0.0)
            table.add_row(
                name, f"DynamoDB {operation}", number(requests), "", "", "", number(reads)
            )
        for change, count in side.writes.writes.items():
            table.add_row(
                name,
                change,
                "",
                number(count),
                number(side.writes.table[change]),
                number(side.writes.indexes[change]),
            )
        for what, units in (("refused", side.refused_units), ("unchanged", side.unchanged)):
            if units:
                table.add_row(name, f"writes {what}", "", "", number(units))
        table.add_section()
    return table


def verdicts(runs: Sequence[Run]) -> Iterator[str]:
    dollars = {(run.shape, run.engine): run.per_million(PRICES) for run in runs}
    for run in runs:
        if run.engine != NAME:
            continue
        other = next(each for each in runs if (each.shape, each.engine) == (run.shape, ALL))
        mine, theirs = (each.consuming.requests / each.tasks for each in (run, other))
        ratio = dollars[run.shape, NAME] / dollars[run.shape, ALL]
        lean = dollars[run.shape, NAME] / dollars[run.shape, reference.KEYS_ONLY]
        # The goal is about a task that comes, runs and is done.
        shape = SHAPES[run.shape]
        plain = shape.outcome == "done" and not shape.delay
        judged = f"{_kept(mine, GOAL_REQUESTS)}; " if plain else ""
        yield (
            f"{run.shape}: {mine:.3f} requests a task on the consuming side "
            f"({judged}reference {theirs:.2f}), {ratio:.2f} of the reference's dollars "
            f"({_kept(ratio, GOAL_DOLLARS)}), {lean:.2f} of those with an index of keys only"
        )


def about_retries(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        retries = run.producing.retries + run.consuming.retries
        if retries and run.engine != reference.KEYS_ONLY:
            yield (
                f"{run.shape}, {run.engine}: {retries} of the requests were retries, which are "
                "billed: the local servers were too slow. Try fewer --tasks, or a quieter machine."
            )


def _kept(value: float, goal: float) -> str:
    return f"goal {goal:g}: {'kept' if value <= goal else 'MISSED'}"


def about_idle(idle: Idle) -> str:
    a_day = 86_400 / idle.seconds
    return (
        f"An idle engine, {idle.seconds:.0f} s of it taken for a day: "
        f"{idle.sqs.total() * a_day:,.0f} SQS requests, {idle.read_units * a_day:,.0f} read units, "
        f"{idle.write_units * a_day:,.0f} write units, ${idle.per_day(PRICES):.3f} a day"
    )


def about_prices() -> str:
    return (
        f"Prices: {PRICES.region}, since {PRICES.since}; {PRICES.source}. For a million: SQS "
        f"requests ${PRICES.sqs_requests}, write units ${PRICES.write_units}, read units "
        f"${PRICES.read_units}."
    )


def as_json(runs: Sequence[Run], idle: Idle | None) -> dict[str, Any]:
    def side(of: Side, tasks: int) -> dict[str, Any]:
        return {
            "sqs_requests": dict(of.sqs),
            "dynamodb_requests": dict(of.dynamodb),
            "read_units": of.read_units,
            "writes": dict(of.writes.writes),
            "table_units": dict(of.writes.table),
            "index_units": dict(of.writes.indexes),
            "units_by_index": dict(of.writes.by_index),
            "refused_units": of.refused_units,
            "unchanged_writes": of.unchanged,
            "retries": of.retries,
            "requests_per_task": of.requests / tasks,
        }

    return {
        "prices": asdict(PRICES),
        "runs": [
            {
                "engine": run.engine,
                "shape": run.shape,
                "tasks": run.tasks,
                "seconds": run.seconds,
                "producing": side(run.producing, run.tasks),
                "consuming": side(run.consuming, run.tasks),
                "write_units_per_task": run.write_units / run.tasks,
                "read_units_per_task": run.read_units / run.tasks,
                "dollars_per_million": run.per_million(PRICES),
            }
            for run in runs
        ],
        "idle": idle
        and {
            "seconds": idle.seconds,
            "sqs_requests": dict(idle.sqs),
            "read_units": idle.read_units,
            "write_units": idle.write_units,
            "dollars_a_day": idle.per_day(PRICES),
        },
    }


# --- command line -----------------------------------------------------------------------------


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aws_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=3000, help="of each shape (3000)")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--workers", type=int, default=100, help="WORKER_COUNT (100)")
    parser.add_argument("--prefetch", type=int, default=100, help="TQE_PREFETCH (100)")
    parser.add_argument("--linger", type=float, default=0.0, help="TQE_BATCH_LINGER (0)")
    parser.add_argument(
        "--work", type=float, default=0.0, help="seconds an attempt takes in this engine (0)"
    )
    parser.add_argument(
        "--idle", type=float, default=60.0, help="seconds to watch an idle engine, or 0 (60)"
    )
    parser.add_argument("--sqs", choices=("elasticmq", "fauxqs"), default="elasticmq")
    parser.add_argument("--details", action="store_true", help="by operation and kind of write")
    parser.add_argument("--json", metavar="FILE", help="write the results there as well")
    args = parser.parse_args(arguments)
    if min(args.tasks, args.workers) < 1 or min(args.prefetch, args.idle, args.work) < 0:
        parser.error("--tasks and --workers need at least 1; others cannot be below 0")
    if not 0 <= args.linger <= 1:
        parser.error("--linger is 0 to 1")
    return args


def main(arguments: Sequence[str] | None = None) -> list[Run]:
    args = parse_arguments(arguments)
    runs: list[Run] = []
    idle: Idle | None = None
    with make_progress() as progress:
        for name in args.shapes:
            runs += measure(args, SHAPES[name], progress)
        if args.idle:
            local = fresh(args)
            settings = make_settings(local, args)
            progress.add_task("idle engine", total=None)
            idle = trio.run(run_idle, local, settings, args.idle)
    console = make_console()
    console.print(summary(runs))
    if args.details:
        for run in runs:
            console.print(details(run))
    for line in (*verdicts(runs), *about_retries(runs)):
        console.print(line, soft_wrap=True)
    if idle is not None:
        console.print(about_idle(idle), soft_wrap=True)
    console.print(about_prices(), soft_wrap=True)
    if args.json:
        document = document_of(args, as_json(runs, idle))
        Path(args.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return runs


if __name__ == "__main__":
    main()

"""What a million tasks cost on AWS: SQS requests, DynamoDB units and dollars, counted.

    python -m benchmarks.aws.cost
    python -m benchmarks.aws.cost --tasks 500 --shapes "100 B" "one retry" --details

It starts local servers (ElasticMQ for SQS, Amazon's DynamoDB Local), makes queues and table with
the package's own provisioning, fills the queue with tasks of one shape, drains it with the real
engine and its real settings, and does the same with a reference engine that makes the calls of the
usual tutorial. The rows:

- this engine
- reference, index of all attributes: receives in tens, writes each status by itself, sends and
  deletes one by one; its table has a status-index that projects all attributes.
  `benchmarks/aws/cost/reference.py` is that engine.
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
from collections.abc import Sequence
from pathlib import Path

import trio

from benchmarks.aws.cost.engine import run_engine, run_idle
from benchmarks.aws.cost.reference import run_reference
from benchmarks.aws.cost.report import (
    about_idle,
    about_prices,
    about_retries,
    as_json,
    details,
    summary,
    verdicts,
)
from benchmarks.aws.cost.shapes import SHAPES, Idle, Run, Shape
from benchmarks.aws.setup import provisioned, started
from benchmarks.phases import document_of
from benchmarks.tables import Progress
from local_aws.pairs import LocalAws
from local_aws.servers import stop_all
from task_queue_engine import Settings


def fresh(args: argparse.Namespace) -> LocalAws:
    """Servers that have only just started: DynamoDB Local slows down with the length of its
    streams, and a server that lets requests time out would be billed for their retries."""
    stop_all()
    return started(args.sqs, "dynamodb-local")


def make_settings(local: LocalAws, args: argparse.Namespace) -> Settings:
    return provisioned(
        local, worker_count=args.workers, prefetch=args.prefetch, batch_linger=args.linger
    )


def measure(args: argparse.Namespace, shape: Shape) -> list[Run]:
    local = fresh(args)
    settings = make_settings(local, args)
    with Progress(f"{shape.name}, engine", args.tasks) as progress:
        ours = trio.run(run_engine, local, settings, shape, args.tasks, progress.advance, args.work)
    with Progress(f"{shape.name}, reference", args.tasks) as progress:
        theirs = trio.run(run_reference, fresh(args), shape, args.tasks, progress.advance)
    return [ours, *theirs]


# --- command line -----------------------------------------------------------------------------


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aws.cost",
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
    for name in args.shapes:
        runs += measure(args, SHAPES[name])
    if args.idle:
        local = fresh(args)
        idle = trio.run(run_idle, local, make_settings(local, args), args.idle)
    print(summary(runs))
    if args.details:
        for run in runs:
            print(details(run))
    for line in (*verdicts(runs), *about_retries(runs)):
        print(line)
    if idle is not None:
        print(about_idle(idle))
    print(about_prices())
    if args.json:
        document = document_of(args, as_json(runs, idle))
        Path(args.json).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return runs


if __name__ == "__main__":
    main()

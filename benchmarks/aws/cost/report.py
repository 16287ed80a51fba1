"""The figures of the runs: as tables, as sentences, as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.aws.cost import reference
from benchmarks.aws.cost.engine import NAME
from benchmarks.aws.cost.reference import ALL
from benchmarks.aws.cost.shapes import SHAPES, Idle, Run, Side
from benchmarks.tables import table
from task_queue_engine.backends.aws.prices import PRICES

GOAL_REQUESTS = 0.35
"""Of the consuming side, a task, at load."""
GOAL_DOLLARS = 0.5
"""Of the reference's."""


def summary(runs: Sequence[Run]) -> str:
    header = (
        "shape",
        "engine",
        "SQS sent",
        "SQS worked",
        "worked, all",
        "write units",
        "read units",
        "$/million",
        "of reference",
    )
    dearest = {run.shape: run.per_million(PRICES) for run in runs if run.engine == ALL}
    rows: list[list[str]] = []
    for run in runs:
        dollars = run.per_million(PRICES)
        rows.append(
            [
                run.shape if run.engine == NAME else "",
                run.engine,
                f"{run.producing.sqs.total() / run.tasks:.3f}",
                f"{run.consuming.sqs.total() / run.tasks:.3f}",
                f"{run.consuming.requests / run.tasks:.3f}",
                f"{run.write_units / run.tasks:.2f}",
                f"{run.read_units / run.tasks:.3f}",
                f"{dollars:.2f}",
                f"{dollars / dearest[run.shape]:.2f}",
            ]
        )
        if run.engine == reference.KEYS_ONLY:
            rows.append([])
    return table("One task, and the dollars for a million", header, rows, left=2)


def details(run: Run) -> str:
    header = ("side", "what", "requests", "writes", "table units", "index units", "read units")
    rows: list[list[str]] = []

    def number(value: float, digits: int = 3) -> str:
        return f"{value / run.tasks:.{digits}f}" if value else ""

    for name, side in (("producing", run.producing), ("consuming", run.consuming)):
        for operation, requests in sorted(side.sqs.items()):
            rows.append([name, f"SQS {operation}", number(requests), "", "", "", ""])
        for operation, requests in sorted(side.dynamodb.items()):
            reads = number(side.read_units.get(operation, 0.0))
            rows.append([name, f"DynamoDB {operation}", number(requests), "", "", "", reads])
        for change, count in side.writes.writes.items():
            units = (number(side.writes.table[change]), number(side.writes.indexes[change]))
            rows.append([name, change, "", number(count), *units, ""])
        for what, units_of_all in (("refused", side.refused_units), ("unchanged", side.unchanged)):
            if units_of_all:
                rows.append([name, f"writes {what}", "", "", number(units_of_all), "", ""])
        rows.append([])
    return table(f"{run.shape}, {run.engine}: for one task", header, rows, left=2)


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
        f"Prices: {PRICES.region}, since {PRICES.since} ({PRICES.note}); {PRICES.source}. "
        f"For a million: SQS requests ${PRICES.sqs_requests}, write units ${PRICES.write_units}, "
        f"read units ${PRICES.read_units}."
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

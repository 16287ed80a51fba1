"""The tables of docs/scaling.md, each a function of what was measured and simulated, and how they
get into the document: between two markers that name the table."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.capacity import counter_items, inputs, model, quotas
from benchmarks.capacity.inputs import Inputs
from benchmarks.capacity.pattern import ONCE, SHAPES
from task_queue_engine.backends.aws.prices import PRICES

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "scaling.md"

_MARKED = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.S)

# Milliseconds of a sync: this machine's is added.
_DISKS = {
    "a drive with a cache that survives a power cut": 0.0001,
    "a cloud's SSD volume": 0.001,
    "a consumer's SSD": 0.004,
    "a disk that turns": 0.010,
}


@dataclass(frozen=True, slots=True)
class Known:
    """All that the tables are made from."""

    inputs: Inputs
    simulated: Mapping[str, Any]

    @classmethod
    def read(cls) -> Known:
        simulated = json.loads(inputs.SIMULATED.read_text(encoding="utf-8"))
        return cls(inputs.read(), simulated)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def count(value: float) -> str:
    """Three figures that mean something."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "no limit"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(0, min(digits, 2 if value >= 1 else digits))}f}"


# --- AWS --------------------------------------------------------------------------------------


def rates(known: Known) -> str:
    rows = []
    for rate in model.RATES:
        plan = model.plan(rate, known.inputs)
        rows.append(
            [
                f"{rate:,}",
                f"{plan.processes:,}",
                f"{plan.tables:,}",
                count(plan.use.sqs_requests),
                count(plan.use.write_units),
                count(plan.use.read_units),
                f"${count(plan.dollars_a_day)}",
                f"${count(plan.dollars_a_month)}",
                f"${count(plan.dollars_a_million)}",
            ]
        )
    header = (
        "tasks/s",
        "processes (a core each)",
        "tables and queues",
        "SQS requests/s",
        "write units/s",
        "read units/s",
        "a day",
        "30 days",
        "a million tasks",
    )
    return markdown(header, rows)


_REMEDIES: dict[str, str] = {
    "ask AWS": "a quota that is raised on request",
    "warm up": "warm throughput, or an hour of growing load",
    "more shards": "more tables",
    "more processes": "more processes",
}


def ends(known: Known) -> str:
    rows = [
        [limit.what, count(limit.tasks_per_second), _REMEDIES[limit.remedy]]
        for limit in model.limits(ONCE, known.inputs)
    ]
    rows.append(
        [
            f"the queue: {quotas.IN_FLIGHT.value:,.0f} messages in hand, tasks of 10 s",
            count(quotas.IN_FLIGHT.value / 10),
            "more queues, or ask AWS",
        ]
    )
    rows.sort(key=lambda row: float(row[1].replace(",", "")))
    return markdown(("of one table and one queue", "tasks/s", "what moves it"), rows)


def turns(known: Known) -> str:
    rows = [
        [f"{interval:g}"]
        + [
            count(model.sweep_rate(number, known.inputs, interval=interval))
            for number in model.SWEEPERS
        ]
        for interval in (30.0, 15.0, 10.0)
    ]
    header = ("`TQE_RECONCILE_INTERVAL`", *(f"{number} on a table" for number in model.SWEEPERS))
    return markdown(header, rows)


def shapes(known: Known) -> str:
    rows = []
    for shape in SHAPES:
        keys = model.key_limits(shape)
        lowest = min(keys, key=lambda limit: limit.tasks_per_second)
        measured = known.inputs.shapes.get(shape.measured or "")
        rows.append(
            [
                shape.name,
                str(model.units_a_task(shape)),
                "" if measured is None else f"{measured.write_units:.2f}",
                lowest.what,
                count(lowest.tasks_per_second),
            ]
        )
    header = ("a task that", "write units", "measured", "its hottest keys", "end at, tasks/s")
    return markdown(header, rows)


def simulation(known: Known) -> str:
    rows = []
    for shape in SHAPES:
        found = known.simulated["tasks"][shape.name]
        new, split = found["new"], found["split for heat"]
        rows.append(
            [
                shape.name,
                count(new["rate"]),
                new["hottest"],
                count(min(limit.tasks_per_second for limit in model.key_limits(shape))),
                count(split["rate"]),
                split["hottest"],
            ]
        )
    header = (
        "a task that",
        "new table: throttles at, tasks/s",
        "where",
        "grown table, by the model",
        "simulated",
        "where",
    )
    return markdown(header, rows)


def processes(known: Known) -> str:
    rows = []
    for each in (1, 10, 50, 100, 250, 500, 1_000):
        units = counter_items.write_units(each)
        a_day = PRICES.dollars(write_units=units) * 86_400
        size = counter_items.size_of(round(each / 4))
        between = counter_items.seconds_between(counter_items.units_a_flush(round(each / 4)))
        rows.append([f"{each:,}", f"{size:,}", f"{between:g}", count(units), f"${count(a_day)}"])
    header = (
        "busy processes on a table",
        "bytes an item",
        "seconds between flushes",
        "write units/s",
        "a day",
    )
    return markdown(header, rows)


def process_limits(known: Known) -> str:
    most = model.most_processes()
    rows = [
        [
            {"calm": "plain tasks", "urgent": "retries, snoozes, cancels, all the time"}[name],
            f"{most[name]:,}",
            f"{found['rate']:,}",
        ]
        for name, found in known.simulated["processes"].items()
    ]
    reads = quotas.PARTITION_READS.value
    gauges = counter_items.most_readers(reads)
    rows.append(["reads of the items: gauges, marks of dead processes", f"{gauges:,}", ""])
    # Half a unit, every TQE_CANCEL_POLL (1 s), of the one key of cancel-index.
    rows.append(["looks for cancelled tasks, one a second", f"{reads / 0.5:,.0f}", ""])
    return markdown(("what ends it", "model", "simulated, real names"), rows)


def recoveries(known: Known) -> str:
    rows = []
    for rate, age in ((100.0, 10.0), (1_000.0, 10.0), (10_000.0, 10.0), (10_000.0, 900.0)):
        found = model.recovery(rate, known.inputs, age=age)
        dollars = PRICES.dollars(read_units=found.read_units)
        rows.append(
            [
                count(rate),
                f"{age:g} s",
                count(found.rows),
                count(model.NOTICED_AFTER + found.seconds),
                count(found.seconds),
                count(found.read_units),
                f"${count(dollars)}",
            ]
        )
    header = (
        "tasks/s",
        "oldest in hand",
        "rows read",
        "counts right after, s",
        "of that reading, s",
        "read units",
        "dollars",
    )
    return markdown(header, rows)


def hold(known: Known) -> str:
    rows = [
        [f"{rate:,}", count(model.in_flight_seconds(rate))]
        for rate in (100, 1_000, 10_000, 100_000, 1_000_000)
    ]
    return markdown(("tasks/s of a queue", "seconds that a task may take"), rows)


def aws_quotas(known: Known) -> str:
    rows = [
        [
            quota.name,
            "no limit named" if math.isinf(quota.value) else f"{quota.value:,.0f} {quota.unit}",
            str(quota.page) + (f"; {quota.note}" if quota.note else ""),
        ]
        for quota in quotas.ALL
    ]
    return markdown(("quota", "value", "source"), rows)


def aws_inputs(known: Known) -> str:
    found = known.inputs
    rows = [
        [
            "a task that runs once: SQS requests, write units, read units",
            ", ".join(
                f"{value:.2f}"
                for value in (
                    found.shapes["100 B"].sqs_requests,
                    found.shapes["100 B"].write_units,
                    found.shapes["100 B"].read_units,
                )
            ),
            "cost",
        ],
        ["CPU of submitting and running a task, us", f"{found.end_to_end_cpu_us:.0f}", "cpu"],
        ["CPU of running one from a full queue, us", f"{found.drain_cpu_us:.0f}", "cpu"],
        ["CPU of the sweep's look at an entry, us", f"{found.sweep_cpu_us:.0f}", "sweep"],
        [
            "CPU of looking at a row after a crash, at most, us",
            f"{found.recovery_cpu_us:.0f}",
            "sweep",
        ],
        ["CPU of `submit_many` on SQLite, us", f"{found.submit_cpu_us:.0f}", "submit"],
        ["a sync of the disk, ms", f"{found.sync_seconds * 1e3:.2f}", "sqlite"],
    ]
    described = [
        [
            what,
            value,
            f"`{found.commands[part]}`, {found.dates[part]}",
        ]
        for what, value, part in rows
    ]
    return markdown(("measured", "value", "with"), described)


# --- SQLite -----------------------------------------------------------------------------------


def files(known: Known) -> str:
    rows = []
    disks = {"the disk that was measured": known.inputs.sync_seconds, **_DISKS}
    for disk, sync in disks.items():
        cells = [
            count(model.file_rate(known.inputs, name, sync, processes=number))
            for name, number in (("as it comes", 1), ("tuned", 1), ("tuned", 2), ("tuned", 4))
        ]
        rows.append([disk, f"{sync * 1e3:.2g}", *cells])
    header = (
        "disk",
        "ms a sync",
        "5 workers",
        "64 workers",
        "2 processes of 64",
        "4 processes of 64",
    )
    return markdown(header, rows)


def file_inputs(known: Known) -> str:
    rows = [
        [name, f"{file.cpu_us:.0f}", f"{file.writer_cpu_us:.0f}", f"{file.commits:.3f}"]
        for name, file in known.inputs.files.items()
    ]
    header = ("one file", "CPU us a task", "of it in the writer", "commits a task")
    return markdown(header, rows)


TABLES: dict[str, Callable[[Known], str]] = {
    table.__name__: table
    for table in (
        rates,
        ends,
        turns,
        shapes,
        simulation,
        processes,
        process_limits,
        recoveries,
        hold,
        aws_quotas,
        aws_inputs,
        files,
        file_inputs,
    )
}


# --- the document -----------------------------------------------------------------------------


def written(text: str, known: Known) -> str:
    """The document with its tables as they are to be.

    Raises:
        ValueError: it names a table that there is not, or lacks one that there is.
    """
    named = [match[2] for match in _MARKED.finditer(text)]
    if sorted(named) != sorted(TABLES):
        differs = sorted(set(named) ^ set(TABLES)) or sorted(named)
        raise ValueError(f"the document's markers and the tables differ: {', '.join(differs)}")
    return _MARKED.sub(lambda match: match[1] + TABLES[match[2]](known) + match[4], text)

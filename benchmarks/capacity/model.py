"""Where one table and one queue end, what a rate takes, and what it costs.

Units and keys are those of `pattern`, which the engine's own functions make; requests, units at
load and CPU were measured (`inputs`); quotas are AWS's (`quotas`), prices `benchmarks.aws.cost`'s.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from benchmarks.capacity import counter_items, quotas, sweep_turns
from benchmarks.capacity.inputs import Inputs, Use
from benchmarks.capacity.pattern import ONCE, TABLE, Shape
from task_queue_engine.backends.aws.dynamodb import crash_recovery, schema, task_ages
from task_queue_engine.backends.aws.dynamodb.process_marks import FOUND_UP_TO_AGE
from task_queue_engine.backends.aws.dynamodb.table_client import MAX_KEYS
from task_queue_engine.backends.aws.prices import PRICES

HEADROOM = 0.8
"""Of a limit that is planned with: tasks do not come evenly, and a table at its limit throttles."""

REQUEST_SECONDS = 0.008
"""A request's round trip inside a region: assumed, as in the benchmarks with a delay."""

SWEEPERS = (1, 10, 100)
"""Processes on a table. Plans take the second: what a table's load needs, and some for handlers."""

RATES = (1, 100, 10_000, 1_000_000)

_SECONDS_A_DAY = 86_400
_DAYS_A_MONTH = 30
# Seconds for which settled messages wait for company on SQS: `sqs.queue`.
_DELETE_LINGER = 0.1

_SHARDS = {"DUE": schema.DUE_SHARDS, schema.CANCEL_SHARD: 1}

Remedy = Literal["ask AWS", "warm up", "more shards", "more processes"]


@dataclass(frozen=True, slots=True)
class Limit:
    what: str
    tasks_per_second: float
    remedy: Remedy


# --- limits of a table ------------------------------------------------------------------------


def units_by_key(shape: Shape) -> Counter[tuple[str, str]]:
    """Write units of one task by store and group of keys, the shard's number left out."""
    found: Counter[tuple[str, str]] = Counter()
    for step in shape.steps(created=0.0, rng=random.Random(0)):
        for touch in step.touches:
            group = "" if touch.store == TABLE else touch.partition_key.partition("#")[0]
            found[touch.store, group] += touch.units
    return found


def units_by_store(shape: Shape) -> Counter[str]:
    found: Counter[str] = Counter()
    for (store, _), units in units_by_key(shape).items():
        found[store] += units
    return found


def keys_of(group: str) -> int:
    """How many partition keys share the load of such a group."""
    return _SHARDS.get(group, schema.STATUS_SHARDS)


def key_limits(shape: Shape) -> list[Limit]:
    """By the keys of the indexes, taken as not to be split. Ids, the table's keys, are uniform:
    DynamoDB splits those for as long as it is asked to."""
    found: list[Limit] = []
    for (store, group), units in units_by_key(shape).items():
        if store != TABLE:
            rate = quotas.PARTITION_WRITES.value * keys_of(group) / units
            named = f"`{store}`, {keys_of(group)} key{'s' * (keys_of(group) > 1)} `{group}`"
            found.append(Limit(named, rate, "more shards"))
    return found


def limits(shape: Shape, inputs: Inputs) -> list[Limit]:
    """Of one table and one queue, the lowest first."""
    by_store = units_by_store(shape)
    found = key_limits(shape)
    for store, units in by_store.items():
        name = "the table" if store == TABLE else f"`{store}`"
        new, old = quotas.NEW_TABLE_WRITES.value, quotas.TABLE_WRITES.value
        found.append(Limit(f"{name}, new: {new:,.0f} units/s", new / units, "warm up"))
        found.append(Limit(f"{name}, default quota: {old:,.0f} units/s", old / units, "ask AWS"))
    for processes in SWEEPERS:
        rate = sweep_rate(processes, inputs)
        named = f"the sweep, by {processes} process{'es' * (processes > 1)}"
        found.append(Limit(named, rate, "more processes"))
    return sorted(found, key=lambda limit: limit.tasks_per_second)


def sweep_rate(processes: int, inputs: Inputs, *, interval: float = sweep_turns.INTERVAL) -> float:
    """Tasks a second that the sweep keeps up with.

    Args:
        interval: TQE_RECONCILE_INTERVAL.
    """
    page = sweep_turns.page_seconds(
        cpu_us_per_entry=inputs.sweep_cpu_us, request_seconds=REQUEST_SECONDS
    )
    return sweep_turns.tasks_per_second(processes, page, interval=interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What one killed process makes another one do."""

    rows: float
    seconds: float
    """Of reading, after those until the process counts as dead."""
    read_units: float


NOTICED_AFTER = crash_recovery.DEAD_AFTER + 2 * 1.2 * crash_recovery._LOOK_EVERY
"""Seconds after the last flush until a process that was killed counts as dead, at most."""


def recovery(rate: float, inputs: Inputs, *, age: float) -> Recovery:
    """
    Args:
        age: in seconds, of the oldest task that it had in hand.
    """
    back = min(max(age, task_ages._LEAST_AGE.total_seconds()), FOUND_UP_TO_AGE.total_seconds())
    rows = rate * (back + crash_recovery._SKEW.total_seconds() + NOTICED_AFTER)
    gets = crash_recovery._PAGE / MAX_KEYS
    pages = rows / crash_recovery._PAGE / crash_recovery._PAGES_AT_ONCE
    at_once = crash_recovery._PAGES_AT_ONCE * gets / sweep_turns.CONCURRENCY
    waiting = pages * (1 + math.ceil(at_once)) * REQUEST_SECONDS
    # Half a unit a row, and 290 bytes of index entry a row in half units of 4 KB: ADR 0031.
    return Recovery(
        rows=rows,
        seconds=rows * inputs.recovery_cpu_us / 1e6 + waiting,
        read_units=0.55 * rows,
    )


def in_flight_seconds(rate: float) -> float:
    """Seconds that a message may be in hand, from its receipt to its deletion."""
    return quotas.IN_FLIGHT.value / rate


def most_processes() -> dict[str, int]:
    """Busy processes that one table's counters take."""
    limit = quotas.PARTITION_WRITES.value
    return {kind: counter_items.most_processes(limit, kind) for kind in counter_items.KINDS}


# --- what a rate takes ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    rate: float
    processes: int
    tables: int
    use: Use
    """A second, of all."""
    counter_write_units: float
    """Of the write units: what processes write to say how far they are."""
    dollars_a_day: float
    first: Limit
    """What ends first of one table, planned with no headroom."""

    @property
    def dollars_a_month(self) -> float:
        return self.dollars_a_day * _DAYS_A_MONTH

    @property
    def dollars_a_million(self) -> float:
        return self.dollars_a_day / _SECONDS_A_DAY / self.rate * 1e6


def table_rate(inputs: Inputs, shape: Shape = ONCE) -> float:
    """Tasks a second planned for one table: what cannot be raised by asking, less the headroom."""
    keys = [limit.tasks_per_second for limit in key_limits(shape)]
    return HEADROOM * min(*keys, sweep_rate(SWEEPERS[1], inputs))


def sqs_requests(rate_of_process: float, inputs: Inputs) -> float:
    """A task: sent, received and deleted in batches of what comes together within a round trip or
    the linger of deletions. At load, what was measured: renewals and gauges are in it."""
    windows = (REQUEST_SECONDS, REQUEST_SECONDS, _DELETE_LINGER)
    most = quotas.BATCH.value
    calls = sum(1 / min(most, max(1.0, rate_of_process * window)) for window in windows)
    return max(calls, inputs.shapes[ONCE.measured or ""].sqs_requests)


def plan(rate: float, inputs: Inputs) -> Plan:
    """For tasks that run once, submitted and run by processes whose handlers take no CPU."""
    at_load = inputs.shapes[ONCE.measured or ""]
    tables = math.ceil(rate / table_rate(inputs))
    # Each entry is looked at twice.
    busy = rate * (inputs.end_to_end_cpu_us + 2 * inputs.sweep_cpu_us) / 1e6
    processes = max(tables, math.ceil(busy / HEADROOM))
    counting = tables * counter_items.write_units(math.ceil(processes / tables))
    use = Use(
        sqs_requests=rate * sqs_requests(rate / processes, inputs)
        + processes * inputs.idle.sqs_requests,
        write_units=rate * units_a_task() + counting + processes * inputs.idle.write_units,
        read_units=rate * at_load.read_units + processes * inputs.idle.read_units,
    )
    dollars = PRICES.dollars(
        sqs_requests=use.sqs_requests, write_units=use.write_units, read_units=use.read_units
    )
    return Plan(
        rate=rate,
        processes=processes,
        tables=tables,
        use=use,
        counter_write_units=counting,
        dollars_a_day=dollars * _SECONDS_A_DAY,
        first=limits(ONCE, inputs)[0],
    )


def units_a_task(shape: Shape = ONCE) -> int:
    return units_by_store(shape).total()


# --- one file ---------------------------------------------------------------------------------


def file_rate(inputs: Inputs, name: str, sync_seconds: float, *, processes: int = 1) -> float:
    """Tasks a second that one SQLite file is drained at: by the cores of its processes, or by the
    one writer at a time, with the disk's syncs in its way. Of the settings that were measured."""
    file = inputs.files[name]
    writing = file.writer_cpu_us / 1e6 + file.commits * sync_seconds
    by_cores = processes / (file.cpu_us / 1e6)
    return min(by_cores, 1 / writing)

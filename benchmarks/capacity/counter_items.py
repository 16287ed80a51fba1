"""The counter items: every busy process writes to one of them, and all of them grow with the number
of processes, since each has a mark of its own there (`process_marks`). So the larger the item, the
rarer the writes."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

from benchmarks.aws.cost import units
from task_queue_engine.backends.aws.dynamodb import counters, crash_recovery, schema
from task_queue_engine.backends.aws.dynamodb.item_format import Item
from task_queue_engine.backends.aws.dynamodb.process_marks import mark_names
from task_queue_engine.backends.aws.dynamodb.totals import MOVES
from task_queue_engine.task import TaskStatus

KINDS = ("calm", "urgent")
"""Of what a busy process does: `counters` flushes every so many seconds as a flush takes units, and
ten times as often what a crash would lose for good: retries, snoozes, cancels, changes of tasks
that are older than the process has said."""

GAUGES_EVERY = 5.0
"""Seconds: TQE_METRICS_INTERVAL."""

# Of a process that has written for some days: milliseconds of the clock, and a number of writes.
_FLUSHED, _SETTLED, _AGE = "1767225600123", "123456789", "120"
_NAME_BITS = 48  # as `write_tokens.new_process` makes them


def process_names(count: int, rng: random.Random) -> list[str]:
    return [f"{rng.getrandbits(_NAME_BITS):012x}" for _ in range(count)]


def item_of(process: str) -> str:
    """The id of the counter item that this process writes to."""
    return schema.counter_ids()[schema.shard_of(process, schema.COUNTER_SHARDS)]


def size_of(processes: int) -> int:
    """Bytes of a counter item in which so many processes have their marks."""
    item: Item = {"id": {"S": schema.counter_ids()[0]}}
    item |= {name.value.lower(): {"N": "123456789"} for name in TaskStatus}
    item[MOVES] = {"N": "1234567890"}
    for number in range(processes):
        flushed, upto, age = mark_names(f"{number:012x}")
        item |= {flushed: {"N": _FLUSHED}, upto: {"N": _SETTLED}, age: {"N": _AGE}}
    return units.item_size(item)


def units_a_flush(processes: int) -> int:
    return units.write_units(size_of(processes))


def read_units(processes: int) -> float:
    """A second, of one of the items: every process reads all of them, for its gauges and for the
    marks of dead ones."""
    size = size_of(round(processes / schema.COUNTER_SHARDS))
    gauges = units.read_units(size, consistent=True) / GAUGES_EVERY
    marks = units.read_units(size, consistent=False) / crash_recovery._LOOK_EVERY
    return processes * (gauges + marks)


def most_readers(partition_reads: float) -> int:
    """So many processes keep what they read of an item within what its partition gives."""
    count = schema.COUNTER_SHARDS
    while read_units(count + schema.COUNTER_SHARDS) <= partition_reads:
        count += schema.COUNTER_SHARDS
    return count


def seconds_between(units: int, kind: str = KINDS[0]) -> float:
    """Between two flushes of a process whose flush takes so many units."""
    calm = min(units, counters.LONGEST)
    return calm if kind == KINDS[0] else min(units * counters._URGENT_INTERVAL, calm)


def write_units(processes: int, kind: str = KINDS[0]) -> float:
    """A second, of all items, where the processes are spread evenly."""
    units = units_a_flush(round(processes / schema.COUNTER_SHARDS))
    return processes * units / seconds_between(units, kind)


def fullest(names: list[str]) -> tuple[str, int]:
    """The item that most of these write to, and how many do."""
    return Counter(map(item_of, names)).most_common(1)[0]


@cache
def most_processes(partition_writes: float, kind: str = KINDS[0]) -> int:
    """So many busy processes the items take, spread evenly: more, and an item is over what its
    partition takes. One item cannot be split."""
    count = schema.COUNTER_SHARDS
    while True:
        more = count + schema.COUNTER_SHARDS
        if write_units(more, kind) / schema.COUNTER_SHARDS > partition_writes:
            return count
        count = more

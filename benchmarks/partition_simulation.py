"""Where a table throttles first: the engine's own writes against partitions of DynamoDB's sizes.

    python -m benchmarks.partition_simulation
    python -m benchmarks.partition_simulation --shapes "retried once" --rate 4000 --seconds 600
    python -m benchmarks.partition_simulation --json benchmarks/results/partition_simulation.json

Time is virtual and chance is seeded: the same arguments give the same answer, on any machine. Tasks
are created at a steady rate; each is written when and as `benchmarks.capacity.pattern` says, which
asks the engine's own functions. A write is carried out if the table's partition and that of every
index entry have room (an index without room throttles the table: back pressure), else it is
counted and dropped; the engine would send it again. `benchmarks.capacity.partitions` is how a table
is kept.

`--scale` divides rates and limits alike: 100 asks for a hundredth of the tasks of a hundredth of
the table. Without `--rate` it looks for the rate that each shape ends at: the highest at which not
more than one write in 200 is throttled in the last third of the run.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.capacity import counter_items, model, quotas
from benchmarks.capacity.partitions import Store
from benchmarks.capacity.pattern import INDEXES, SHAPES, TABLE, Shape, Step, Touch
from benchmarks.tables import table as as_text
from task_queue_engine.backends.aws.dynamodb import schema

TOLERATED = 1 / 200
"""Share of throttled writes: what the engine's retries make up for without being noticed."""

_NEW_PARTITIONS = int(quotas.NEW_TABLE_WRITES.value / quotas.PARTITION_WRITES.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    scale: float = 400.0
    seconds: int = 600
    seed: int = 1
    splits: bool = True
    grown: bool = True
    """The table itself has long been split as its load asks, its indexes begin as new ones do;
    without it the whole table is new, with the quota that such a one has."""
    saved_seconds: float = quotas.BURST_SECONDS.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    rate: float
    """Tasks a second, or busy processes."""
    throttled: float
    """Share of the writes in the last third."""
    hottest: str = ""
    """What throttled most of these: a key, of an index or of the table, or a quota."""
    partitions: dict[str, int]

    @property
    def holds(self) -> bool:
        return self.throttled <= TOLERATED


# --- one run ----------------------------------------------------------------------------------


def stores_for(rate: float, conditions: Conditions) -> dict[str, Store]:
    quota = quotas.TABLE_WRITES if conditions.grown else quotas.NEW_TABLE_WRITES
    # Twice as many as a load of 3 units a task needs: ids are uniform, and chance is not even.
    enough = math.ceil(2 * 3 * rate / quotas.PARTITION_WRITES.value)

    def store(name: str, partitions: int) -> Store:
        return Store(
            name,
            partitions=partitions,
            limit=quotas.PARTITION_WRITES.value / conditions.scale,
            quota=quota.value / conditions.scale,
            saved_seconds=conditions.saved_seconds,
            splits=conditions.splits,
        )

    whole = max(_NEW_PARTITIONS, enough) if conditions.grown else _NEW_PARTITIONS
    return {TABLE: store(TABLE, whole)} | {
        index.name: store(index.name, _NEW_PARTITIONS) for index in INDEXES
    }


def carry_out(stores: dict[str, Store], touches: Sequence[Touch]) -> bool:
    """All of it or nothing."""
    # Every one is asked, so that each of several hot keys is seen.
    room = [stores[t.store].has_room(t.partition_key, t.sort_key, t.units) for t in touches]
    if not all(room):
        return False
    for touch in touches:
        stores[touch.store].take(touch.partition_key, touch.sort_key, touch.units)
    return True


class Tasks:
    """Tasks of one shape as they come, second by second: runs at several rates share them."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self._shape = shape
        self._seed = seed
        self._made: dict[int, tuple[random.Random, list[list[tuple[float, Step]]]]] = {}

    @property
    def longest(self) -> int:
        """Seconds from the creation of one to its last write, rounded up."""
        return math.ceil(
            max(step.at for step in self._shape.steps(created=0, rng=random.Random(0)))
        )

    def of(self, second: int, number: int) -> list[list[tuple[float, Step]]]:
        """The first of those created in this second: when each of their writes comes, and which."""
        rng, made = self._made.setdefault(second, (random.Random(f"{self._seed} {second}"), []))
        while len(made) < number:
            created = second + rng.random()
            steps = self._shape.steps(created=created, rng=rng)
            made.append([(created + step.at, step) for step in steps])
        return made[:number]


def simulate(
    shape: Shape, rate: float, conditions: Conditions, tasks: Tasks | None = None
) -> Outcome:
    """
    Args:
        tasks: of the same shape and seed, where several runs share them.
    """
    tasks = tasks or Tasks(shape, conditions.seed)
    rng = random.Random(conditions.seed)
    stores = stores_for(rate, conditions)
    waiting: defaultdict[int, list[Step]] = defaultdict(list)
    judged_from = conditions.seconds * 2 // 3
    done = refused = 0
    owed = 0.0
    # Tasks have been coming for as long as one lives: the first second judged sees all its steps.
    for second in range(-tasks.longest, conditions.seconds):
        owed += rate / conditions.scale
        for steps_of_one in tasks.of(second, int(owed)):
            for at, step in steps_of_one:
                waiting[math.floor(at)].append(step)
        owed %= 1
        steps = waiting.pop(second, [])
        if second < 0:
            continue
        if second == judged_from:
            _forget_refusals(stores)
            done = refused = 0
        rng.shuffle(steps)
        for step in steps:
            done += 1
            refused += not carry_out(stores, step.touches)
        for store in stores.values():
            store.tick()
    return Outcome(
        rate=rate,
        throttled=refused / max(1, done),
        hottest=_hottest(stores) if refused else "",
        partitions={name: len(store) for name, store in stores.items()},
    )


def simulate_counters(processes: int, kind: str, conditions: Conditions) -> Outcome:
    """So many busy processes that flush their counters, and nothing else. Not scaled: what an item
    costs follows from how many processes it really holds.

    Args:
        kind: of `counter_items.KINDS`.
    """
    rng = random.Random(conditions.seed)
    names = counter_items.process_names(processes, rng)
    items = [counter_items.item_of(name) for name in names]
    units = {item: counter_items.units_a_flush(n) for item, n in Counter(items).items()}
    stores = stores_for(1_000, replace(conditions, scale=1.0, grown=True))
    done = refused = 0
    # Flushes, of each process; they began at any time.
    owed = [rng.random() for _ in items]
    for _ in range(conditions.seconds):
        for n, item in enumerate(items):
            owed[n] += 1 / counter_items.seconds_between(units[item], kind)
            times, owed[n] = int(owed[n]), owed[n] % 1
            done += times
            touch = Touch(TABLE, item, "", units[item])
            refused += sum(not carry_out(stores, [touch]) for _ in range(times))
        stores[TABLE].tick()
    return Outcome(
        rate=processes,
        throttled=refused / max(1, done),
        hottest=_hottest(stores) if refused else "",
        partitions={TABLE: len(stores[TABLE])},
    )


def _forget_refusals(stores: dict[str, Store]) -> None:
    for store in stores.values():
        store.throttled_by_key.clear()
        store.throttled_by_quota = 0


def _hottest(stores: dict[str, Store]) -> str:
    """The group of keys, without the shard's number, that throttled most."""
    found: Counter[str] = Counter()
    for store in stores.values():
        for key, count in store.throttled_by_key.items():
            group = f"keys {key.partition('#')[0]}#" if "#" in key else "one key"
            is_own = key.startswith(schema.COUNTER_PREFIX)
            named = "task ids" if store.name == TABLE and not is_own else group
            found[f"{store.name}, {named}"] += count
        if store.throttled_by_quota:
            found[f"{store.name}, its quota"] += store.throttled_by_quota
    return found.most_common(1)[0][0]


# --- where it ends ----------------------------------------------------------------------------


def find_end(
    shape: Shape, conditions: Conditions, *, most: float, tasks: Tasks | None = None
) -> Outcome:
    """The lowest rate found that does not hold, to 2 percent.

    Args:
        most: tasks a second that do not hold for certain.
    """
    tasks = tasks or Tasks(shape, conditions.seed)
    low, high = 0.0, most
    ends = simulate(shape, high, conditions, tasks)
    if ends.holds:
        raise ValueError(f"{most:,.0f} tasks/s hold: where it ends is not below that")
    while high - low > 0.02 * high:
        middle = (low + high) / 2
        found = simulate(shape, middle, conditions, tasks)
        if found.holds:
            low = middle
        else:
            high, ends = middle, found
    return ends


def find_end_of_counters(kind: str, conditions: Conditions, *, most: int = 8_192) -> Outcome:
    low, high = 0, most
    ends = simulate_counters(high, kind, conditions)
    while high - low > 1:
        middle = (low + high) // 2
        found = simulate_counters(middle, kind, conditions)
        if found.holds:
            low = middle
        else:
            high, ends = middle, found
    return ends


# --- command line -----------------------------------------------------------------------------


def all_ends(conditions: Conditions, shapes: Sequence[Shape]) -> dict[str, object]:
    """For --json: each shape on a new table that has not split yet, and on one that has."""
    variants = {
        "new": replace(conditions, grown=False, splits=False),
        "split for heat": conditions,
    }
    found: dict[str, dict[str, object]] = {}
    for shape in shapes:
        tasks = Tasks(shape, conditions.seed)
        found[shape.name] = {
            name: asdict(find_end(shape, each, most=most_for(shape), tasks=tasks))
            for name, each in variants.items()
        }
        print(shape.name, file=sys.stderr)
    short = replace(conditions, seconds=30)
    counters = {kind: asdict(find_end_of_counters(kind, short)) for kind in counter_items.KINDS}
    return {
        "command": "python -m benchmarks.partition_simulation "
        "--json benchmarks/results/partition_simulation.json",
        "conditions": asdict(conditions),
        "shards": shards(),
        "tasks": found,
        "processes": counters,
    }


def most_for(shape: Shape) -> float:
    """Three times what its hottest keys take where they cannot be split: DynamoDB may part the old
    entries of a key from its new ones, and no shape has more than three places at once in one."""
    return 3 * min(limit.tasks_per_second for limit in model.key_limits(shape))


def shards() -> dict[str, int]:
    """What the answer rests on: other numbers of keys make another answer."""
    return {
        "status-index": schema.STATUS_SHARDS,
        "due-index": schema.DUE_SHARDS,
        "counters": schema.COUNTER_SHARDS,
    }


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    names = [shape.name for shape in SHAPES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.partition_simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shapes", nargs="+", choices=names, default=names)
    parser.add_argument("--rate", type=float, help="tasks a second; without it, where it ends")
    parser.add_argument("--seconds", type=int, default=600, help="of virtual time (600)")
    parser.add_argument("--scale", type=float, default=400.0, help="(400)")
    parser.add_argument("--seed", type=int, default=1, help="(1)")
    parser.add_argument("--json", metavar="FILE", help="write where all of it ends")
    args = parser.parse_args(arguments)
    if args.seconds < 3 or args.scale < 1 or (args.rate is not None and args.rate <= 0):
        parser.error("--seconds needs at least 3, --scale at least 1, and --rate more than 0")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_arguments(arguments)
    conditions = Conditions(scale=args.scale, seconds=args.seconds, seed=args.seed)
    shapes = [shape for shape in SHAPES if shape.name in args.shapes]
    if args.json:
        document = json.dumps(all_ends(conditions, shapes), indent=2)
        Path(args.json).write_text(document + "\n", encoding="utf-8")
        return
    rows = []
    for shape in shapes:
        if args.rate:
            found = simulate(shape, args.rate, conditions)
        else:
            found = find_end(shape, conditions, most=most_for(shape))
        split = ", ".join(f"{name} {count}" for name, count in found.partitions.items())
        row = [shape.name, f"{found.rate:,.0f}", f"{found.throttled:.1%}", found.hottest, split]
        rows.append(row)
    header = ("tasks", "tasks/s", "throttled", "by", "partitions")
    print(as_text("A table under the engine's own writes", header, rows))


if __name__ == "__main__":
    main()

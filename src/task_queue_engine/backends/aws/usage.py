"""What work costs: requests and capacity units, by step and by task type.

There is one set of numbers: the store and the queues count, and `AwsBackend.usage` makes the
contract's types of what they have counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from task_queue_engine.backends.aws.wire.endpoints import Service
from task_queue_engine.backends.base import StepUsage, TaskTypeUsage

OTHER_TYPES: Final = "(other)"
"""What task types past the first `MAX_TYPES` are counted under: queue and table may hold what other
programs wrote, and a label in /metrics must take neither any number of values nor any length."""
MAX_TYPES: Final = 200
"""More than a team has, and few enough for one scrape of /metrics."""
MAX_TYPE_LENGTH: Final = 200
"""Characters; longer names are not ones that a team gives to its handlers."""


@dataclass(slots=True, kw_only=True)
class Usage:
    """Goes up as work is done. Fractions of a request where one request served several task
    types."""

    items: int = 0
    """Tasks, or rows looked at."""
    requests: float = 0.0
    read_units: float = 0.0
    write_units: float = 0.0
    """Those of the indexes included."""


class UsageByType(dict[str, Usage]):
    """By the names of task types, bounded as `OTHER_TYPES` says."""

    def of(self, task_type: str) -> Usage:
        """The type's own usage, or that of the rest."""
        found = self.get(task_type)
        if found is not None:
            return found
        if len(task_type) > MAX_TYPE_LENGTH or len(self) >= MAX_TYPES:
            task_type = OTHER_TYPES
        return self.setdefault(task_type, Usage())

    def share(self, task_types: Sequence[str], *, requests: int) -> None:
        """So many requests have served these tasks, named by their types ("" where unknown)."""
        each = requests / max(1, len(task_types))
        for task_type in task_types:
            if task_type:
                usage = self.of(task_type)
                usage.items += 1
                usage.requests += each


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """What the store has asked of DynamoDB since it was made. It goes on counting."""

    by_step: Mapping[str, Usage] = field(default_factory=dict)
    """Methods of the store, and "counters", "repair_counts", "sweep". Requests are calls: the
    client's own statistics count its retries."""
    by_task_type: Mapping[str, Usage] = field(default_factory=dict)
    """Writes of tasks, as far as their type was known."""


def steps(by_step: Mapping[str, Usage]) -> tuple[StepUsage, ...]:
    """In the order of their names."""
    return tuple(
        StepUsage(
            step=step,
            requests=usage.requests,
            read_units=usage.read_units,
            write_units=usage.write_units,
        )
        for step, usage in sorted(by_step.items())
    )


def task_types(service: Service, found: Iterable[Mapping[str, Usage]]) -> tuple[TaskTypeUsage, ...]:
    """Several parts' usage by task type, summed up, in the order of the names."""
    sums = UsageByType()
    for part in found:
        for task_type, usage in part.items():
            total = sums.of(task_type)
            total.requests += usage.requests
            total.read_units += usage.read_units
            total.write_units += usage.write_units
    return tuple(
        TaskTypeUsage(
            service=service,
            task_type=task_type,
            requests=total.requests,
            read_units=total.read_units,
            write_units=total.write_units,
        )
        for task_type, total in sorted(sums.items())
    )

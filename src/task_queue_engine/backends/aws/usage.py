"""What work costs: requests and capacity units, by step and by task type."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from task_queue_engine.backends.aws.wire.endpoints import Service
from task_queue_engine.backends.base import StepUsage, TaskTypeUsage

OTHER_TYPES: Final = "(other)"
"""What task types past the first `MAX_TYPES` are counted under: queue and table may hold what other
programs wrote, and a label in /metrics must take neither any number of values nor any length."""
MAX_TYPES: Final = 200
MAX_TYPE_LENGTH: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Fractions of a request where one request served several task types."""

    items: int = 0
    """Tasks, or rows looked at."""
    requests: float = 0.0
    read_units: float = 0.0
    write_units: float = 0.0
    """Those of the indexes included."""


@dataclass(slots=True)
class Meter:
    """One `Usage`, while it moves."""

    items: int = 0
    requests: float = 0.0
    read_units: float = 0.0
    write_units: float = 0.0

    def snapshot(self) -> Usage:
        return Usage(
            items=self.items,
            requests=self.requests,
            read_units=self.read_units,
            write_units=self.write_units,
        )


def units_of(document: dict[str, Any]) -> list[float]:
    """The capacity units in an answer: one number per statement of a batch where the server
    tells them apart, else one for all; empty where it does not say."""
    found = document.get("ConsumedCapacity")
    if found is None:
        return []
    if isinstance(found, dict):
        found = [found]
    return [float(each.get("CapacityUnits", 0.0)) for each in found]


class TypeMeters:
    """Requests by task type, shared by the tasks they served."""

    def __init__(self) -> None:
        self._meters: dict[str, Meter] = {}

    def share(self, task_types: Sequence[str], *, requests: int) -> None:
        """So many requests have served these tasks, named by their types ("" where unknown)."""
        if not task_types:
            return
        each = requests / len(task_types)
        for task_type in task_types:
            if not task_type:
                continue
            meter = self._meters.get(task_type)
            if meter is None:
                name = bounded_type(task_type, self._meters)
                meter = self._meters.setdefault(name, Meter())
            meter.items += 1
            meter.requests += each

    def usage(self) -> dict[str, Usage]:
        return {task_type: meter.snapshot() for task_type, meter in self._meters.items()}


def bounded_type(task_type: str, known: Mapping[str, object]) -> str:
    """The type's name, or that of the rest."""
    if task_type in known:
        return task_type
    if len(task_type) > MAX_TYPE_LENGTH or len(known) >= MAX_TYPES:
        return OTHER_TYPES
    return task_type


def steps(by_step: Mapping[str, Usage]) -> tuple[StepUsage, ...]:
    return tuple(
        StepUsage(
            step=step,
            requests=each.requests,
            read_units=each.read_units,
            write_units=each.write_units,
        )
        for step, each in sorted(by_step.items())
    )


def task_types(service: Service, found: Iterable[Mapping[str, Usage]]) -> tuple[TaskTypeUsage, ...]:
    """Several parts' usage by task type, summed up."""
    sums: defaultdict[str, Meter] = defaultdict(Meter)
    for part in found:
        for task_type, each in part.items():
            meter = sums[bounded_type(task_type, sums)]
            meter.requests += each.requests
            meter.read_units += each.read_units
            meter.write_units += each.write_units
    return tuple(
        TaskTypeUsage(
            service=service,
            task_type=task_type,
            requests=meter.requests,
            read_units=meter.read_units,
            write_units=meter.write_units,
        )
        for task_type, meter in sorted(sums.items())
    )

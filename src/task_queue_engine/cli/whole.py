"""What several processes have counted, as the numbers of one server."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from task_queue_engine.backends.base import (
    BackendUsage,
    OperationUsage,
    StepUsage,
    TaskTypeUsage,
)
from task_queue_engine.engine.metrics import EngineMetrics, Slots
from task_queue_engine.measures import add_counts, add_distributions

# Every other member says something of the backend: the same number, whichever process has read it.
_SUMMED = ("workers", "active_workers", "abandoned_threads")
_LONGEST = ("uptime", "all_busy_for")
_SUMMED_BY_NAME = ("counters", "given_back_by_type")

# What names a row of usage; all else in it is added up.
_NAMES: Mapping[type, tuple[str, ...]] = {
    OperationUsage: ("service", "operation"),
    StepUsage: ("step",),
    TaskTypeUsage: ("service", "task_type"),
}

Row = TypeVar("Row", bound=OperationUsage | StepUsage | TaskTypeUsage)


def add_up(own: EngineMetrics, others: Iterable[EngineMetrics]) -> EngineMetrics:
    """`own`, with what is a process's own added up over all; times are the longest."""
    whole = own
    for other in others:
        changed: dict[str, Any] = {
            name: getattr(whole, name) + getattr(other, name) for name in _SUMMED
        }
        for name in _SUMMED_BY_NAME:
            changed[name] = _by_name(getattr(whole, name), getattr(other, name))
        for name in _LONGEST:
            changed[name] = max(getattr(whole, name), getattr(other, name))
        changed["usage"] = _usage(whole.usage, other.usage)
        changed["slots"] = _slots(whole.slots, other.slots)
        changed["labelled_counters"] = add_counts(whole.labelled_counters, other.labelled_counters)
        changed["histograms"] = add_distributions(whole.histograms, other.histograms)
        whole = replace(whole, **changed)
    return whole


def what_stays(ended: EngineMetrics) -> EngineMetrics:
    """What still counts of a process that has ended: all that only ever goes up. Without it a
    server's counters would go down with the process."""
    gauges: dict[str, Any] = dict.fromkeys((*_SUMMED, *_LONGEST), 0)
    return replace(ended, slots=(), **gauges)


def _by_name(mine: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    return {name: mine.get(name, 0) + theirs.get(name, 0) for name in {**mine, **theirs}}


def _slots(mine: Iterable[Slots], theirs: Iterable[Slots]) -> tuple[Slots, ...]:
    sums: dict[str, Slots] = {}
    for one in (*mine, *theirs):
        before = sums.get(one.kind, Slots(kind=one.kind, busy=0, total=0))
        sums[one.kind] = Slots(
            kind=one.kind, busy=before.busy + one.busy, total=before.total + one.total
        )
    return tuple(sums.values())


def _usage(mine: BackendUsage | None, theirs: BackendUsage | None) -> BackendUsage | None:
    if mine is None or theirs is None:
        return mine or theirs
    return BackendUsage(
        operations=_rows(mine.operations, theirs.operations),
        steps=_rows(mine.steps, theirs.steps),
        task_types=_rows(mine.task_types, theirs.task_types),
    )


def _rows(mine: tuple[Row, ...], theirs: tuple[Row, ...]) -> tuple[Row, ...]:
    rows: dict[Hashable, Row] = {}
    for row in (*mine, *theirs):
        names = _NAMES[type(row)]
        key = tuple(getattr(row, name) for name in names)
        if key in rows:
            row = replace(row, **_sums(rows[key], row, names))
        rows[key] = row
    return tuple(rows.values())


def _sums(mine: Any, theirs: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        field.name: getattr(mine, field.name) + getattr(theirs, field.name)
        for field in fields(mine)
        if field.name not in names
    }

"""What is counted, by field of the counter items, and how it is added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

from task_queue_engine.backends.base import Counts
from task_queue_engine.task import TaskStatus

MOVES: Final = "moves"
"""In the totals beside the statuses: all changes of status and moves in the index there ever were.
What a count of the index may be off by is measured in it."""

FIELDS = tuple(status.value.lower() for status in TaskStatus)


@cache
def changes_of(old: TaskStatus | None, new: TaskStatus | None) -> Mapping[str, int]:
    changes = {MOVES: 1}
    if old is not None:
        changes[old.value.lower()] = -1
    if new is not None:
        changes[new.value.lower()] = 1
    return changes


def add(totals: Counter[str], moves: Iterable[Mapping[str, int]]) -> None:
    for changes in moves:  # not `Counter.update`: it looks at what it is given for longer
        for name, change in changes.items():
            totals[name] += change


def counts_of(totals: Mapping[str, int]) -> Counts:
    """Never negative: a process may have been killed before it could count what others go on
    with."""
    return Counts(**{name: max(0, totals[name]) for name in FIELDS})

"""What a row of the goals is made of: cases that are measured in turn, and goals they answer."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.engine import Build

OURS = "this engine"
TUNED = "this engine, tuned"
BEFORE = "before"
BEFORE_TUNED = "before, tuned"

Figures = dict[str, float]
"""What one run of one case found, by name."""

Round = Mapping[str, Figures]
"""The cases of one row that were run in turn, by name; one that failed is not in it."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """For what a row needs while it is measured."""

    folder: Path
    ours: Build
    before: Build | None = None
    """An earlier commit to compare with."""
    quick: bool = False
    tiny: bool = False
    """Only to see that it works: a few tasks."""
    stack: ExitStack = field(default_factory=ExitStack)
    """Closed when all rows are measured: for servers."""

    def size(self, full: int, quick: int, tiny: int) -> int:
        return tiny if self.tiny else quick if self.quick else full

    def builds(self) -> dict[str, Build]:
        return {OURS: self.ours} | ({BEFORE: self.before} if self.before else {})


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    measure: Callable[[], Figures]
    about: str = ""
    """Version, settings, durability: whatever a fair comparison has to say."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    text: str
    number: Callable[[Round], float | None]
    """Of one round; None where a case that it needs is missing."""
    least: float | None = None
    most: float | None = None
    unit: str = ""
    needs: str = ""
    """Said where nothing was measured: what it takes."""

    def measured(self, rounds: Sequence[Round]) -> list[float]:
        return [number for each in rounds if (number := self.number(each)) is not None]

    def is_met(self, numbers: Sequence[float]) -> bool:
        """By the median."""
        middle = statistics.median(numbers)
        at_least = self.least is None or middle >= self.least
        return at_least and (self.most is None or middle <= self.most)


@dataclass(frozen=True, kw_only=True)
class Column:
    heading: str
    digits: int = 0
    better: str = ""
    """"more" or "less"; "" where it is neither."""
    plotted: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    title: str
    how: str
    """How it is measured, for the report."""
    columns: Mapping[str, Column]
    """By the name of the figure."""
    cases: Callable[[Setup], list[Case]]
    goals: Sequence[Goal]
    rounds: tuple[int, int] = (3, 2)
    """In full, and in a quick run."""
    peers: bool = False
    """Cases that are not of this project are other task queues: the report says where they win."""


def value(case: str, figure: str) -> Callable[[Round], float | None]:
    def number(round_: Round) -> float | None:
        return round_.get(case, {}).get(figure)

    return number


@dataclass(frozen=True)
class Ratio:
    """The figure of a case as a multiple of another one's."""

    case: str
    other: str
    figure: str
    others_figure: str = ""
    """"": the same."""

    def __call__(self, round_: Round) -> float | None:
        mine = value(self.case, self.figure)(round_)
        theirs = value(self.other, self.others_figure or self.figure)(round_)
        return mine / theirs if mine is not None and theirs else None


NEEDS_AGAINST = "`--against COMMIT`"

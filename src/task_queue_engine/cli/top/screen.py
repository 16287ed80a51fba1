"""What stands on the screen: what was seen, what is chosen, what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from task_queue_engine.cli.output import printable, seconds_in_words
from task_queue_engine.cli.top.lines import Line, SortBy, Style, details, summary
from task_queue_engine.cli.top.overview import Overview

CHANGES = {"c": "cancel", "r": "retry"}
"""Keys of what changes a task."""


@dataclass(frozen=True, slots=True)
class Question:
    """Asked before a task is changed."""

    change: str
    """One of CHANGES."""
    task_id: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """The last look has failed."""

    since: float
    """On trio's clock."""
    says: str


@dataclass(slots=True)
class Detail:
    """One task, by itself."""

    task_id: str
    lines: Sequence[Line] = (Line("..."),)


@dataclass(slots=True, kw_only=True)
class Screen:
    """All that a frame is made of."""

    title: str
    interval: float
    seen: Overview | None = None
    trouble: Trouble | None = None
    is_paused: bool = False
    sort: SortBy = SortBy.FAILED
    only: str = ""
    """The filter: part of a type's name."""
    typed: str | None = None
    """What has been typed of a new filter; None: none is."""
    question: Question | None = None
    message: str = ""
    """What came of the last change."""
    may_change: bool = True
    """Until the server says that the key has no such role."""
    detail: Detail | None = None
    selected: str | None = None
    """A line's task id; stays with the task where the line moves."""
    top: int = 0
    """The first line of the body that is shown."""
    page: int = 10
    """Lines of the body that there was room for."""
    _order: list[str] = field(default_factory=list)
    _lines: list[Line] = field(default_factory=list)

    def move(self, by: int) -> None:
        """Select another line; of a task that is shown by itself: scroll."""
        if self.detail is not None or not self._order:
            self.top = max(0, self.top + by)
            return
        if self.selected in self._order:
            before = self._order.index(self.selected)
            place = min(max(before + by, 0), len(self._order) - 1)
            if place == before:  # beyond it lies what cannot be selected
                self.top = max(0, self.top + by)
                return
        else:
            place = 0 if by > 0 else len(self._order) - 1
        self.selected = self._order[place]
        self._reveal()

    def _reveal(self) -> None:
        for number, line in enumerate(self._lines):
            if line.task_id == self.selected:
                self.top = min(max(self.top, number - self.page + 1), number)
                return

    def frame(self, *, width: int, height: int, now: datetime, moment: float) -> list[Line]:
        """The lines of the whole terminal, at most `height`; they may be longer than `width`.

        Args:
            now, moment: the time of day, and the same on trio's clock.
        """
        head = self._head(now, moment)
        foot = [Line(self._last_line(), Style.HEADER)]
        self.page = max(1, height - len(head) - len(foot))
        if self.detail is not None:
            body = list(self.detail.lines)
        elif self.seen is not None:
            body = details(self.seen, sort=self.sort, only=self.only)
        else:
            body = []
        self._lines = body
        # A failed task is among the dead letters too; the first line of it counts.
        self._order = list(dict.fromkeys(line.task_id for line in body if line.task_id))
        if self.detail is None and self.selected not in self._order:
            self.selected = None  # what is not shown is not to be changed
        self.top = max(0, min(self.top, len(body) - self.page))
        shown = [self._marked(line, width) for line in body[self.top : self.top + self.page]]
        blank = [Line("")] * (self.page - len(shown))
        return [*head, *shown, *blank, *foot][:height]

    def _marked(self, line: Line, width: int) -> Line:
        if self.detail is not None or line.task_id is None or line.task_id != self.selected:
            return line
        return Line(line.text.ljust(width), Style.SELECTED, line.task_id)

    def _head(self, now: datetime, moment: float) -> list[Line]:
        when = "paused" if self.is_paused else f"every {self.interval:g} s"
        only = f", only {printable(self.only)!r}" if self.only else ""
        head = [
            Line(f"tqe top  {now:%H:%M:%S}Z  {when}{only}  {printable(self.title)}", Style.TITLE)
        ]
        if self.trouble is not None:
            ago = seconds_in_words(max(0.0, moment - self.trouble.since))
            head.append(
                Line(
                    f"No answer for {ago}, what is shown is from then; trying again: "
                    f"{one_line(self.trouble.says)}",
                    Style.BAD,
                )
            )
        if self.seen is not None and self.detail is None:
            head += summary(self.seen)
        return head

    def _last_line(self) -> str:
        if self.question is not None:
            return f"{self.question.change} task {self.question.task_id}? y: yes, any other key: no"
        if self.typed is not None:
            return f"only types with: {self.typed}_   enter: so, escape: as it was"
        changes = ["c cancel", "r retry"] if self.may_change else []
        if self.detail is not None:
            keys = ["escape back", "up/down scroll", *changes, "q quit"]
        else:
            keys = ["q quit", "p pause", f"s sort ({self.sort.value})", "f filter"]
            keys += ["up/down select", "enter task", *changes]
        said = f"{one_line(self.message)}   " if self.message else ""
        return said + "  ".join(keys)


def one_line(text: str) -> str:
    """Without what a terminal would obey, and without line breaks."""
    return printable(" ".join(text.split()))

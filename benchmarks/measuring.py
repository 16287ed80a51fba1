"""Rounds: the cases of a row in turn, the rows in turn, until each row has had its rounds."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks import record
from benchmarks.machine import describe
from benchmarks.record import Record
from benchmarks.rows.base import Figures, Row, Setup

_PATH = re.compile(r"(?:/[\w.@+-]+){2,}/?")


class Measurement:
    """One row in the making."""

    def __init__(self, row: Row, setup: Setup, rounds: int | None, command: str) -> None:
        """
        Args:
            rounds: in place of the row's own number.
            command: measures it again.
        """
        self.row = row
        self.wanted = rounds or row.rounds[1 if setup.quick else 0]
        self.longest = 0.0
        """Seconds of a round."""
        self._setup = setup
        self._command = command
        self._cases = row.cases(setup)
        self._rounds: list[dict[str, Figures]] = []
        self._failures: dict[str, str] = {}
        self._seconds = 0.0

    def one_round(self) -> None:
        """All cases, in the opposite order of the round before."""
        began = time.monotonic()
        number = len(self._rounds)
        found: dict[str, Figures] = {}
        for case in self._cases if number % 2 == 0 else reversed(self._cases):
            started = time.monotonic()
            try:
                found[case.name] = case.measure()
            # Whatever a peer does wrong is a line of the report.
            except Exception as error:  # noqa: BLE001 - a case that fails is a line of the report
                reason = _PATH.sub("(path)", f"{error}" or type(error).__name__)
                self._failures[case.name] = " ".join(reason.split())[-400:]
                outcome = f"FAILED: {self._failures[case.name]}"
            else:
                outcome = _shown(self.row, found[case.name])
            took = time.monotonic() - started
            place = f"{self.row.name} {number + 1}/{self.wanted}"
            say(f"{place}  {case.name}: {outcome}  ({took:.0f} s)")
        self._rounds.append(found)
        took = time.monotonic() - began
        self.longest = max(self.longest, took)
        self._seconds += took

    def record(self) -> Record:
        before = self._setup.before
        return Record(
            row=self.row.name,
            command=self._command,
            measured_on=datetime.now(UTC).strftime("%Y-%m-%d"),
            quick=self._setup.quick,
            against=before.commit if before else None,
            seconds=self._seconds,
            machine=describe(),
            cases={case.name: case.about for case in self._cases},
            rounds=self._rounds,
            failures=self._failures,
        )


def measure_all(measurements: Sequence[Measurement], deadline: float) -> None:
    """Keep what each round found as soon as it is over.

    Args:
        deadline: of `time.monotonic`; a row's second and later rounds are left out where they would
            not be over by then.
    """
    for number in range(max(each.wanted for each in measurements)):
        for each in measurements:
            is_in_time = number == 0 or time.monotonic() + each.longest < deadline
            if number < each.wanted and is_in_time:
                each.one_round()
                record.save(each.record())


def _shown(row: Row, figures: Figures) -> str:
    return ", ".join(
        f"{figures[name]:,.{column.digits}f} {column.heading}"
        for name, column in row.columns.items()
        if name in figures
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""What was measured of a row: kept as JSON, read again by the report."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import ROOT

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True, kw_only=True)
class Record:
    row: str
    command: str
    """Measures it again."""
    measured_on: str
    """A date."""
    quick: bool
    against: str | None
    """The earlier commit."""
    seconds: float
    machine: dict[str, str | int]
    cases: dict[str, str]
    """Name -> version, settings, durability."""
    rounds: list[dict[str, dict[str, float]]]
    """What each case that did not fail found in this round."""
    failures: dict[str, str]
    """Case -> why it was not measured, in some round or in all."""

    def runs(self, case: str, figure: str) -> list[float]:
        return [
            round_[case][figure]
            for round_ in self.rounds
            if case in round_ and figure in round_[case]
        ]

    def middle(self, case: str, figure: str) -> float | None:
        """The median."""
        runs = self.runs(case, figure)
        return statistics.median(runs) if runs else None


def save(record: Record, folder: Path = RESULTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_shortened(asdict(record)), indent=1, ensure_ascii=False) + "\n"
    (folder / f"{record.row}.json").write_text(text, encoding="utf-8")


def load(row: str, folder: Path = RESULTS) -> Record | None:
    """None: it has not been measured."""
    path = folder / f"{row}.json"
    if not path.exists():
        return None
    return Record(**json.loads(path.read_text(encoding="utf-8")))


def _shortened(found: object) -> object:
    """Five digits that count: the rest is noise, and would be a change in every line."""
    if isinstance(found, dict):
        return {key: _shortened(each) for key, each in found.items()}
    if isinstance(found, list):
        return [_shortened(each) for each in found]
    return float(f"{found:.5g}") if isinstance(found, float) else found

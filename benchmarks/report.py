"""docs/benchmarks.md and its plots, made from benchmarks/results and nothing else."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import record
from benchmarks.machine import ROOT
from benchmarks.plots import Bar, Panel, svg
from benchmarks.record import Record
from benchmarks.rows import ROWS
from benchmarks.rows.base import Column, Goal, Ratio, Row

REPORT = ROOT / "docs" / "benchmarks.md"
EXPLANATIONS = Path(__file__).with_name("explanations.toml")

_HEAD = """# Benchmarks

Made by `make bench` from `benchmarks/results/*.json`; explanations come from
`benchmarks/explanations.toml`. Do not edit.

Handlers are no-ops unless a row says otherwise, so this is what the queues cost and nothing else.
The cases of a row are run in turn and that several times: a figure is the median of its runs,
behind it the least and the most, and a ratio is of two runs of the same turn. CPU is user and
system time of all processes of a worker. Ratios carry over to other machines, absolute figures do
not.
"""


def write(results: Path = record.RESULTS, target: Path = REPORT) -> None:
    """
    Args:
        target: the Markdown file; plots go into a folder of its name beside it.
    """
    records = {name: found for name in ROWS if (found := record.load(name, results))}
    explanations = tomllib.loads(EXPLANATIONS.read_text(encoding="utf-8"))
    plots = target.with_suffix("")
    plots.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD, _machines(records), _goals(records)]
    for name, row in ROWS.items():
        if name not in records:
            continue
        drawing = draw(row, records[name])
        if drawing:
            (plots / f"{name}.svg").write_text(drawing, encoding="utf-8")
        plot = f"{plots.name}/{name}.svg" if drawing else None
        parts.append(section(row, records[name], plot, explanations.get(name, "")))
    target.write_text("\n".join(parts), encoding="utf-8")


def _machines(records: Mapping[str, Record]) -> str:
    """Rows may have been measured on several days, or machines."""
    groups: dict[str, list[str]] = {}
    for name, found in records.items():
        machine = found.machine
        text = (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB,"
            f" {machine['kernel']}, Python {machine['python']}; version {machine['version']},"
            f" commit {machine['commit']}"
            + (f", against {found.against}" if found.against else "")
            + f"; {found.measured_on}"
            + (", quick" if found.quick else "")
        )
        groups.setdefault(text, []).append(name)
    if len(groups) == 1:
        return f"Measured on: {next(iter(groups))}.\n"
    lines = [f"- {', '.join(rows)}: {text}." for text, rows in groups.items()]
    return "\n".join(["Measured on:\n", *lines, ""])


def _goals(records: Mapping[str, Record]) -> str:
    lines = [
        "## Goals\n",
        "| row | goal | measured | | command |",
        "|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        found = records.get(name)
        command = f"`{found.command}`" if found else f'`make bench ARGS="--rows {name}"`'
        for goal in row.goals:
            lines.append(
                f"| [{name}](#{anchor(row.title)}) | {goal.text}{_limit(goal)}"
                f" | {' | '.join(judged(goal, found))} | {command} |"
            )
    return "\n".join([*lines, ""])


def judged(goal: Goal, found: Record | None) -> tuple[str, str]:
    """What was measured with its spread, and whether that will do."""
    numbers = goal.measured(found.rounds) if found else []
    if not numbers:
        needs = f"; needs {goal.needs}" if goal.needs else ""
        return f"not measured{needs}", ""
    text = spread(numbers, _digits(numbers)) + (f" {goal.unit}" if goal.unit else "")
    if found and isinstance(goal.number, Ratio):
        text += _beside(goal.number, found)
    if goal.least is None and goal.most is None:
        return text, ""
    return text, "met" if goal.is_met(numbers) else "**falls short**"


def _beside(ratio: Ratio, found: Record) -> str:
    """The two that it is a ratio of."""
    mine = found.middle(ratio.case, ratio.figure)
    theirs = found.middle(ratio.other, ratio.others_figure or ratio.figure)
    if mine is None or theirs is None:
        return ""
    return f": {mine:,.{_digits([mine])}f} against {theirs:,.{_digits([theirs])}f}"


def _limit(goal: Goal) -> str:
    unit = f" {goal.unit}" if goal.unit else ""
    if goal.least is not None:
        return f" ≥ {goal.least:g}{unit}"
    return f" ≤ {goal.most:g}{unit}" if goal.most is not None else ""


def _digits(numbers: Sequence[float]) -> int:
    middle = abs(statistics.median(numbers))
    return 0 if middle >= 100 else 1 if middle >= 10 else 2


def spread(numbers: Sequence[float], digits: int) -> str:
    middle = f"{statistics.median(numbers):,.{digits}f}"
    if len(numbers) == 1:
        return middle
    return f"{middle} ({min(numbers):,.{digits}f} to {max(numbers):,.{digits}f})"


def section(row: Row, found: Record, plot: str | None, explanation: str) -> str:
    rounds = len(found.rounds)
    lines = [
        f"## {row.title}\n",
        f"{row.how}\n",
        f"{rounds} round{'s' if rounds > 1 else ''}, {found.seconds / 60:.1f} minutes.\n",
        "| | " + " | ".join(column.heading for column in row.columns.values()) + " |",
        "|---" * (len(row.columns) + 1) + "|",
    ]
    measured = [case for case in found.cases if any(case in each for each in found.rounds)]
    for case in measured:
        cells = [
            spread(runs, column.digits) if (runs := found.runs(case, name)) else ""
            for name, column in row.columns.items()
        ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    lines.append("")
    if plot:
        lines.append(f"![{row.title}]({plot})\n")
    if row.peers:
        lines.append(where_others_win(row, found) + "\n")
    if explanation:
        lines.append(explanation.strip() + "\n")
    lines += [f"- {case}: {about}" for case, about in found.cases.items() if about]
    lines += [f"- {case} failed: {reason}" for case, reason in found.failures.items()]
    return "\n".join([*lines, ""])


def where_others_win(row: Row, found: Record) -> str:
    """Whoever is better than this engine as it comes, figure by figure."""
    mine = next(iter(found.cases))
    others = [case for case in found.cases if not case.startswith((mine, "before"))]
    said = []
    for name, column in row.columns.items():
        own = found.middle(mine, name)
        if not column.better or own is None:
            continue
        sign = 1 if column.better == "more" else -1
        better = [
            f"{case} ({theirs:,.{column.digits}f})"
            for case in others
            if (theirs := found.middle(case, name)) is not None and sign * theirs > sign * own
        ]
        if better:
            said.append(f"{column.heading} ({own:,.{column.digits}f}): {', '.join(better)}")
    if not said:
        return "No other one is better than this engine in any of these figures."
    return "Better than this engine as it comes: " + "; ".join(said) + "."


def draw(row: Row, found: Record) -> str:
    """ "" where there is nothing to draw."""
    panels = [
        Panel(_plain(column.heading), column.digits, bars)
        for name, column in row.columns.items()
        if column.plotted and (bars := _bars(found, name, column))
    ]
    return svg(panels) if panels else ""


def _bars(found: Record, figure: str, column: Column) -> list[Bar]:
    bars = []
    for case in found.cases:
        runs = found.runs(case, figure)
        if runs:
            kind = "before" if case.startswith("before") else "ours"
            if not case.startswith(("this engine", "before")):
                kind = "other"
            bars.append(Bar(_plain(case), kind, statistics.median(runs), min(runs), max(runs)))
    if column.better:
        bars.sort(key=lambda bar: bar.middle, reverse=column.better == "more")
    return bars


def _plain(text: str) -> str:
    return text.replace("`", "")


def anchor(title: str) -> str:
    """As GitHub makes them from headings."""
    kept = (each for each in title.lower() if each.isalnum() or each in " -")
    return "".join(kept).replace(" ", "-")

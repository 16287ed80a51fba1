"""Measure every row of the goals, keep what was found, write the report.

    python -m benchmarks                                    all of it: 25 minutes
    python -m benchmarks --quick                            fewer tasks and rounds: 12 minutes
    python -m benchmarks --rows drain latency               some rows; the others stay as they are
    python -m benchmarks --against e6db1f6                  beside this engine as it was then
    python -m benchmarks --report                           only the report, from what is there

The cases of a row are run in turn, and that several times: the machine's clock changes within
seconds, and what is compared has to have had the same share of it. A case that fails (a peer that
cannot be installed, say) is named in the report and stops nothing.

Results: benchmarks/results/*.json. Report: docs/benchmarks.md. Explanations of what falls short are
kept in benchmarks/explanations.toml.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import record, report
from benchmarks.engine import HERE, Build, checked_out
from benchmarks.machine import ROOT, commit_of, describe
from benchmarks.rows import ROWS
from benchmarks.rows.base import Figures, Row, Setup

_PATH = re.compile(r"(?:/[\w.@+-]+){2,}/?")


def measure(row: Row, setup: Setup, rounds: int, command: str) -> record.Record:
    """All its cases in turn, so many times, forwards and backwards."""
    began = time.monotonic()
    found: list[dict[str, Figures]] = []
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        cases = row.cases(replace(setup, stack=stack))
        for number in range(rounds):
            this: dict[str, Figures] = {}
            for case in cases if number % 2 == 0 else reversed(cases):
                started = time.monotonic()
                try:
                    this[case.name] = case.measure()
                # Whatever a peer does wrong is a line of the report.
                except Exception as error:  # noqa: BLE001
                    failures[case.name] = _PATH.sub("(path)", f"{error}" or type(error).__name__)
                    outcome = f"FAILED: {failures[case.name][-300:]}"
                else:
                    outcome = _shown(row, this[case.name])
                took = time.monotonic() - started
                say(f"{row.name} {number + 1}/{rounds}  {case.name}: {outcome}  ({took:.0f} s)")
            found.append(this)
    return record.Record(
        row=row.name,
        command=command,
        measured_on=datetime.now(UTC).strftime("%Y-%m-%d"),
        quick=setup.quick,
        against=setup.before.commit if setup.before else None,
        seconds=time.monotonic() - began,
        machine=describe(),
        cases={case.name: case.about for case in cases},
        rounds=found,
        failures=failures,
    )


def _shown(row: Row, figures: Figures) -> str:
    return ", ".join(
        f"{figures[name]:,.{column.digits}f} {column.heading}"
        for name, column in row.columns.items()
        if name in figures
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Rows: " + "; ".join(f"{row.name}: {row.title}" for row in ROWS.values()),
    )
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS], metavar="ROW")
    parser.add_argument("--quick", action="store_true", help="fewer tasks, fewer rounds")
    parser.add_argument("--rounds", type=int, help="of each row, in place of its own number")
    parser.add_argument(
        "--against",
        metavar="COMMIT",
        help="measure that commit of this repository (or a folder with a checkout) beside it",
    )
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--folder", help="where databases and logs go (the temporary folder)")
    args = parser.parse_args(arguments)
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds needs at least 1")
    return args


def command_of(row: Row, args: argparse.Namespace, against: Build | None) -> str:
    """What measures this row again, without a folder of this machine."""
    options = ["--rows", row.name]
    options += ["--quick"] if args.quick else []
    options += ["--against", against.commit] if against else []
    options += ["--rounds", str(args.rounds)] if args.rounds else []
    return f'make bench ARGS="{shlex.join(options)}"'


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    if not sys.platform.startswith("linux"):
        raise SystemExit("the benchmarks read /proc: they run on Linux only")
    if not args.report:
        with tempfile.TemporaryDirectory(prefix="tqe-bench-", dir=args.folder) as name:
            folder = Path(name)
            ours = Build(HERE.source, commit_of(ROOT))
            before = checked_out(args.against, folder / "before") if args.against else None
            setup = Setup(folder=folder, ours=ours, before=before, quick=args.quick)
            for row in (ROWS[each] for each in dict.fromkeys(args.rows)):
                rounds = args.rounds or row.rounds[1 if args.quick else 0]
                found = measure(row, setup, rounds, command_of(row, args, before))
                record.save(found)
                say(f"{row.name}: {found.seconds:.0f} s")
    report.write()
    say(f"written: {report.REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

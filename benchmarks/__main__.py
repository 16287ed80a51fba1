"""Measure every row of the goals, keep what was found, write the report.

    python -m benchmarks                                    all of it, in 25 minutes
    python -m benchmarks --quick                            fewer tasks and rounds, in 12
    python -m benchmarks --rows drain latency               some rows; the others stay as they are
    python -m benchmarks --against e6db1f6                  beside this engine as it was then
    python -m benchmarks --report                           only the report, from what is there

The cases of a row are run in turn, and that several times, with the other rows between: the
machine's clock changes within seconds, and what is compared has to have had the same share of it.
Every row gets its first round; further ones are left out once they would take the run beyond its
minutes, and the report says how many there were. A case that fails (a peer that cannot be
installed, say) is named in the report and stops nothing.

Results: benchmarks/results/*.json. Report: docs/benchmarks.md. Explanations of what falls short are
kept in benchmarks/explanations.toml.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import report
from benchmarks.engine import HERE, Build, checked_out
from benchmarks.machine import ROOT, commit_of
from benchmarks.measuring import Measurement, measure_all, say
from benchmarks.peers.setup import prepare
from benchmarks.rows import ROWS
from benchmarks.rows.base import Row, Setup

MINUTES = (24.0, 11.0)
"""In full, and in a quick run."""


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
    parser.add_argument(
        "--minutes", type=float, help="no further round beyond them (24; --quick: 11)"
    )
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


def run(args: argparse.Namespace) -> None:
    began = time.monotonic()
    if any(ROWS[name].peers for name in args.rows):
        prepare()
    minutes = args.minutes or MINUTES[1 if args.quick else 0]
    with (
        tempfile.TemporaryDirectory(prefix="tqe-bench-", dir=args.folder) as name,
        ExitStack() as stack,
    ):
        folder = Path(name)
        ours = Build(HERE.source, commit_of(ROOT))
        before = checked_out(args.against, folder / "before") if args.against else None
        setup = Setup(folder=folder, ours=ours, before=before, quick=args.quick, stack=stack)
        measurements = [
            Measurement(ROWS[each], setup, args.rounds, command_of(ROWS[each], args, before))
            for each in dict.fromkeys(args.rows)
        ]
        measure_all(measurements, began + minutes * 60)
    say(f"all: {(time.monotonic() - began) / 60:.1f} minutes")


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    if not sys.platform.startswith("linux"):
        raise SystemExit("the benchmarks read /proc: they run on Linux only")
    if not args.report:
        run(args)
    report.write()
    say(f"written: {report.REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""How far one table, one queue and one file go, and what that costs: the tables of docs/scaling.md.

    python -m benchmarks.capacity             # print them
    python -m benchmarks.capacity --write     # put them into the document

From benchmarks/results/capacity_inputs.json (made by `python -m benchmarks.capacity.measure`) and
partition_simulation.json (`python -m benchmarks.partition_simulation --json`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.capacity.report import DOCUMENT, TABLES, Known, written


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    args = parser.parse_args(arguments)
    known = Known.read()
    if args.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(written(text, known), encoding="utf-8")
        return
    for name, table in TABLES.items():
        print(f"{name}\n\n{table(known)}")


if __name__ == "__main__":
    main()

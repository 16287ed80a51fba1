"""Try every mutant: `python -m tests.mutants [WORD]`, those of a promise or file with that word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.mutant import PACKAGE, ROOT, Mutant
from tests.mutants.mutants import MUTANTS

TIMEOUT = 120
"""Seconds: a test that hangs without the mechanism has noticed too; the longest takes 20 s."""
FAILED = 1
"""pytest's status when tests ran and some failed; all others but 0 mean that none ran."""


def survivors(mutant: Mutant) -> list[str]:
    """What is wrong with it, a line for each test that did not fail."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        source = Path(folder) / "src"
        shutil.copytree(
            ROOT / PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__")
        )
        try:
            mutant.apply(source)
        except LookupError as error:
            return [str(error)]
        wrong = []
        for test, arguments in mutant.runs():
            problem = _run(arguments, source)
            if problem:
                wrong.append(f"{test}: {problem}")
        return wrong


def _run(arguments: list[str], source: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    # Before what is installed, for the processes that a test starts as well.
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return ""
    if process.returncode == FAILED:
        return ""
    if process.returncode == 0:
        return "passes all the same"
    return f"did not run\n{output[-2000:]}"


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [mutant for mutant in MUTANTS if word in mutant.promise or word in mutant.file]
    bad = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for mutant, wrong in zip(chosen, threads.map(survivors, chosen), strict=True):
            bad += bool(wrong)
            print(f"{'SURVIVED' if wrong else 'killed  '} {mutant.file}: without {mutant.without}")
            for line in wrong:
                print(f"         {line}")
            sys.stdout.flush()
    print(f"{len(chosen) - bad} mutants killed, {bad} survived")
    return 1 if bad or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())

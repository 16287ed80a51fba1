"""Try every mutant: `python -m tests.mutants [WORD]`, those of a promise or file with that word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import PACKAGE, ROOT, Mutant
from tests.mutants.mutants import MUTANTS
from tests.mutants.selection import CONFORMANCE

TEST_TIMEOUT = 60
"""Seconds: a test that hangs without the mechanism has noticed too; the longest takes 25."""
RUN_TIMEOUT = 300
"""Seconds for what hangs in another way."""


@dataclass(frozen=True)
class Tried:
    passed: dict[str, str]
    """Tests that should have failed, and why they have not."""
    failed: dict[str, str]
    """The others, with what pytest said last."""
    seconds: float


def try_mutant(mutant: Mutant) -> Tried:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        source = Path(folder) / "src"
        shutil.copytree(
            ROOT / PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__")
        )
        try:
            mutant.apply(source)
        except LookupError as error:
            return Tried(dict.fromkeys(mutant.killed_by, str(error)), {}, 0.0)
        left = {_selected(test, mutant): test for test in mutant.killed_by}
        passed: dict[str, str] = {}
        failed: dict[str, str] = {}
        while left:
            notes, output = _run(list(left), source)
            began_last, has_ended = "", False
            for what, _, rest in (line.partition(" ") for line in notes.splitlines()):
                name, _, why = rest.partition(" ")
                if what == "began":
                    began_last = name
                elif what == "failed":
                    failed.setdefault(left[name], why)
                else:
                    has_ended = True
            if not has_ended and began_last:  # it has hung, or ended the process
                failed.setdefault(left[began_last], "has not ended")
            else:
                for name, test in left.items():
                    ran = f"began {name}\n" in notes
                    if test not in failed:
                        passed[test] = "passes all the same" if ran else f"did not run\n{output}"
            left = {n: test for n, test in left.items() if test not in failed | passed}
    return Tried(passed, failed, time.monotonic() - began)


def _selected(test: str, mutant: Mutant) -> str:
    """As the plugin spells it. The conformance suite runs on a backend of this machine."""
    file, name = test.split("::")
    if not file.startswith("src/"):
        return test
    backend = "sqlite" if mutant.file.startswith("backends/sqlite") else "memory"
    return f"{CONFORMANCE}::{name}@{backend}"


def _run(selected: list[str], source: Path) -> tuple[str, str]:
    """The plugin's notes, and the end of pytest's output."""
    notes = source.parent / "notes"
    notes.write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    command += ["-p", "tests.mutants.selection", "--source", str(source), "--notes", str(notes)]
    command += ["-o", f"faulthandler_timeout={TEST_TIMEOUT}"]
    command += [f"--select={name}" for name in selected]
    command += sorted({name.split("::")[0] for name in selected})
    # Before what is installed, for the processes that a test starts as well.
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=RUN_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
    return notes.read_text(encoding="utf-8"), output[-2000:]


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [mutant for mutant in MUTANTS if word in mutant.promise or word in mutant.file]
    began, survived = time.monotonic(), 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for mutant, tried in zip(chosen, threads.map(try_mutant, chosen), strict=True):
            survived += bool(tried.passed)
            verdict = "SURVIVED" if tried.passed else "killed"
            print(f"{verdict:8} {mutant.file}: without {mutant.without} ({tried.seconds:.0f} s)")
            for test, why in tried.passed.items():
                print(f"         {test}: {why}")
            if word:
                for test, why in tried.failed.items():
                    print(f"         {test}: {why}")
            sys.stdout.flush()
    seconds = time.monotonic() - began
    print(f"{len(chosen) - survived} mutants killed, {survived} survived, {seconds:.0f} s")
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())

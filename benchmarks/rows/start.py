"""How long starting takes."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.engine import Build
from benchmarks.processes import emptied
from benchmarks.rows.base import OURS, Case, Column, Figures, Goal, Row, Setup, value
from benchmarks.scenes import run_python, seconds_until_ready

_IMPORT = (
    "import time; began = time.perf_counter(); import task_queue_engine; {more}"
    "print(time.perf_counter() - began)"
)


def _measure(setup: Setup, build: Build) -> Figures:
    def imported(more: str = "") -> float:
        command = [sys.executable, "-c", _IMPORT.format(more=more)]
        done = subprocess.run(
            command,
            cwd=setup.folder,
            env=build.environment(),
            check=True,
            capture_output=True,
            text=True,
        )
        return float(done.stdout)

    def help_shown() -> float:
        began = time.perf_counter()
        run_python(build, "task_queue_engine", "--help", folder=setup.folder)
        return time.perf_counter() - began

    with emptied(setup.folder / "start") as folder:
        ready = seconds_until_ready(build, folder)
    return {
        "serve_s": ready,
        "import_s": imported(),
        "engine_s": imported("task_queue_engine.Engine; "),
        "help_s": help_shown(),
    }


def _cases(setup: Setup) -> list[Case]:
    def case(name: str, build: Build) -> Case:
        return Case(
            name=name,
            measure=lambda: _measure(setup, build),
            about=f"bytecode cached, new SQLite file; commit {build.commit}",
        )

    return [case(name, build) for name, build in setup.builds().items()]


START = Row(
    name="start",
    title="Starting",
    how="`tqe serve` on a new SQLite file, from its start until `GET /ready` answers 200;"
    " `import task_queue_engine` inside a fresh interpreter, and with `Engine`, which is"
    " imported when it is first used; `tqe --help`, the interpreter's own start included.",
    columns={
        "serve_s": Column(heading="serve ready s", digits=2, plotted=True),
        "import_s": Column(heading="import s", digits=3),
        "engine_s": Column(heading="with `Engine` s", digits=3, plotted=True),
        "help_s": Column(heading="`--help` s", digits=2, plotted=True),
    },
    cases=_cases,
    goals=[
        Goal(text="`tqe serve` to ready", number=value(OURS, "serve_s"), most=0.7, unit="s"),
        Goal(text="`import task_queue_engine`", number=value(OURS, "import_s"), most=0.1, unit="s"),
        Goal(text="`tqe --help`", number=value(OURS, "help_s"), most=0.25, unit="s"),
    ],
    rounds=(5, 3),
)

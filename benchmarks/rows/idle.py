"""What an engine costs that has nothing to do."""

from __future__ import annotations

import time
from contextlib import ExitStack

from benchmarks.engine import Build
from benchmarks.processes import cpu_seconds, emptied, resident_mib, written_bytes
from benchmarks.rows.base import BEFORE, Case, Column, Figures, Goal, Row, Setup, value
from benchmarks.scenes import server, worker

WORKER = "`tqe worker`"
SERVE = "`tqe serve`"

# Seconds from when it is calm: what starting up left to do later is done.
_AFTERWARDS = 3.0


def _measure(setup: Setup, build: Build, command: str) -> Figures:
    with emptied(setup.folder / "idle") as folder, ExitStack() as stack:
        if command == WORKER:
            database = str(folder / "tasks.db")
            process = stack.enter_context(worker(build, folder, TQE_DATABASE=database))
        else:
            process, _ = stack.enter_context(server(build, folder, "serve"))
        process.settle()
        time.sleep(0 if setup.tiny else _AFTERWARDS)
        cpu, written = cpu_seconds(process.pid), written_bytes(process.pid)
        began = time.monotonic()
        time.sleep(setup.size(15, 10, 1))  # the time that is measured
        seconds = time.monotonic() - began
        return {
            "cpu_percent": (cpu_seconds(process.pid) - cpu) / seconds * 100,
            "written_bytes": float(written_bytes(process.pid) - written),
            "rss_mib": resident_mib(process.pid),
        }


def _cases(setup: Setup) -> list[Case]:
    def case(name: str, build: Build, command: str) -> Case:
        return Case(
            name=name,
            measure=lambda: _measure(setup, build, command),
            about=f"no settings, SQLite; commit {build.commit}",
        )

    before = [case(f"{BEFORE}, {WORKER}", setup.before, WORKER)] if setup.before else []
    return [case(WORKER, setup.ours, WORKER), case(SERVE, setup.ours, SERVE), *before]


IDLE = Row(
    name="idle",
    title="Nothing to do",
    how="CPU of the process, as a share of one core, and what it writes to files"
    " (`/proc/PID/io`), from three seconds after it has started.",
    columns={
        "cpu_percent": Column(heading="CPU %", digits=2, plotted=True),
        "written_bytes": Column(heading="bytes written"),
        "rss_mib": Column(heading="RSS MiB"),
    },
    cases=_cases,
    goals=[
        Goal(text="CPU of a core, worker", number=value(WORKER, "cpu_percent"), most=0.3, unit="%"),
        Goal(text="written, worker", number=value(WORKER, "written_bytes"), most=0.0, unit="bytes"),
        Goal(text="CPU of a core, serve", number=value(SERVE, "cpu_percent"), most=0.3, unit="%"),
        Goal(text="written, serve", number=value(SERVE, "written_bytes"), most=0.0, unit="bytes"),
    ],
    rounds=(2, 1),
)

"""Ten thousand at a time: handlers that sleep, and callers that wait."""

from __future__ import annotations

import importlib.util
import json
import time

from benchmarks import marks
from benchmarks.engine import Build
from benchmarks.processes import Failed, cpu_seconds, emptied, peak_mib
from benchmarks.rows.base import OURS, Case, Column, Figures, Goal, Ratio, Row, Setup, value
from benchmarks.scenes import run_python, worker

_WORKERS = 10_000
# Seconds that each handler sleeps: a thousand of them begin each second at the ceiling.
_NAP = 10
_MOST = 60


def _sleepers(setup: Setup, build: Build) -> Figures:
    workers = setup.size(_WORKERS, _WORKERS, 20)
    nap = setup.size(_NAP, _NAP, 1)
    turns = setup.size(2, 1, 1)
    with emptied(setup.folder / "sleepers") as folder:
        database = str(folder / "tasks.db")
        # One turn to get all of them going, the turns that are measured, and half a one that waits.
        tasks = workers * (turns + 1) + workers // 2
        arguments = ("sleep", str(tasks), json.dumps(nap))
        run_python(build, "benchmarks.fill", *arguments, folder=folder, TQE_DATABASE=database)
        with worker(build, folder, WORKER_COUNT=str(workers), TQE_DATABASE=database) as process:
            path = folder / "marks"
            process.wait_for(lambda: marks.count(path) >= workers, "all workers", seconds=_MOST)
            cpu, began = cpu_seconds(process.pid), time.monotonic()
            last = workers * (turns + 1)
            process.wait_for(lambda: marks.count(path) >= last, "all turns", seconds=_MOST * 2)
            cpu, seconds = cpu_seconds(process.pid) - cpu, time.monotonic() - began
            at = sorted(when for _, when in marks.read(path))
            # From the last beginning of the first turn to that of the last one: were no worker ever
            # without work, that would be so many naps. No window that cuts through a burst.
            taken = (at[last - 1] - at[workers - 1]) / 1e9
            return {
                "ceiling_percent": turns * nap / taken * 100,
                "cpu_percent": cpu / seconds * 100,
                "peak_rss_mib": peak_mib(process.pid),
            }


def _sleeper_cases(setup: Setup) -> list[Case]:
    def case(name: str, build: Build) -> Case:
        return Case(
            name=name,
            measure=lambda: _sleepers(setup, build),
            about=f"`tqe worker`, WORKER_COUNT={_WORKERS}; SQLite; commit {build.commit}",
        )

    return [case(OURS, setup.ours)]


SLEEPERS = Row(
    name="sleepers",
    title="10,000 sleeping tasks at a time",
    how=f"Asynchronous handlers that sleep {_NAP} s, WORKER_COUNT={_WORKERS}, a queue that"
    " stays full. The ceiling is what as many workers could begin a second; measured once each"
    " has begun one.",
    columns={
        "ceiling_percent": Column(heading="% of the ceiling", digits=1),
        "cpu_percent": Column(heading="CPU % of a core"),
        "peak_rss_mib": Column(heading="peak RSS MiB"),
    },
    cases=_sleeper_cases,
    goals=[
        Goal(text="of the ceiling", number=value(OURS, "ceiling_percent"), least=97.0, unit="%"),
        Goal(
            text="peak memory",
            number=lambda round_: _megabytes(value(OURS, "peak_rss_mib")(round_)),
            most=250.0,
            unit="MB",
        ),
    ],
    rounds=(1, 1),
)


def _megabytes(mebibytes: float | None) -> float | None:
    return mebibytes and mebibytes * 2**20 / 1e6


NONE = "no waiter"
WAITERS = "10,000 waiters"


def _waiters(setup: Setup, phase: str) -> Figures:
    if importlib.util.find_spec("benchmarks.latency") is None:
        raise Failed("not built: benchmarks.latency")
    with emptied(setup.folder / "waiters") as folder:
        found = folder / "found.json"
        run_python(
            setup.ours,
            "benchmarks.latency",
            *("--phases", phase, "--json", str(found), "--folder", str(folder)),
            *("--samples", str(setup.size(100, 60, 3))),
            *("--waiters", str(setup.size(10_000, 10_000, 20))),
            folder=folder,
        )
        results: dict[str, Figures] = json.loads(found.read_text(encoding="utf-8"))["results"]
    return results[phase]


def _waiter_cases(setup: Setup) -> list[Case]:
    about = f"no settings; SQLite; commit {setup.ours.commit}"
    return [
        Case(name=NONE, measure=lambda: _waiters(setup, "one_process"), about=about),
        Case(name=WAITERS, measure=lambda: _waiters(setup, "waiters"), about=about),
    ]


WAITING = Row(
    name="waiters",
    title="10,000 callers that wait",
    how="An engine inside one process: one no-op task after the other until its result is"
    " there, alone and beside 10,000 waits for distinct tasks that have not ended (`python -m"
    " benchmarks.latency`).",
    columns={
        "result_p50_ms": Column(heading="result p50 ms", digits=2, plotted=True),
        "result_p99_ms": Column(heading="result p99 ms", digits=2, plotted=True),
        "start_p50_ms": Column(heading="start p50 ms", digits=2),
    },
    cases=_waiter_cases,
    goals=[
        Goal(
            text="until the result, p50, times that without waiters",
            number=Ratio(WAITERS, NONE, "result_p50_ms"),
            most=2.0,
        )
    ],
    rounds=(2, 1),
)

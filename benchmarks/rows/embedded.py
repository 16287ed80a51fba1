"""One program with the engine inside, on SQLite, beside itself as it was."""

from __future__ import annotations

from benchmarks.engine import Build
from benchmarks.rows.base import BEFORE, NEEDS_AGAINST, OURS, Case, Column, Goal, Ratio, Row, Setup
from benchmarks.scenes import phase


def _cases(setup: Setup, name: str, tasks: int, *more: str) -> list[Case]:
    def case(title: str, build: Build) -> Case:
        return Case(
            name=title,
            measure=lambda: phase(
                build,
                setup.folder,
                "benchmarks.throughput",
                *("--phase", name, "--as-it-comes", "--tasks", str(tasks), *more),
            ),
            about=f"no settings; SQLite, synchronous FULL; commit {build.commit}",
        )

    return [case(title, build) for title, build in setup.builds().items()]


_COLUMNS = {
    "tasks_per_second": Column(heading="tasks/s", plotted=True),
    "cpu_us_per_task": Column(heading="CPU us/task", plotted=True),
    "peak_rss_mib": Column(heading="peak RSS MiB"),
}

END_TO_END = Row(
    name="end_to_end",
    title="End to end in one process",
    how="64 coroutines call `submit`, one task at a time each, while the same engine runs them:"
    " from the first submission until the last task is COMPLETED and its message gone.",
    columns=_COLUMNS,
    cases=lambda setup: _cases(setup, "end_to_end", setup.size(10_000, 6_000, 50)),
    goals=[
        Goal(
            text="tasks/s, times before",
            number=Ratio(OURS, BEFORE, "tasks_per_second"),
            least=2.0,
            needs=NEEDS_AGAINST,
        )
    ],
    rounds=(5, 3),
)

SUBMIT_MANY = Row(
    name="submit_many",
    title="Submitting in batches",
    how="`submit_many` of 500 tasks a call, nothing runs them.",
    columns=_COLUMNS,
    cases=lambda setup: _cases(setup, "fill", setup.size(60_000, 30_000, 100)),
    goals=[
        Goal(
            text="tasks/s, times before",
            number=Ratio(OURS, BEFORE, "tasks_per_second"),
            least=1.5,
            needs=NEEDS_AGAINST,
        )
    ],
    rounds=(5, 3),
)

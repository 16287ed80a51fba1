"""Whether a second process brings as much again."""

from __future__ import annotations

from benchmarks.processes import Failed
from benchmarks.rows.base import Case, Column, Figures, Goal, Row, Setup, ratio
from benchmarks.scenes import drain_full_file, has_option

# Task type -> (tasks: full, quick, tiny), what its handlers do.
_KINDS = {
    "spin-async": ((400, 200, 10), "asynchronous handlers of 10 ms CPU"),
    "spin-thread": ((400, 200, 10), "handlers in threads, of 10 ms CPU"),
    "noop": ((10_000, 5_000, 50), "no-op handlers"),
}


def _name(kind: str, processes: int) -> str:
    return f"{kind}, {processes} process{'es' if processes > 1 else ''}"


def _measure(setup: Setup, kind: str, processes: int) -> Figures:
    options: tuple[str, ...] = ()
    if processes > 1:
        if not has_option(setup.ours, "worker", "--processes", setup.folder):
            raise Failed("not built: `tqe worker` has no --processes")
        options = ("--processes", str(processes))
    count = setup.size(*_KINDS[kind][0])
    return drain_full_file(setup.ours, setup.folder / "cores", kind, count, *options)


def _cases(setup: Setup) -> list[Case]:
    def case(kind: str, processes: int) -> Case:
        return Case(
            name=_name(kind, processes),
            measure=lambda: _measure(setup, kind, processes),
            about=f"{_KINDS[kind][1]}; SQLite; commit {setup.ours.commit}",
        )

    return [case(kind, processes) for kind in _KINDS for processes in (1, 2)]


CORES = Row(
    name="processes",
    title="`tqe worker --processes 2`",
    how="A full queue, one worker command with one process and with two.",
    columns={
        "tasks_per_second": Column(heading="tasks/s", plotted=True),
        "cpu_us_per_task": Column(heading="CPU us/task"),
        "peak_rss_mib": Column(heading="peak RSS MiB"),
    },
    cases=_cases,
    goals=[
        Goal(
            text=f"{_KINDS[kind][1]}: times one process",
            number=ratio(_name(kind, 2), _name(kind, 1), "tasks_per_second"),
            least=least,
            needs="`tqe worker --processes`",
        )
        # 5 % for the machine: not slower is what is asked for.
        for kind, least in (("spin-async", 1.8), ("spin-thread", 1.8), ("noop", 0.95))
    ],
    rounds=(2, 1),
)

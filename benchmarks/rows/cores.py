"""Whether a second process brings as much again."""

from __future__ import annotations

from benchmarks.processes import Failed
from benchmarks.rows.base import Case, Column, Figures, Goal, Ratio, Row, Setup
from benchmarks.scenes import drain_full_file, has_option

# (Command, task type) -> (tasks: full, quick, tiny), least times one process.
# 0.95: not slower is what is asked for, and the machine's noise is about that.
_PAIRS = {
    ("worker", "spin-async"): ((400, 200, 10), 1.8),
    ("worker", "spin-thread"): ((400, 200, 10), 1.8),
    ("worker", "noop"): ((10_000, 5_000, 50), 0.95),
    ("serve", "spin-async"): ((400, 200, 10), 1.8),
    ("serve", "noop"): ((10_000, 5_000, 50), 0.95),
}
_HANDLERS = {
    "spin-async": "asynchronous handlers of 10 ms CPU",
    "spin-thread": "handlers in threads, of 10 ms CPU",
    "noop": "no-op handlers",
}


def _name(command: str, kind: str, processes: int) -> str:
    return f"{command}, {kind}, {processes} process{'es' if processes > 1 else ''}"


def _measure(setup: Setup, command: str, kind: str, processes: int) -> Figures:
    options: tuple[str, ...] = ()
    if processes > 1:
        if not has_option(setup.ours, command, "--processes", setup.folder):
            raise Failed(f"not built: `tqe {command}` has no --processes")
        options = ("--processes", str(processes))
    count = setup.size(*_PAIRS[command, kind][0])
    scene = setup.folder / "cores"
    return drain_full_file(setup.ours, scene, kind, count, *options, command=command)


def _cases(setup: Setup) -> list[Case]:
    def case(command: str, kind: str, processes: int) -> Case:
        return Case(
            name=_name(command, kind, processes),
            measure=lambda: _measure(setup, command, kind, processes),
            about=f"{_HANDLERS[kind]}; SQLite; commit {setup.ours.commit}",
        )

    return [case(*pair, processes) for pair in _PAIRS for processes in (1, 2)]


CORES = Row(
    name="processes",
    title="Two processes",
    how="A full queue, emptied by `tqe worker` or `tqe serve` with one process and with"
    " `--processes 2`..",
    columns={
        "tasks_per_second": Column(heading="tasks/s", plotted=True),
        "cpu_us_per_task": Column(heading="CPU us/task"),
        "peak_rss_mib": Column(heading="peak RSS MiB"),
    },
    cases=_cases,
    goals=[
        Goal(
            text=f"`tqe {command} --processes 2`, {_HANDLERS[kind]}: tasks/s, times one process",
            number=Ratio(_name(command, kind, 2), _name(command, kind, 1), "tasks_per_second"),
            least=least,
            needs=f"`tqe {command} --processes`",
        )
        for (command, kind), (_, least) in _PAIRS.items()
    ],
    rounds=(2, 1),
)

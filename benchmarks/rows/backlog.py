"""Whether a long queue is slower than a short one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import marks
from benchmarks.drain import watch
from benchmarks.processes import emptied
from benchmarks.rows.base import Case, Column, Figures, Goal, Ratio, Row, Setup
from benchmarks.scenes import fill, worker

SHORT = "1,000 waiting"
LONG = "1,000,000 waiting"

_SHORT = 1000


class _LongFile:
    """Made for the first case that needs it: a million submissions take their time."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._file: Path | None = None

    def path(self) -> Path:
        if self._file is None:
            setup = self._setup
            folder = setup.stack.enter_context(emptied(setup.folder / "backlog-long"))
            count = setup.size(1_000_000, 200_000, 1200)
            fill(setup.ours, folder, "noop", count, TQE_DATABASE=str(folder / "tasks.db"))
            self._file = folder / "tasks.db"
        return self._file


@contextmanager
def _short_file(setup: Setup) -> Iterator[Path]:
    with emptied(setup.folder / "backlog-short") as folder:
        fill(setup.ours, folder, "noop", _SHORT, TQE_DATABASE=str(folder / "tasks.db"))
        yield folder / "tasks.db"


def _start(setup: Setup, database: Path) -> Figures:
    """From a worker's start until it has done a thousand."""
    with emptied(setup.folder / "backlog") as folder:
        began = time.monotonic()
        with worker(setup.ours, folder, TQE_DATABASE=str(database)) as process:
            figures = watch(process, folder / "marks", _SHORT)
            first = min(when for _, when in marks.read(folder / "marks"))
    return figures | {"first_task_s": first / 1e9 - began}


def _cases(setup: Setup) -> list[Case]:
    long = _LongFile(setup)

    def short() -> Figures:
        with _short_file(setup) as database:
            return _start(setup, database)

    about = f"`tqe worker`, no settings; SQLite; commit {setup.ours.commit}"
    waiting = f"{setup.size(1_000_000, 200_000, 1200):,} waiting"
    return [
        Case(name=SHORT, measure=short, about=about),
        Case(name=LONG, measure=lambda: _start(setup, long.path()), about=f"{about}; {waiting}"),
    ]


BACKLOG = Row(
    name="backlog",
    title="A thousand waiting, and a million",
    how="A worker command starts on a file with so many no-op tasks (200,000 in a quick run)."
    " Measured are its first thousand, and the time from its start to its first task.",
    columns={
        "tasks_per_second": Column(heading="tasks/s", plotted=True),
        "cpu_us_per_task": Column(heading="CPU us/task"),
        "first_task_s": Column(heading="first task after s", digits=2, plotted=True),
        "peak_rss_mib": Column(heading="peak RSS MiB", plotted=True),
    },
    cases=_cases,
    goals=[
        Goal(
            text="tasks/s with a million, of those with a thousand",
            number=Ratio(LONG, SHORT, "tasks_per_second"),
            least=0.85,
        ),
        Goal(
            text="memory with a million, times that with a thousand",
            number=Ratio(LONG, SHORT, "peak_rss_mib"),
            most=1.15,
        ),
        Goal(
            text="time to the first task, times that with a thousand",
            number=Ratio(LONG, SHORT, "first_task_s"),
            most=1.15,
        ),
    ],
    rounds=(5, 3),
)

"""On local SQS and DynamoDB servers: CPU and requests a task, the servers on the same machine."""

from __future__ import annotations

from benchmarks.aws.places import QUEUE, TABLE, endpoints, pids, servers
from benchmarks.engine import Build
from benchmarks.rows.base import (
    BEFORE,
    BEFORE_TUNED,
    NEEDS_AGAINST,
    OURS,
    TUNED,
    Case,
    Column,
    Figures,
    Goal,
    Ratio,
    Row,
    Setup,
    value,
)
from benchmarks.scenes import merged, phase

_TASKS = {
    # phase: full, quick, tiny
    "drain": (2000, 1000, 50),
    "end_to_end": (1500, 800, 50),
}


def _cases(setup: Setup) -> list[Case]:
    """As it comes and tuned, of every build."""

    def measure(build: Build, tuned: bool) -> Figures:
        local = servers()
        found: dict[str, Figures] = {}
        for name, sizes in _TASKS.items():
            arguments = [
                *("--phase", name, "--tasks", str(setup.size(*sizes))),
                *("--sqs", QUEUE, "--dynamodb", TABLE),
                *endpoints(local),
                *("--pids", *map(str, pids(local))),
                *([] if tuned else ["--as-it-comes"]),
            ]
            found[name] = phase(build, setup.folder, "benchmarks.aws.throughput", *arguments)
        return merged(found)

    def case(name: str, build: Build, tuned: bool) -> Case:
        settings = "64 workers, prefetch 64" if tuned else "no settings"
        return Case(
            name=name,
            measure=lambda: measure(build, tuned),
            about=f"{settings}; {QUEUE} and {TABLE}; commit {build.commit}",
        )

    cases = [case(OURS, setup.ours, False), case(TUNED, setup.ours, True)]
    if setup.before:
        cases += [case(BEFORE, setup.before, False), case(BEFORE_TUNED, setup.before, True)]
    return cases


def _cpu(title: str, case: str, phase_name: str, most: float) -> Goal:
    words = phase_name.replace("_", " ")
    number = value(case, f"{phase_name}_cpu_us_per_task")
    return Goal(text=f"{title}: {words}, CPU us a task", number=number, most=most)


def _cpu_ratio(phase_name: str, most: float) -> Goal:
    return Goal(
        text=f"tuned: {phase_name.replace('_', ' ')}, CPU a task, times before",
        number=Ratio(TUNED, BEFORE_TUNED, f"{phase_name}_cpu_us_per_task"),
        most=most,
        needs=NEEDS_AGAINST,
    )


def _requests(title: str, case: str, before: str, phase_name: str) -> Goal:
    return Goal(
        text=f"{title}: {phase_name.replace('_', ' ')}, requests a task, times before",
        number=Ratio(case, before, f"{phase_name}_requests_per_task"),
        # 2 %: an empty poll more or less is no finding.
        most=1.02,
        needs=NEEDS_AGAINST,
    )


AWS = Row(
    name="aws",
    title="SQS and DynamoDB: CPU and requests a task",
    how="An engine in one process, a queue filled beforehand (drain) or filled by 64 coroutines"
    " that call `submit` beside the workers (end to end). Local servers answer at once and"
    " share the two cores, so the figure is this engine's CPU. Requests are HTTP requests,"
    " empty polls included.",
    columns={
        "drain_cpu_us_per_task": Column(heading="drain: CPU us/task", plotted=True),
        "drain_requests_per_task": Column(heading="requests/task", digits=2),
        "drain_tasks_per_second": Column(heading="tasks/s here"),
        "end_to_end_cpu_us_per_task": Column(heading="end to end: CPU us/task", plotted=True),
        "end_to_end_requests_per_task": Column(heading="requests/task", digits=2),
        "end_to_end_tasks_per_second": Column(heading="tasks/s here"),
    },
    cases=_cases,
    goals=[
        *(
            goal
            for title, case in (("no settings", OURS), ("tuned", TUNED))
            for goal in (
                _cpu(title, case, "drain", 120.0),
                _cpu(title, case, "end_to_end", 200.0),
            )
        ),
        # The same two goals on a machine of any speed: 171 and 281 us were e6db1f6's.
        _cpu_ratio("drain", round(120 / 171, 2)),
        _cpu_ratio("end_to_end", round(200 / 281, 2)),
        _requests("no settings", OURS, BEFORE, "drain"),
        _requests("no settings", OURS, BEFORE, "end_to_end"),
        _requests("tuned", TUNED, BEFORE_TUNED, "drain"),
        _requests("tuned", TUNED, BEFORE_TUNED, "end_to_end"),
    ],
    rounds=(2, 1),
)

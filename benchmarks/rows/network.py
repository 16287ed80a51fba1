"""A network away: every request to the local SQS and DynamoDB servers is held for a while."""

from __future__ import annotations

import statistics
import time

from benchmarks import marks
from benchmarks.aws.places import (
    BusiestServer,
    delayed,
    drain_full_queue,
    endpoints,
    place,
    servers,
)
from benchmarks.engine import HERE, Build
from benchmarks.load import ask_all
from benchmarks.processes import cpu_seconds, emptied
from benchmarks.rows.base import (
    BEFORE,
    NEEDS_AGAINST,
    OURS,
    Case,
    Column,
    Figures,
    Goal,
    Ratio,
    Row,
    Setup,
    value,
)
from benchmarks.rows.over_http import CONNECTIONS, CREATED, POST
from benchmarks.scenes import phase, server

PREDECESSOR = "the Go service's calls, replayed"
DELAY_MS = 8

# POSTs with nothing else under way, for the time that one takes.
_ALONE = 20
# Seconds that all tasks may take.
_MOST = 200
# After the last handler's start: its outcome has to be written and its message deleted.
_AFTERWARDS = 1.0
# CPU a task of the Go service over what this engine took at this commit, in the same run of both,
# by milliseconds of delay. Its sources are not here; by these it can be compared all the same, on
# any machine that runs the earlier commit.
_KNOWN_COMMIT = "e6db1f6"
_GO_OVER_KNOWN = {8: 1463 / 2750, 0: 2485 / 2125}


def _by_post(setup: Setup, build: Build, count: int, *, delay: int, **more: str) -> Figures:
    with (
        place(setup.folder / "network", delay) as found_place,
        server(build, found_place.folder, "serve", **found_place.environment, **more) as (
            process,
            port,
        ),
    ):

        def post(number: int, connections: int) -> list[float]:
            requests = iter([POST] * number)
            return ask_all(port, requests, connections=connections, expected=CREATED).waits

        alone = post(_ALONE, 1)
        path = found_place.folder / "marks"
        process.wait_for(lambda: marks.count(path) >= _ALONE, "the first tasks", seconds=60)
        cpu, busiest = cpu_seconds(process.pid), BusiestServer()
        found = ask_all(port, iter([POST] * count), connections=CONNECTIONS, expected=CREATED)
        process.wait_for(lambda: marks.count(path) >= _ALONE + count, "all tasks", seconds=_MOST)
        server_percent = busiest.percent()
        at = sorted(when for _, when in marks.read(path))[_ALONE:]
        time.sleep(_AFTERWARDS)
        cpu = cpu_seconds(process.pid) - cpu
    figures = {
        "tasks_per_second": count / (at[-1] / 1e9 - found.began),
        "posts_per_second": count / found.seconds,
        "post_p50_ms": statistics.median(found.waits) * 1e3,
        "post_alone_ms": statistics.median(alone) * 1e3,
        "cpu_us_per_task": cpu / count * 1e6,
        "server_percent": server_percent,
    }
    if build.commit.startswith(_KNOWN_COMMIT):
        figures["go_cpu_us_per_task"] = figures["cpu_us_per_task"] * _GO_OVER_KNOWN[delay]
    return figures


def _cases(setup: Setup) -> list[Case]:
    count = setup.size(1500, 800, 30)

    def case(name: str, build: Build) -> Case:
        return Case(
            name=name,
            measure=lambda: _by_post(setup, build, count, delay=DELAY_MS),
            about=f"`tqe serve`, no settings; commit {build.commit}",
        )

    def replayed() -> Figures:
        local = servers()
        with (
            emptied(setup.folder / "network") as folder,
            delayed(local, DELAY_MS, folder) as asked,
        ):
            through = ["--through", asked.queue.url, asked.table.url]
            arguments = ["--tasks", str(count), *endpoints(local), *through]
            busiest = BusiestServer()
            figures = phase(HERE, folder, "benchmarks.aws.predecessor", *arguments)
            return figures | {"server_percent": busiest.percent()}

    return [
        *(case(name, build) for name, build in setup.builds().items()),
        Case(
            name=PREDECESSOR,
            measure=replayed,
            about="PutItem and SendMessage by 16 submitters; five workers, each receives ten"
            " and handles them one after the other; without its HTTP front end",
        ),
    ]


_OF_GO_SERVICE = Ratio(OURS, BEFORE, "cpu_us_per_task", "go_cpu_us_per_task")
_GO_COLUMN = Column(heading="the Go service's CPU us/task, by its ratio")

NETWORK = Row(
    name="network",
    title="8 ms a request",
    how=f"Local SQS and DynamoDB servers behind a proxy that holds each request for {DELAY_MS}"
    " ms; no-op handlers; tasks by `POST /tasks` over 16 connections into one `tqe serve`."
    " Tasks per second are from the first POST to the last handler's start.",
    columns={
        "tasks_per_second": Column(heading="tasks/s", plotted=True),
        "posts_per_second": Column(heading="POST/s", plotted=True),
        "post_alone_ms": Column(heading="one POST alone, ms", digits=1),
        "post_p50_ms": Column(heading="POST p50 ms", digits=1),
        "cpu_us_per_task": Column(heading="CPU us/task", plotted=True),
        "server_percent": Column(heading="busier server: CPU %"),
        "go_cpu_us_per_task": _GO_COLUMN,
    },
    cases=_cases,
    goals=[
        Goal(
            text="tasks/s, times the Go service's calls",
            number=Ratio(OURS, PREDECESSOR, "tasks_per_second"),
            least=5.0,
        ),
        Goal(
            text="a POST alone, times its two requests one after the other",
            number=Ratio(OURS, PREDECESSOR, "post_alone_ms"),
            most=1.1,
        ),
        Goal(
            text="CPU a task, of the Go service's (known by its ratio to commit e6db1f6)",
            number=_OF_GO_SERVICE,
            most=1.0,
            needs="`--against e6db1f6`",
        ),
    ],
    rounds=(2, 1),
)


def _alone_cases(setup: Setup) -> list[Case]:
    count = setup.size(1500, 800, 50)

    folder = setup.folder / "network"

    def case(name: str, build: Build, delay: float) -> Case:
        return Case(
            name=f"{name}, {delay:g} ms",
            measure=lambda: drain_full_queue(build, folder, count, delay_ms=delay),
            about=f"`tqe worker`, no settings; commit {build.commit}",
        )

    delays = (0, 8, 20)
    # The earlier commit at 8 ms alone: it takes its time.
    before = [case(BEFORE, setup.before, DELAY_MS)] if setup.before else []
    return [*(case(OURS, setup.ours, delay) for delay in delays), *before]


NETWORK_WORKER = Row(
    name="network_worker",
    title="A worker alone, 0, 8 and 20 ms a request",
    how="`tqe worker` on a full queue behind the same proxy. Where all three are alike, the local"
    " servers are the limit.",
    columns={
        "tasks_per_second": Column(heading="tasks/s", plotted=True),
        "cpu_us_per_task": Column(heading="CPU us/task"),
        "peak_rss_mib": Column(heading="peak RSS MiB"),
    },
    cases=_alone_cases,
    goals=[
        Goal(
            text="tasks/s at 8 ms, times before",
            number=Ratio(f"{OURS}, 8 ms", f"{BEFORE}, 8 ms", "tasks_per_second"),
            needs=NEEDS_AGAINST,
        ),
        Goal(
            text="tasks/s at 8 ms, of those without delay",
            number=Ratio(f"{OURS}, 8 ms", f"{OURS}, 0 ms", "tasks_per_second"),
        ),
    ],
    rounds=(2, 1),
)


def _post_to_done_cases(setup: Setup) -> list[Case]:
    count = setup.size(2000, 1000, 30)

    def case(name: str, build: Build) -> Case:
        return Case(
            name=name,
            measure=lambda: _by_post(setup, build, count, delay=0, WORKER_COUNT="64"),
            about=f"`tqe serve`, WORKER_COUNT=64; commit {build.commit}",
        )

    return [case(name, build) for name, build in setup.builds().items()]


POST_TO_DONE = Row(
    name="post_to_done",
    title="From POST to done without delay, 64 workers",
    how="As with 8 ms, with the local servers as they are. CPU is that of the one process of"
    " `tqe serve`: HTTP, submitting, running and settling.",
    columns={
        "cpu_us_per_task": Column(heading="CPU us/task", plotted=True),
        "tasks_per_second": Column(heading="tasks/s"),
        "posts_per_second": Column(heading="POST/s"),
        "server_percent": Column(heading="busier server: CPU %"),
        "go_cpu_us_per_task": _GO_COLUMN,
    },
    cases=_post_to_done_cases,
    goals=[
        Goal(
            text="CPU a task, of the Go service's (known by its ratio to commit e6db1f6)",
            number=_OF_GO_SERVICE,
            most=0.4,
            needs="`--against e6db1f6`",
        ),
        Goal(text="CPU us a task", number=value(OURS, "cpu_us_per_task")),
    ],
    rounds=(2, 1),
)

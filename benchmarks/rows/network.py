"""A network away: every request to the local SQS and DynamoDB servers is held for a while."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import marks
from benchmarks.aws.setup import provisioned
from benchmarks.drain import watch
from benchmarks.engine import HERE, Build
from benchmarks.load import ask_all
from benchmarks.processes import Process, cpu_seconds, emptied
from benchmarks.rows.aws import endpoints, servers
from benchmarks.rows.base import (
    BEFORE,
    NEEDS_AGAINST,
    OURS,
    Case,
    Column,
    Figures,
    Goal,
    Row,
    Setup,
    ratio,
    value,
)
from benchmarks.rows.over_http import CONNECTIONS, CREATED, POST
from benchmarks.scenes import fill, phase, server, worker
from local_aws.pairs import LocalAws

PREDECESSOR = "the Go service's calls, replayed"
DELAY_MS = 8

# POSTs with nothing else under way, for the time that one takes.
_ALONE = 20
# Seconds that all tasks may take.
_MOST = 200
# After the last handler's start: its outcome has to be written and its message deleted.
_AFTERWARDS = 1.0
# CPU a task of the Go service, over what this engine took at commit e6db1f6 in the same run of
# both: 1,463 and 2,750 us at 8 ms; 2,485 and 2,125 us without delay. Its sources are not here; by
# these it can be compared all the same, on any machine that runs the earlier commit.
_GO_OVER_BEFORE_DELAYED = 1463 / 2750
_GO_OVER_BEFORE = 2485 / 2125


@contextmanager
def delayed(local: LocalAws, milliseconds: float, folder: Path) -> Iterator[LocalAws]:
    """The same servers behind `benchmarks.delay_proxy`; 0: as they are."""
    if not milliseconds:
        yield local
        return
    targets = (local.queue.url, local.table.url)
    command = [sys.executable, "-m", "benchmarks.delay_proxy", "--delay-ms", str(milliseconds)]
    own = folder / "proxy"
    own.mkdir()
    with Process([*command, *targets], HERE.environment(), own) as proxy:
        proxy.wait_for(lambda: len(proxy.output().split()) == 4, "the delay proxy", seconds=20)
        found = dict(line.split() for line in proxy.output().splitlines())
        yield replace(
            local,
            queue=replace(local.queue, url=found[targets[0]]),
            table=replace(local.table, url=found[targets[1]]),
        )


@contextmanager
def _place(setup: Setup, delay: float) -> Iterator[tuple[Path, dict[str, str], dict[str, str]]]:
    """A folder; the environment of an engine on new queues and a new table; that of one which
    fills them without delay."""
    local = servers()
    with emptied(setup.folder / "network") as folder, delayed(local, delay, folder) as asked:
        settings = provisioned(local)
        made = {
            "SQS_QUEUE_URL": settings.sqs_queue_url or "",
            "SQS_DLQ_URL": settings.sqs_dlq_url or "",
            "DYNAMODB_TABLE": settings.dynamodb_table or "",
            "TQE_DYNAMODB_WRITES": settings.dynamodb_writes,
        }
        yield folder, asked.aws_environment | made, local.aws_environment | made


def _by_post(setup: Setup, build: Build, count: int, *, delay: float, **more: str) -> Figures:
    with (
        _place(setup, delay) as (folder, environment, _),
        server(build, folder, "serve", **environment, **more) as (process, port),
    ):

        def post(number: int, connections: int) -> list[float]:
            requests = iter([POST] * number)
            return ask_all(port, requests, connections=connections, expected=CREATED).waits

        alone = post(_ALONE, 1)
        path = folder / "marks"
        process.wait_for(lambda: marks.count(path) >= _ALONE, "the first tasks", seconds=60)
        cpu = cpu_seconds(process.pid)
        found = ask_all(port, iter([POST] * count), connections=CONNECTIONS, expected=CREATED)
        process.wait_for(lambda: marks.count(path) >= _ALONE + count, "all tasks", seconds=_MOST)
        at = sorted(when for _, when in marks.read(path))[_ALONE:]
        time.sleep(_AFTERWARDS)
        cpu = cpu_seconds(process.pid) - cpu
    return {
        "tasks_per_second": count / (at[-1] / 1e9 - found.began),
        "posts_per_second": count / found.seconds,
        "post_p50_ms": statistics.median(found.waits) * 1e3,
        "post_alone_ms": statistics.median(alone) * 1e3,
        "cpu_us_per_task": cpu / count * 1e6,
    }


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
            return phase(HERE, folder, "benchmarks.aws.predecessor", *arguments)

    return [
        *(case(name, build) for name, build in setup.builds().items()),
        Case(
            name=PREDECESSOR,
            measure=replayed,
            about="PutItem and SendMessage by 16 submitters; five workers, each receives ten"
            " and handles them one after the other; without its HTTP front end",
        ),
    ]


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
    },
    cases=_cases,
    goals=[
        Goal(
            text="tasks/s, times the Go service's calls",
            number=ratio(OURS, PREDECESSOR, "tasks_per_second"),
            least=5.0,
        ),
        Goal(
            text="a POST alone, times its two requests one after the other",
            number=ratio(OURS, PREDECESSOR, "post_alone_ms"),
            most=1.1,
        ),
        Goal(
            text="CPU a task, of the Go service's (known by its ratio to commit e6db1f6)",
            number=lambda round_: _over(
                ratio(OURS, BEFORE, "cpu_us_per_task")(round_), _GO_OVER_BEFORE_DELAYED
            ),
            most=1.0,
            needs="`--against e6db1f6`",
        ),
    ],
    rounds=(2, 1),
)


def _over(number: float | None, other: float) -> float | None:
    return number and number / other


def _alone_cases(setup: Setup) -> list[Case]:
    count = setup.size(1500, 800, 50)

    def measure(build: Build, delay: float) -> Figures:
        with _place(setup, delay) as (folder, environment, direct):
            fill(build, folder, "noop", count, **direct)
            with worker(build, folder, **environment) as process:
                return watch(process, folder / "marks", count)

    def case(name: str, build: Build, delay: float) -> Case:
        return Case(
            name=f"{name}, {delay:g} ms",
            measure=lambda: measure(build, delay),
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
            number=ratio(f"{OURS}, 8 ms", f"{BEFORE}, 8 ms", "tasks_per_second"),
            needs=NEEDS_AGAINST,
        ),
        Goal(
            text="tasks/s at 8 ms, of those without delay",
            number=ratio(f"{OURS}, 8 ms", f"{OURS}, 0 ms", "tasks_per_second"),
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
    },
    cases=_post_to_done_cases,
    goals=[
        Goal(
            text="CPU a task, of the Go service's (known by its ratio to commit e6db1f6)",
            number=lambda round_: _over(
                ratio(OURS, BEFORE, "cpu_us_per_task")(round_), _GO_OVER_BEFORE
            ),
            most=0.4,
            needs="`--against e6db1f6`",
        ),
        Goal(text="CPU us a task", number=value(OURS, "cpu_us_per_task")),
    ],
    rounds=(2, 1),
)

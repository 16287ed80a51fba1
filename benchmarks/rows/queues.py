"""Beside other task queues: a full queue, and one task at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks.aws.places import drain_full_queue
from benchmarks.engine import Build
from benchmarks.peers.catalogue import (
    HUEY_SQLITE,
    PEERS,
    SQS_PEERS,
    Contender,
    this_engine,
)
from benchmarks.peers.measure import Place, drain, start_latency
from benchmarks.peers.services import Redis, redis, redis_version
from benchmarks.rows.base import (
    BEFORE,
    OURS,
    TUNED,
    Case,
    Column,
    Figures,
    Goal,
    Ratio,
    Round,
    Row,
    Setup,
    value,
)
from benchmarks.scenes import phase
from local_aws.downloads import NotAvailable

INSIDE = "this engine, inside one process"
INSIDE_BEFORE = "before, inside one process"

_TUNED = {"WORKER_COUNT": "64", "TQE_PREFETCH": "64"}
_AS_IT_COMES = "`tqe worker`, no settings; SQLite, synchronous FULL, results stored"
_BY_HAND = "WORKER_COUNT=64 TQE_PREFETCH=64; the same otherwise"


def _ours(name: str, build: Build, tasks: int, *, tuned: bool = False) -> Contender:
    about = f"{_BY_HAND if tuned else _AS_IT_COMES}; commit {build.commit}"
    return this_engine(name, build, tasks, about, **(_TUNED if tuned else {}))


class _Places:
    """Redis with and without a file, each started for the first case that needs it."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._started: dict[bool, Redis | NotAvailable] = {}

    def of(self, contender: Contender) -> Place:
        is_sqlite = contender.broker == "sqlite"
        return Place(self._setup.folder, None if is_sqlite else self._redis(contender))

    def _redis(self, contender: Contender) -> Redis:
        durable = contender.broker == "redis, appendonly"
        if durable not in self._started:
            folder = self._setup.folder / f"redis-{durable}"
            try:
                server = self._setup.stack.enter_context(redis(folder, durable=durable))
            except NotAvailable as reason:
                self._started[durable] = reason
            else:
                self._started[durable] = server
        found = self._started[durable]
        if isinstance(found, NotAvailable):
            raise found
        return found


def _cases(
    contenders: Iterable[Contender], places: _Places, measure: Callable[[Contender, Place], Figures]
) -> list[Case]:
    version = redis_version()

    def case(contender: Contender) -> Case:
        return Case(
            name=contender.name,
            measure=lambda: measure(contender, places.of(contender)),
            about=contender.about.replace("Redis", version, 1),
        )

    return [case(each) for each in contenders]


def _drain_cases(setup: Setup) -> list[Case]:
    own = [
        _ours(OURS, setup.ours, 12_000),
        _ours(TUNED, setup.ours, 20_000, tuned=True),
    ]
    if setup.before:
        own.append(_ours(BEFORE, setup.before, 5000))

    def measure(contender: Contender, place: Place) -> Figures:
        full = contender.tasks
        return drain(contender, place, setup.size(full, full * 3 // 5, max(50, full // 100)))

    peers = () if setup.tiny else PEERS.values()
    return _cases([*own, *peers], _Places(setup), measure)


def _of_best_peer(round_: Round) -> float | None:
    mine = value(OURS, "tasks_per_second")(round_)
    theirs = [round_[name]["tasks_per_second"] for name in PEERS if name in round_]
    return mine / max(theirs) if mine and theirs else None


_DRAINED = {
    "tasks_per_second": Column(heading="tasks/s", better="more", plotted=True),
    "cpu_us_per_task": Column(heading="CPU us/task", better="less", plotted=True),
    "submitted_per_second": Column(heading="submitted/s", better="more"),
    "submit_cpu_us": Column(heading="CPU us/submission", better="less"),
    "peak_rss_mib": Column(heading="peak RSS MiB", better="less"),
}

DRAIN = Row(
    name="drain",
    title="A full queue of no-op tasks",
    how="One process submits all tasks, one at a time (asynchronous ones from 50 coroutines)."
    " Then one worker command starts on the full queue. Tasks per second are between the first"
    " and the last handler's start; CPU is that of the whole tree of the worker's processes.",
    columns=_DRAINED,
    cases=_drain_cases,
    goals=[
        Goal(
            text="tasks/s, times Huey on SQLite",
            number=Ratio(OURS, HUEY_SQLITE, "tasks_per_second"),
            least=6.0,
        ),
        Goal(text="tasks/s, times the best peer", number=_of_best_peer, least=2.8),
        Goal(
            text="CPU a task, of Huey's on SQLite",
            number=Ratio(OURS, HUEY_SQLITE, "cpu_us_per_task"),
            most=0.3,
        ),
        Goal(
            text="default against hand-tuned, tasks/s",
            number=Ratio(OURS, TUNED, "tasks_per_second"),
            least=0.9,
        ),
    ],
    peers=True,
)


def _sqs_cases(setup: Setup) -> list[Case]:
    def measure(contender: Contender, place: Place) -> Figures:
        return drain(contender, place, setup.size(contender.tasks, contender.tasks // 2, 100))

    def this_engine_case(name: str, settings: dict[str, str], about: str) -> Case:
        folder, count = setup.folder / "sqs", setup.size(2000, 1000, 100)
        return Case(
            name=name,
            measure=lambda: drain_full_queue(setup.ours, folder, count, settings=settings),
            about=f"{about}; results in DynamoDB; commit {setup.ours.commit}",
        )

    return [
        this_engine_case(OURS, {}, "`tqe worker`, no settings"),
        this_engine_case(TUNED, _TUNED, "WORKER_COUNT=64 TQE_PREFETCH=64"),
        *_cases(SQS_PEERS.values(), _Places(setup), measure),
    ]


SQS = Row(
    name="sqs",
    title="The same on a local SQS server",
    how="As above. The queue is fauxqs; the others keep results in Redis, this engine keeps"
    " task and result in DynamoDB (ministack). The servers share the machine and limit the"
    " speed: the figure is CPU a task of the worker's processes.",
    columns={
        "cpu_us_per_task": Column(heading="CPU us/task", better="less", plotted=True),
        "tasks_per_second": Column(heading="tasks/s here", better="more"),
        "peak_rss_mib": Column(heading="peak RSS MiB", better="less"),
    },
    cases=_sqs_cases,
    goals=[],
    rounds=(2, 1),
    peers=True,
)


def _latency_cases(setup: Setup) -> list[Case]:
    samples = setup.size(120, 80, 5)
    own = [_ours(OURS, setup.ours, 0)]
    if setup.before:
        own.append(_ours(BEFORE, setup.before, 0))

    def inside(name: str, build: Build) -> Case:
        return Case(
            name=name,
            measure=lambda: phase(
                build,
                setup.folder,
                "benchmarks.throughput",
                *("--phase", "latency", "--as-it-comes", "--samples", str(samples)),
            ),
            about=f"an engine inside the program that submits; commit {build.commit}",
        )

    return [
        *_cases(
            [*own, *(() if setup.tiny else PEERS.values())],
            _Places(setup),
            lambda contender, place: start_latency(contender, place, samples),
        ),
        inside(INSIDE, setup.ours),
        *([inside(INSIDE_BEFORE, setup.before)] if setup.before else []),
    ]


LATENCY = Row(
    name="latency",
    title="From submitting to starting, nothing else to do",
    how="One process submits one task every 10 ms, an idle worker command in another runs it: from"
    " just before the submission to the handler's first line. Inside one process: the engine is"
    " embedded in the program that submits, one task after the other.",
    columns={
        "p50_ms": Column(heading="p50 ms", digits=2, better="less", plotted=True),
        "p99_ms": Column(heading="p99 ms", digits=2, better="less", plotted=True),
        "max_ms": Column(heading="most ms", digits=2),
    },
    cases=_latency_cases,
    goals=[
        Goal(text="two processes, p50", number=value(OURS, "p50_ms"), most=2.0, unit="ms"),
        Goal(text="two processes, p99", number=value(OURS, "p99_ms"), most=5.0, unit="ms"),
        Goal(text="inside one process, p50", number=value(INSIDE, "p50_ms"), most=1.0, unit="ms"),
        Goal(text="inside one process, p99", number=value(INSIDE, "p99_ms"), most=2.0, unit="ms"),
    ],
    rounds=(2, 1),
    peers=True,
)

"""Who is measured, and how each is run: as its own documentation recommends for short tasks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.engine import Build
from benchmarks.machine import ROOT
from benchmarks.peers.setup import python_of, version_of

_APPS = "benchmarks.peers.apps"
_IN_MEMORY = "Redis without persistence"


@dataclass(frozen=True, kw_only=True)
class Contender:
    name: str
    app: str
    """A module of benchmarks.peers.apps."""
    python: Callable[[], str]
    """The interpreter; makes its environment where there is none."""
    worker: tuple[str, ...]
    """A program of that environment and its arguments; or `-m` and a module."""
    broker: Literal["redis", "redis, appendonly", "sqlite", "sqs"]
    tasks: int
    """For a drain of about two seconds."""
    settings: Mapping[str, str] = field(default_factory=dict)
    base: Callable[[], dict[str, str]] | None = None
    """The environment to put them into, in place of the plain one."""
    queue_suffix: str = ""
    about: str

    def worker_command(self) -> list[str]:
        python = self.python()
        if self.worker[0] == "-m":
            return [python, *self.worker]
        # Not its path resolved: the interpreter of an environment is a link out of it.
        return [os.path.join(os.path.dirname(python), self.worker[0]), *self.worker[1:]]  # noqa: PTH118, PTH120

    def environment(self) -> dict[str, str]:
        base = self.base() if self.base else _plain()
        return base | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(self.settings)


def _plain() -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": str(ROOT)
    }


def this_engine(name: str, build: Build, tasks: int, about: str, **settings: str) -> Contender:
    """`tqe worker` on SQLite.

    Args:
        settings: variables; none: as it comes.
    """
    return Contender(
        name=name,
        app="on_this_engine",
        python=lambda: sys.executable,
        worker=("-m", "task_queue_engine", "worker", "--app", f"{_APPS}.on_this_engine:tasks"),
        broker="sqlite",
        tasks=tasks,
        settings=settings,
        base=build.environment,
        about=about,
    )


def _peer(
    peer: str,
    worker: tuple[str, ...],
    broker: Literal["redis", "redis, appendonly", "sqlite", "sqs"],
    tasks: int,
    *,
    name: str,
    about: str,
    queue_suffix: str = "",
    **settings: str,
) -> Contender:
    kept = {"redis": _IN_MEMORY, "redis, appendonly": "Redis appendonly, fsync every second"}
    return Contender(
        name=name,
        app=f"on_{peer}",
        python=lambda: str(python_of(peer)),
        worker=worker,
        broker=broker,
        tasks=tasks,
        settings=settings,
        queue_suffix=queue_suffix,
        about=", ".join(
            filter(None, (version_of(peer), f"`{' '.join(worker)}`", kept.get(broker), about))
        ).replace(f"{_APPS}.", ""),
    )


_CELERY = (
    *("celery", "-A", f"{_APPS}.on_celery", "worker", "--loglevel", "WARNING"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    *("--pool", "prefork", "--concurrency", "2"),
)
_TASKIQ = (
    *("taskiq", "worker", f"{_APPS}.on_taskiq:broker", "--workers", "1"),
    *("--max-async-tasks", "100", "--max-prefetch", "100", "--log-level", "WARNING"),
)
_HUEY = ("huey_consumer", f"{_APPS}.on_huey.huey", "--worker-type", "thread", "--quiet")
_DRAMATIQ = ("dramatiq", f"{_APPS}.on_dramatiq")

HUEY_SQLITE = "Huey, SQLite"

PEERS = {
    each.name: each
    for each in (
        _peer(
            "huey",
            (*_HUEY, "--workers", "10"),
            "sqlite",
            3000,
            name=HUEY_SQLITE,
            about="WAL, synchronous FULL",
        ),
        _peer(
            "huey",
            (*_HUEY, "--workers", "10"),
            "redis",
            4500,
            name="Huey, Redis",
            about="taken off the list before it runs",
        ),
        _peer(
            "saq",
            ("saq", f"{_APPS}.on_saq.settings"),
            "redis",
            3000,
            name="SAQ",
            about="concurrency 100",
        ),
        _peer(
            "dramatiq",
            (*_DRAMATIQ, "--processes", "2", "--threads", "8"),
            "redis",
            6000,
            name="Dramatiq",
            about="its own defaults on two cores, results stored",
        ),
        _peer(
            "dramatiq",
            (*_DRAMATIQ, "--processes", "2", "--threads", "8"),
            "redis, appendonly",
            6000,
            name="Dramatiq, appendonly",
            about="the same",
        ),
        _peer(
            "taskiq",
            _TASKIQ,
            "redis",
            3000,
            name="Taskiq",
            about="Redis stream, acknowledged when the result is saved, uvloop",
        ),
        _peer(
            "arq",
            ("arq", f"{_APPS}.on_arq.WorkerSettings", "--custom-log-dict", f"{_APPS}.on_arq.LOG"),
            "redis",
            2000,
            name="arq",
            about="max_jobs 100, poll_delay 0.5 (its default)",
        ),
        _peer(
            "streaq",
            ("streaq", "run", f"{_APPS}.on_streaq:worker"),
            "redis",
            2500,
            name="streaq",
            about="concurrency 100, uvloop",
            BENCH_LOOP="asyncio",
        ),
        _peer(
            "streaq",
            ("streaq", "run", f"{_APPS}.on_streaq:worker"),
            "redis",
            1800,
            name="streaq, trio",
            about="concurrency 100",
            BENCH_LOOP="trio",
        ),
        _peer(
            "celery",
            _CELERY,
            "redis",
            2500,
            name="Celery",
            about="prefetch 64, acknowledged before it runs, results stored",
        ),
        _peer(
            "rq",
            ("rq", "worker", "--quiet", "--worker-class", "rq.SimpleWorker", "noop"),
            "redis",
            800,
            name="RQ",
            about="SimpleWorker: one task at a time, without its usual fork for each",
        ),
    )
}

SQS_PEERS = {
    each.name: each
    for each in (
        _peer(
            "celery",
            _CELERY,
            "sqs",
            1000,
            name="Celery, SQS",
            about="prefetch 64, results in Redis",
        ),
        _peer(
            "dramatiq",
            (*_DRAMATIQ, "--processes", "1", "--threads", "10"),
            "sqs",
            1200,
            name="Dramatiq, SQS",
            about="results in Redis",
            queue_suffix="_default",
        ),
        _peer(
            "taskiq",
            _TASKIQ,
            "sqs",
            1500,
            name="Taskiq, SQS",
            about="receives in tens, results in Redis, uvloop",
        ),
    )
}

"""Queues and a table on the local servers, near or a network away, and a worker on them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.aws.setup import provisioned
from benchmarks.drain import watch
from benchmarks.engine import HERE, Build
from benchmarks.processes import Process, cpu_seconds, emptied
from benchmarks.scenes import fill, worker
from local_aws.pairs import LocalAws, Pair, start

QUEUE, TABLE = "fauxqs", "ministack"


def servers() -> LocalAws:
    """The fastest pair, started where it does not run yet.

    Raises:
        NotAvailable: this machine cannot run them.
    """
    return start(Pair(QUEUE, TABLE))


def endpoints(local: LocalAws) -> list[str]:
    return ["--endpoints", local.queue.url, local.table.url]


def pids(local: LocalAws) -> list[int]:
    return sorted({each.pid for each in (local.queue, local.table) if each.pid})


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


@dataclass(frozen=True)
class Place:
    folder: Path
    environment: dict[str, str]
    """Of an engine on new queues and a new table, behind the proxy if there is one."""
    direct: dict[str, str]
    """Of one that fills them without delay."""


@contextmanager
def place(folder: Path, delay_ms: float) -> Iterator[Place]:
    local = servers()
    with emptied(folder) as own, delayed(local, delay_ms, own) as asked:
        settings = provisioned(local)
        made = {
            "SQS_QUEUE_URL": settings.sqs_queue_url or "",
            "SQS_DLQ_URL": settings.sqs_dlq_url or "",
            "DYNAMODB_TABLE": settings.dynamodb_table or "",
            "TQE_DYNAMODB_WRITES": settings.dynamodb_writes,
        }
        yield Place(own, asked.aws_environment | made, local.aws_environment | made)


class BusiestServer:
    """Whether it is a server that limits: the share of a core that the busier one takes."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._cpu = {pid: cpu_seconds(pid) for pid in pids(servers())}

    def percent(self) -> float:
        """Since this was made. Both servers run in one thread: 100 is all that one can."""
        seconds = time.monotonic() - self._began
        used = (cpu_seconds(pid) - before for pid, before in self._cpu.items())
        return max(used, default=0.0) / seconds * 100


def drain_full_queue(
    build: Build,
    folder: Path,
    count: int,
    *,
    delay_ms: float = 0.0,
    settings: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Fill new queues and a table, then `tqe worker` empties them.

    Args:
        settings: variables; None: as it comes.

    Raises:
        Failed: it was not done in time.
    """
    with place(folder, delay_ms) as found:
        fill(build, found.folder, "noop", count, **found.direct)
        environment = found.environment | dict(settings or {})
        with worker(build, found.folder, **environment) as process:
            return watch(process, found.folder / "marks", count)

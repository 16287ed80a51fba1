"""One worker command on no-op tasks: how fast it drains a full queue, how soon it starts one task.

Every contender goes through the same steps, this engine too:

- drain: one process submits all tasks, then the worker starts on the full queue
  (`benchmarks.drain`).
- start latency: the worker is idle; another process submits one task after the other. From just
  before the submission to the handler's first line.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import marks
from benchmarks.drain import watch
from benchmarks.peers.catalogue import Contender
from benchmarks.peers.services import Redis, new_queue
from benchmarks.processes import Failed, Process, cpu_seconds, emptied
from benchmarks.rows.base import Figures

# Seconds.
_MOST_FILL = 120


@dataclass(frozen=True)
class Place:
    """Where a contender is measured."""

    folder: Path
    redis: Redis | None


@dataclass(frozen=True)
class _Scene:
    contender: Contender
    folder: Path
    marks: Path
    environment: dict[str, str]
    server_pid: int | None

    def worker(self) -> Process:
        return Process(self.contender.worker_command(), self.environment, self.folder)

    def produce(self, *arguments: str) -> dict[str, Any]:
        module = f"benchmarks.peers.apps.{self.contender.app}"
        done = subprocess.run(
            [self.contender.python(), "-m", "benchmarks.peers.produce", module, *arguments],
            cwd=self.folder,
            env=self.environment | {"BENCH_MARKS": "/dev/null"},
            capture_output=True,
            text=True,
            timeout=_MOST_FILL,
        )
        if done.returncode != 0:
            raise Failed(f"the producer: {done.stderr[-400:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


@contextmanager
def _scene(contender: Contender, place: Place) -> Iterator[_Scene]:
    with emptied(place.folder / "contender") as folder:
        services: dict[str, str] = {}
        pid: int | None = None
        if contender.broker == "sqs":
            services, pid = new_queue(contender.queue_suffix)
        if place.redis is not None:
            place.redis.empty()
            url = place.redis.url
            # The last one is RQ's own.
            services = {"BENCH_RESULTS": url, "BENCH_BROKER": url, "RQ_REDIS_URL": url} | services
        if contender.broker == "sqlite":
            file = str(folder / "tasks.db")
            services |= {"BENCH_BROKER": file, "TQE_DATABASE": file}
        environment = contender.environment() | services
        environment["BENCH_MARKS"] = str(folder / "marks")
        yield _Scene(contender, folder, folder / "marks", environment, pid)


def drain(contender: Contender, place: Place, tasks: int) -> Figures:
    """
    Raises:
        Failed: tasks were lost or not done in time; the message says more.
    """
    with _scene(contender, place) as scene:
        filled = scene.produce("fill", str(tasks))
        server_cpu = _cpu(scene.server_pid)
        with scene.worker() as worker:
            figures = watch(worker, scene.marks, tasks)
        server_cpu = _cpu(scene.server_pid) - server_cpu
        lost = tasks - len({number for number, _ in marks.read(scene.marks)})
    if lost:
        raise Failed(f"{lost} of {tasks} tasks were not run")
    figures |= {
        "submitted_per_second": tasks / filled["seconds"],
        "submit_cpu_us": filled["cpu"] / tasks * 1e6,
    }
    if scene.server_pid:
        figures["server_cpu_us_per_task"] = server_cpu / tasks * 1e6
    return figures


def start_latency(contender: Contender, place: Place, samples: int) -> Figures:
    """
    Raises:
        Failed: as `drain`.
    """
    with _scene(contender, place) as scene, scene.worker() as worker:
        worker.settle()
        began = scene.produce("pace", str(samples))["began"]
        worker.wait_for(lambda: len(_of(scene.marks, samples)) >= samples, "all tasks", seconds=20)
        waits = sorted((when - began[n]) / 1e6 for n, when in _of(scene.marks, samples))
    return {
        "p50_ms": statistics.median(waits),
        "p99_ms": statistics.quantiles(waits, n=100, method="inclusive")[98],
        "max_ms": waits[-1],
    }


def _of(path: Path, samples: int) -> list[tuple[int, int]]:
    """Without what warmed up."""
    return [each for each in marks.read(path) if each[0] < samples]


def _cpu(pid: int | None) -> float:
    return cpu_seconds(pid) if pid else 0.0

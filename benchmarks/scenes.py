"""What rows have in common: a phase in a child, a full file and a worker on it, a ready server."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.drain import watch
from benchmarks.engine import Build
from benchmarks.load import request
from benchmarks.processes import Failed, Process, emptied

# Seconds for one phase.
_MOST = 240
_READY = 40


def run_python(
    build: Build, module: str, *arguments: str, folder: Path, **settings: str
) -> subprocess.CompletedProcess[str]:
    """`python -m module` of a build, to its end.

    Raises:
        Failed: it did not end with 0 or in time.
    """
    try:
        done = subprocess.run(
            build.python(module, arguments),
            cwd=folder,
            env=build.environment(**settings),
            capture_output=True,
            text=True,
            timeout=_MOST,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{module} took more than {_MOST} s") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no word"]
        raise Failed(f"{module} ended with {done.returncode}: {last[0]}")
    return done


def phase(build: Build, folder: Path, module: str, *arguments: str) -> dict[str, float]:
    """What one phase of `benchmarks.throughput` or its kin told."""
    done = run_python(build, module, *arguments, folder=folder)
    messages = map(json.loads, done.stdout.splitlines())
    found: dict[str, float] = next(each["result"] for each in messages if "result" in each)
    return found


def fill(build: Build, folder: Path, task: str, count: int, **settings: str) -> None:
    run_python(build, "benchmarks.fill", task, str(count), folder=folder, **settings)


@contextmanager
def worker(
    build: Build, folder: Path, *options: str, command: str = "worker", **settings: str
) -> Iterator[Process]:
    """`tqe worker` with the task types of benchmarks.work, and its marks in folder/marks.

    Args:
        command: `serve` works too, on any free port.
    """
    (folder / "marks").unlink(missing_ok=True)
    environment = build.environment(BENCH_MARKS=str(folder / "marks"), PORT="0", **settings)
    full = build.command(command, "--app", "benchmarks.work:tasks", *options)
    with Process(full, environment, folder) as process:
        yield process


def drain_full_file(
    build: Build, scene: Path, task: str, count: int, *options: str, command: str = "worker"
) -> dict[str, float]:
    """Fill a new SQLite file, then `tqe worker` (or `serve`) with these options empties it."""
    with emptied(scene) as folder:
        database = str(folder / "tasks.db")
        fill(build, folder, task, count, TQE_DATABASE=database)
        with worker(build, folder, *options, command=command, TQE_DATABASE=database) as process:
            return watch(process, folder / "marks", count)


@contextmanager
def server(
    build: Build, folder: Path, command: str, **settings: str
) -> Iterator[tuple[Process, int]]:
    """`tqe serve` or `tqe api`, ready, and its port."""
    port = free_port()
    places = {"TQE_DATABASE": str(folder / "tasks.db"), "BENCH_MARKS": str(folder / "marks")}
    environment = build.environment(**(places | settings))
    full = build.command(command, "--app", "benchmarks.work:tasks", "--port", str(port))
    with Process(full, environment, folder) as process:
        process.wait_for(lambda: is_ready(port), "ready", seconds=_READY)
        yield process, port


def is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(request("GET", "/ready"))
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def seconds_until_ready(build: Build, folder: Path) -> float:
    """Of `tqe serve`, from its start on."""
    began = time.perf_counter()
    with server(build, folder, "serve"):
        return time.perf_counter() - began


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def has_option(build: Build, command: str, option: str, folder: Path) -> bool:
    done = run_python(build, "task_queue_engine", command, "--help", folder=folder)
    return option in done.stdout


def merged(prefixed: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{"drain": {"x": 1}} -> {"drain_x": 1}"""
    return {
        f"{prefix}_{name}": number
        for prefix, figures in prefixed.items()
        for name, number in figures.items()
    }

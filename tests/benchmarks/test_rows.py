"""Every row that needs neither other queues nor servers, with a few tasks: it finds its figures."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from benchmarks.engine import HERE, Build
from benchmarks.peers.catalogue import PEERS, SQS_PEERS
from benchmarks.peers.setup import VERSIONS, version_of
from benchmarks.processes import Failed, Process, cpu_seconds, tree
from benchmarks.rows import ROWS
from benchmarks.rows.base import Case, Setup

from tests.processes import children, is_running
from tests.sizes import size

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    with ExitStack() as stack:
        build = Build(HERE.source, "abc1234")
        yield Setup(folder=tmp_path, ours=build, before=None, tiny=True, stack=stack)


def first_case(row: str, setup: Setup, name: str | None = None) -> Case:
    cases = ROWS[row].cases(setup)
    return next(case for case in cases if name is None or case.name == name)


# Each way to measure: inside one process, from outside, over HTTP, with a backlog, at rest.
MEASURED = [
    ("drain", None),
    ("latency", "this engine, inside one process"),
    ("end_to_end", None),
    ("submit_many", None),
    ("http", None),
    ("idle", None),
    ("backlog", "1,000,000 waiting"),
    ("start", None),
    ("processes", "serve, noop, 1 process"),
]
# In one of these ways too, for seconds each.
MEASURED_ALIKE = [
    ("latency", None),
    ("pages", "SQLite 3,000: list: an error"),
    ("sleepers", None),
    ("waiters", "10,000 waiters"),
]


@pytest.mark.parametrize(("row", "case"), size(MEASURED, in_full=MEASURED + MEASURED_ALIKE))
def test_a_row_finds_the_figures_of_its_table(row: str, case: str | None, setup: Setup) -> None:
    figures = first_case(row, setup, case).measure()

    assert set(ROWS[row].columns) <= set(figures)
    assert all(number >= 0 for number in figures.values())


def test_an_earlier_commit_is_measured_from_its_own_sources(setup: Setup, tmp_path: Path) -> None:
    """Not from the package that is installed beside it."""
    old = tmp_path / "old" / "task_queue_engine"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text("raise SystemExit('the earlier one was run')\n")
    case = first_case(
        "submit_many",
        Setup(folder=tmp_path, ours=Build(tmp_path / "old", "abc1234"), tiny=True),
    )

    with pytest.raises(Failed, match="the earlier one was run"):
        case.measure()


def test_a_worker_that_is_measured_gets_none_of_the_settings_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_COUNT", "1")
    monkeypatch.setenv("TQE_PREFETCH", "9")
    monkeypatch.setenv("SQS_QUEUE_URL", "http://127.0.0.1:1/q")

    environment = HERE.environment(TQE_DATABASE="x.db")

    assert "WORKER_COUNT" not in environment
    assert "TQE_PREFETCH" not in environment
    assert "SQS_QUEUE_URL" not in environment
    assert environment["TQE_DATABASE"] == "x.db"


def test_a_process_is_gone_with_all_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what ignores SIGTERM, or was started by what it had started."""
    monkeypatch.setattr("benchmarks.processes._TERM_GRACE", 0.1)
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
        "time.sleep(600)\n"
    )
    with Process([sys.executable, "-c", code], dict(os.environ), tmp_path) as process:
        process.wait_for(lambda: "\n" in process.output(), "its child", seconds=60)
        child = int(process.output())

    for pid in (process.pid, child):
        # Of the child's end the machine's first process may not have taken note yet.
        assert not is_running(pid)


def test_processes_may_end_while_they_are_looked_at(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "while True:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
    )
    with Process([sys.executable, "-c", code], dict(os.environ), tmp_path) as process:
        seen: set[int] = set()
        while len(seen) < 2_000:  # one look in 150 meets an end
            seen.update(tree(process.pid))
            for child in children(process.pid):
                is_running(child)


def test_what_fails_to_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with (
        Process(command, dict(os.environ), tmp_path) as process,
        pytest.raises(Failed, match="ended with 1: no such thing"),
    ):
        process.wait_for(lambda: False, "anything", seconds=60)


def test_every_peer_is_named_with_its_version_and_its_durability() -> None:
    for contender in (*PEERS.values(), *SQS_PEERS.values()):
        peer = contender.app.removeprefix("on_")
        assert version_of(peer) in contender.about
        assert all("==" in package for package in VERSIONS[peer]["packages"])
        if contender.broker.startswith("redis"):
            assert "appendonly" in contender.about or "without persistence" in contender.about


def test_cpu_is_that_of_the_process_and_of_all_below_it(tmp_path: Path) -> None:
    """Of a child that still runs, and of one that has ended; they take 0.3 s each."""
    spin = "import time\nwhile time.process_time() < 0.3: pass\n"
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.run([sys.executable, '-c', {spin!r}])\n"
        f"child = subprocess.Popen([sys.executable, '-c', {spin!r} + 'time.sleep(600)'])\n"
        "time.sleep(600)\n"
    )
    with Process([sys.executable, "-c", code], dict(os.environ), tmp_path) as process:
        process.wait_for(lambda: cpu_seconds(process.pid) >= 0.6, "0.6 s of CPU", seconds=60)

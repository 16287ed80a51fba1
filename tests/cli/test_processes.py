"""`--processes N`: several processes that are one server, whatever happens to one of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from task_queue_engine import ConfigurationError, Engine, Settings
from task_queue_engine.cli.cores import available_cores
from task_queue_engine.testing import MemoryBackend
from tests.cli.runner import APP, Server, Shop, eventually, request, tqe
from tests.cli.shop import tasks as shop_tasks
from tests.processes import children, is_running

TWO = ("--processes", "2")


@contextmanager
def two(shop: Shop, command: str = "serve", **environment: str) -> Iterator[Server]:
    """Two processes that are up."""
    with shop.serve(command, *TWO, **environment) as server:
        server.wait_for("2 processes are up")
        pids = members(server)
        try:
            yield server
        finally:
            for pid in pids if server.is_over else []:
                end_what_is_left(pid, shop)


def end_what_is_left(pid: int, shop: Shop) -> None:
    """So that a failed test says why, where it would wait for their last line."""
    with suppress(OSError):
        if Path(f"/proc/{pid}/cwd").readlink() == shop.path:
            os.kill(pid, signal.SIGKILL)


def members(server: Server) -> list[int]:
    """The pids of those that run now."""
    return sorted(children(server.process.pid))


def get(server: Server, path: str, **headers: str) -> httpx.Response:
    """On a connection of its own, so that any of the processes may answer."""
    return request("GET", f"{server.url}{path}", headers=headers)


def is_refused(server: Server) -> bool:
    try:
        get(server, "/health")
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        pass  # it was waiting to be accepted when the port was closed
    return False


def scrape(server: Server) -> dict[str, float]:
    """By name and labels, as Prometheus gets it."""
    text = get(server, "/metrics", Accept="application/openmetrics-text").text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def counters(server: Server) -> dict[str, int]:
    found: dict[str, int] = get(server, "/metrics").json()["counters"]
    return found


def said_by(server: Server, text: str) -> set[str]:
    """The processes in whose lines it stands."""
    return {
        line.split()[2] for line in server.lines if text in line and "process-" in line.split()[2]
    }


# --- one server -----------------------------------------------------------------------------


def test_all_serve_one_port_with_metrics_of_all_and_those_that_are_killed_are_started_again(
    shop: Shop,
) -> None:
    with two(shop, WORKER_COUNT="3") as server:
        port = httpx.URL(server.url).port
        assert f"2 processes are up, all behind http://127.0.0.1:{port};" in server.log
        for number in range(12):
            server.post("echo", number)
        eventually(lambda: shop.statuses() == {"COMPLETED": 12})
        eventually(lambda: counters(server)["messages_deleted"] == 12)
        for _ in range(4):
            scraped = scrape(server)
            labels = 'queue="default",task_type="echo"'
            assert scraped[f"tqe_task_run_seconds_count{{{labels}}}"] == 12
            succeeded = 'outcome="succeeded",queue="default",task_type="echo"'
            assert scraped[f"tqe_attempts_total{{{succeeded}}}"] == 12
            assert scraped['tqe_slots{kind="worker",state="free"}'] == 6
            assert scraped['tqe_tasks{status="completed"}'] == 12, "of both, once"
            assert get(server, "/scale").json()["backlog"] == 0
        for _ in range(6):
            metrics = get(server, "/metrics").json()
            assert metrics["workers"] == 6
            assert metrics["total_tasks"] == metrics["completed_tasks"] == 12, "once, not twice"
            assert metrics["counters"]["tasks_submitted"] == 12
            assert metrics["counters"]["attempts_completed"] == 12
        assert scraped["tqe_tasks_submitted_total"] == 12
        assert scraped["tqe_processes_restarted_total"] == 0
        # A form of a page that one has made is good for the other, as a session is.
        pages = [get(server, "/dashboard/submit", Accept="text/html").text for _ in range(12)]
        assert len({re.search('name="form_token" value="([^"]+)"', page)[1] for page in pages}) == 1

        killed, other = members(server)
        os.kill(killed, signal.SIGKILL)
        line = server.wait_for(rf"process (\d) was killed by SIGKILL \(pid {killed}\)")
        assert "WARNING" in line.string
        assert "starting it again in 0.5 s" in line.string
        ready = get(server, "/ready")
        assert ready.status_code == 200, "the other one serves"
        assert [note for note in ready.json()["notes"] if f"process {line[1]}: " in note]

        def is_whole() -> bool:
            return len(members(server)) == 2 and "notes" not in get(server, "/ready").json()

        eventually(is_whole)
        assert other in members(server)
        found = counters(server)
        assert found["tasks_submitted"] == found["attempts_completed"] == 12, "none goes down"
        assert found["processes_restarted"] == 1

        # One that dies again and again waits longer each time.
        for pause in ("1", "2"):
            (victim,) = set(members(server)) - {other}
            os.kill(victim, signal.SIGKILL)
            server.wait_for(rf"\(pid {victim}\).* in {pause} s$")
            eventually(lambda: len(members(server)) == 2)
        assert get(server, "/health").status_code == 200
        eventually(is_whole)
        server.signal()
        assert server.wait() == 0
    assert said_by(server, f"listening on http://127.0.0.1:{port}") == {"process-1", "process-2"}
    assert said_by(server, "stopped") == {"process-1", "process-2"}


def test_workers_of_both_run_tasks_at_one_time_and_json_lines_have_the_process(shop: Shop) -> None:
    for number in range(3):
        shop.submit("gate", f'"gate-{number}"')
    with shop.serve("worker", "--workers", "1", "--json", *TWO) as server:
        server.wait_for("2 processes are up;")
        eventually(lambda: len(list(shop.path.glob("*.running"))) == 2)
        assert shop.statuses() == {"PROCESSING": 2, "PENDING": 1}
        for number in range(3):
            (shop.path / f"gate-{number}.open").touch()
        eventually(lambda: shop.statuses() == {"COMPLETED": 3})
        server.signal()
        assert server.wait() == 0
    lines = [json.loads(line) for line in server.lines]
    assert {line.get("process") for line in lines} == {None, "process-1", "process-2"}


def test_one_core_needs_no_supervisor(shop: Shop) -> None:
    (one, *_) = os.sched_getaffinity(0)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {one})  # what is started from here inherits it
    try:
        with shop.serve("worker", "--processes", "0", from_nothing=True) as worker:
            assert "process-" not in worker.log
    finally:
        os.sched_setaffinity(0, allowed)


# --- what dies ------------------------------------------------------------------------------


def test_one_that_a_task_kills_or_blocks_does_not_stop_the_others(shop: Shop) -> None:
    leases = {"TQE_VISIBILITY_TIMEOUT": "3600"}
    with two(shop, WORKER_COUNT="1", TQE_SHUTDOWN_FLUSH="0.1", **leases) as server:
        server.post("poison", 9)
        server.wait_for("ended with exit code 9")
        task = server.post("ship", {"number": 3})
        ended = get(server, f"/tasks/{task['id']}?wait=20").json()
        assert ended["result"] == "PKG-3"
        eventually(lambda: "notes" not in get(server, "/ready").json())

        server.post("block", 3600)
        eventually(shop.is_there("block.running"))
        ready = get(server, "/ready")
        assert ready.status_code == 200, "the other one serves"
        (note,) = ready.json()["notes"]
        assert "does not answer" in note
        assert get(server, "/metrics").json()["workers"] == 2, "as it was last known"
        # And it ends with the supervisor, though its event loop hears of nothing.
        pids = members(server)
        server.process.kill()
        eventually(lambda: not any(is_running(pid) for pid in pids))


def test_one_that_asks_to_be_replaced_is_and_one_that_cannot_even_be_asked_to_end_is_killed(
    shop: Shop,
) -> None:
    shutil.copy(Path(__file__).with_name("leftovers.py"), shop.path)
    limits = {"TQE_THREADS": "1", "TQE_SHUTDOWN_FLUSH": "0.1"}
    with two(shop, TQE_APP="leftovers:tasks", **limits) as server:
        before = members(server)
        # Replaced without a pause is what has served for a while, or it would do nothing else.
        # The one that was up last, too: the uptime is that of the first.
        both_up = get(server, "/metrics").json()["uptime_seconds"]
        eventually(lambda: get(server, "/metrics").json()["uptime_seconds"] > both_up + 1.5)
        server.post("hang", "x")
        line = server.wait_for(r"process \d ended with exit code 8 \(pid (\d+)\)")
        assert line.string.endswith("; starting it again now")
        assert "outlived" in line.string, "in its own words"
        assert int(line[1]) in before
        eventually(lambda: len(members(server)) == 2)

        # Stopped, as by a debugger, it hears nothing, and neither does its guard.
        (stopped,) = set(before) & set(members(server))
        os.kill(stopped, signal.SIGSTOP)
        server.signal()
        assert server.wait() == 128 + signal.SIGKILL
        assert not is_running(stopped)
    assert f"(pid {stopped}) has not ended in its time: killing it" in server.log


def test_those_that_are_left_when_the_supervisor_is_killed_end_in_order(shop: Shop) -> None:
    slow = {"TQE_SHUTDOWN_GRACE": "60", "TQE_VISIBILITY_TIMEOUT": "3600"}
    with two(shop, "worker", WORKER_COUNT="1", **slow) as server:
        for number in range(4):
            shop.submit("gate", f"gate-{number}")
        eventually(lambda: len(list(shop.path.glob("*.running"))) == 2)
        pids = members(server)
        server.process.kill()
        server.wait_for("supervising process has ended")
        for number in range(4):
            (shop.path / f"gate-{number}.open").touch()
        server.wait()
        eventually(lambda: not any(is_running(pid) for pid in pids))
    assert said_by(server, "stopped") == {"process-1", "process-2"}
    assert shop.statuses() == {"COMPLETED": 2, "PENDING": 2}
    assert {task["retry_count"] for task in shop.tasks()} == {0}


# --- stopping -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "to_all"),
    [("serve", False), ("worker", True)],
    ids=["the-supervisor", "every-process"],
)
def test_sigterm_lets_what_runs_end_and_gives_the_rest_back(
    shop: Shop, command: str, to_all: bool
) -> None:
    """A terminal tells the supervisor alone, systemd every process: nowhere is that a second
    signal."""
    slow = {"TQE_SHUTDOWN_GRACE": "60", "TQE_VISIBILITY_TIMEOUT": "3600"}
    with two(shop, command, WORKER_COUNT="1", **slow) as server:
        for number in range(6):
            shop.submit("gate", f"gate-{number}")
        eventually(lambda: len(list(shop.path.glob("*.running"))) == 2)
        for pid in members(server) if to_all else []:
            os.kill(pid, signal.SIGTERM)
        server.signal()
        server.wait_for("process-1 service: stopping")
        server.wait_for("process-2 service: stopping")
        if command == "serve":
            eventually(lambda: is_refused(server))
        for number in range(6):
            (shop.path / f"gate-{number}.open").touch()
        assert server.wait() == 0
    assert shop.statuses() == {"COMPLETED": 2, "PENDING": 4}
    assert {task["retry_count"] for task in shop.tasks()} == {0}
    assert "stopping at once" not in server.log


def test_a_second_signal_means_now(shop: Shop) -> None:
    with two(shop, "worker", WORKER_COUNT="1", TQE_SHUTDOWN_GRACE="3600") as server:
        for number in range(2):
            shop.submit("gate", f"gate-{number}")
        eventually(lambda: len(list(shop.path.glob("*.running"))) == 2)
        server.ctrl_c()
        server.wait_for("process-1 service: stopping")
        server.wait_for("process-2 service: stopping")
        server.ctrl_c()
        assert server.wait() == 0
    assert shop.statuses() == {"PENDING": 2}


def test_a_signal_while_they_start(shop: Shop) -> None:
    with closing(Server(shop.command("serve", *TWO, "--app", APP, PORT="0"))) as server:
        eventually(lambda: len(members(server)) == 2)
        server.signal()
        assert server.wait() == 0


# --- what cannot work -----------------------------------------------------------------------


def test_an_app_that_cannot_be_loaded_is_one_line(shop: Shop) -> None:
    ran = shop.run("api", *TWO, "--app", "shop:price", PORT="0")
    assert ran.code == 2
    assert ran.error.startswith("--app: shop:price is not a TaskRegistry")


def test_in_json_too(shop: Shop) -> None:
    ran = shop.run("serve", *TWO, "--json", "--app", "shop:price", PORT="0")
    (line,) = ran.err.splitlines()
    said = json.loads(line)
    assert (ran.code, said["level"]) == (2, "CRITICAL")
    assert said["message"].startswith("--app: shop:price is not a TaskRegistry")


def test_a_port_in_use_is_one_line(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = tqe("serve", *TWO, "--app", APP, "--port", port)
    assert ran.code == 2
    assert port in ran.error
    assert not (shop.path / "tasks.db").exists(), "nothing else was touched"


def test_a_corrupt_database_is_one_error(shop: Shop) -> None:
    (shop.path / "tasks.db").write_bytes(b"not a database, but long enough to look at" * 100)
    ran = shop.run("worker", *TWO, "--app", APP)
    assert ran.code == 2
    (line,) = (line for line in ran.err.splitlines() if line.startswith("tqe: "))
    assert "tasks.db" in line


def test_an_app_that_dies_at_once_ends_the_whole(shop: Shop) -> None:
    """As it would end a process on its own: the service manager hears of it."""
    (shop.path / "dies.py").write_text("import os; os._exit(3)")
    ran = shop.run("worker", *TWO, "--app", "dies:tasks")
    assert ran.code == 3
    assert re.fullmatch(r"process \d ended with exit code 3 \(pid \d+\)", ran.error)


@pytest.mark.parametrize("value", ["-1", "1001", "many"])
def test_a_number_that_is_none(value: str) -> None:
    ran = tqe("serve", "--app", APP, TQE_SERVICE_PROCESSES=value)
    assert ran.code == 2
    assert ran.error.startswith("TQE_SERVICE_PROCESSES: ")


def test_a_database_in_memory_cannot_be_shared() -> None:
    ran = tqe("worker", *TWO, "--app", APP, TQE_DATABASE=":memory:")
    assert ran.code == 2
    assert "TQE_DATABASE" in ran.error


@pytest.mark.parametrize("count", [0, 2])
def test_a_memory_backend_is_of_one_process(count: int) -> None:
    settings = Settings(service_processes=count)
    with pytest.raises(ConfigurationError, match="TQE_SERVICE_PROCESSES: must be 1"):
        Engine(shop_tasks, settings, backend=MemoryBackend())


# --- how many cores -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 64), ("150000 100000", 2), ("50000 100000", 1), ("nonsense", 64)],
)
def test_a_container_s_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    (tmp_path / "cgroup").write_text("0::/pods/one\n")
    (tmp_path / "pods/one").mkdir(parents=True)
    (tmp_path / "pods/cpu.max").write_text(quota)  # of the group above counts as well
    (tmp_path / "pods/one/cpu.max").write_text("max 100000")
    assert available_cores(cgroups=tmp_path, own=tmp_path / "cgroup") == cores


def test_a_quota_of_version_1_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    (tmp_path / "cgroup").write_text("4:cpu,cpuacct:/one\n1:name=systemd:/one\n")
    (tmp_path / "cpu/one").mkdir(parents=True)
    (tmp_path / "cpu/one/cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu/one/cpu.cfs_period_us").write_text("100000\n")
    assert available_cores(cgroups=tmp_path, own=tmp_path / "cgroup") == 3


def test_affinity_counts_where_there_is_no_quota(tmp_path: Path) -> None:
    assert available_cores(cgroups=tmp_path, own=tmp_path / "none") == len(os.sched_getaffinity(0))

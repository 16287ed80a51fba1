"""A service's process ends when it is told to, whatever handlers have left behind in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from tests.cli.runner import KEY, TIMEOUT, Server, Shop, eventually, tqe
from tests.processes import children

APP = "leftovers:tasks"


@pytest.fixture
def shop(shop: Shop) -> Iterator[Shop]:
    shutil.copy(Path(__file__).with_name("leftovers.py"), shop.path)
    yield shop
    kill_child(shop)


def kill_child(shop: Shop) -> None:
    """What it inherited (the log's pipe) ends with it."""
    pid = shop.path / "child.pid"
    if pid.exists():
        with suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def submit(type_: str) -> None:
    ran = tqe("submit", "--app", APP, type_)
    assert ran.code == 0, ran.err


def run_task(type_: str, payload: str = "x") -> object:
    """Its result, once a worker has COMPLETED it; that may be one which has only begun to start."""
    ran = tqe("submit", "--app", APP, type_, payload, "--wait", f"{3 * TIMEOUT:g}", "--json")
    assert ran.json["status"] == "COMPLETED", ran.out
    return ran.json.get("result")


@pytest.mark.parametrize("left", ["thread", "child", "atexit-hangs"])
def test_nothing_that_a_handler_leaves_keeps_the_process(shop: Shop, left: str) -> None:
    """And atexit functions run all the same, also where the interpreter's own end would first wait
    for a thread."""
    with shop.serve("worker", TQE_APP=APP) as worker:
        run_task(left)
        run_task("atexit")  # the last to be registered is the first to run
        worker.signal()
        worker.process.wait(20)
        assert worker.process.returncode == 0
        kill_child(shop)
    assert "stopped" in worker.log
    assert (shop.path / "atexit.ran").exists()


@pytest.mark.parametrize(("type_", "log_format"), [("lock", "text"), ("async-lock", "json")])
def test_a_handler_that_holds_the_interpreter_does_not_keep_the_process(
    shop: Shop, type_: str, log_format: str
) -> None:
    """Python does not even notice the signal then."""
    with shop.serve(
        "worker", TQE_APP=APP, TQE_SHUTDOWN_FLUSH="0.1", TQE_LOG_FORMAT=log_format
    ) as worker:
        submit(type_)
        eventually(shop.is_there("lock.running"))
        worker.signal()
        assert worker.wait() == -signal.SIGKILL
    last = worker.lines[-1]
    assert "a handler holds its lock" in last
    assert log_format == "text" or json.loads(last)["level"] == "CRITICAL"


def test_what_a_handler_forks_can_be_terminated_and_every_start_method_works(shop: Shop) -> None:
    """And a guard that was killed holds nothing up."""
    with shop.serve("worker", TQE_APP=APP) as worker:
        for type_ in ("terminate", "terminate-in-process"):
            assert run_task(type_) == -signal.SIGTERM
        for name in ("fork", "spawn", "forkserver"):
            assert run_task("start-method", name) == [1, 2]
            assert run_task("start-method-in-process", name) == [1, 2]
        assert "SIGTERM received" not in worker.log
        (guard,) = guards_of(worker.process.pid)
        os.kill(guard, signal.SIGKILL)
        worker.signal()
        assert worker.wait() == 0
    assert worker.log.count(" INFO    signals: SIGTERM received") == 1


def test_under_nohup_a_hangup_changes_nothing(shop: Shop) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with shop.serve("worker", from_nothing=True, TQE_APP=APP) as worker:
            signal.signal(signal.SIGHUP, former)
            worker.signal(signal.SIGHUP)
            assert run_task("pool") == [1, 2]
            worker.signal()
            assert worker.wait() == 0
    finally:
        signal.signal(signal.SIGHUP, former)
    assert "SIGHUP received" not in worker.log


def test_a_killed_server_leaves_its_port_though_a_forked_child_lives(shop: Shop) -> None:
    with shop.serve("serve", TQE_APP=APP) as server:
        run_task("child")
        url = httpx.URL(server.url)
        server.process.kill()
        server.process.wait(20)
        child = int((shop.path / "child.pid").read_text())
        os.kill(child, 0)
        eventually(lambda: not guards_of(server.process.pid))
        try:
            with socket.socket() as again:
                again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                again.bind((url.host, url.port))
                again.listen()
        finally:
            kill_child(shop)


# --- what else a worker process and an application can do to the service --------------------


def test_worker_processes_get_only_what_is_allowed(shop: Shop) -> None:
    secrets = {"TQE_API_KEYS": KEY, "AWS_SECRET_ACCESS_KEY": "aws", "SHOP_TOKEN": "token"}
    more = {
        "SHOP_REGION": "north",
        "TQE_PROCESS_ENV": "SHOP_REGION, SHOP_X*",
        "TQE_LOG_LEVEL": "DEBUG",
    }
    with shop.serve("worker", TQE_APP=APP, **secrets, **more) as worker:
        for name in (*secrets, "SMTP_PASSWORD", "SHOP_REGION", "PATH"):
            shop.submit("--app", APP, "variable", name)
        eventually(lambda: shop.statuses().keys() == {"COMPLETED"})
        seen = {task["payload"]: task.get("result") for task in shop.tasks()}
        worker.signal()
        assert worker.wait() == 0
    assert seen.pop("PATH") == os.environ["PATH"]
    assert seen.pop("SHOP_REGION") == "north"
    assert set(seen.values()) == {None}
    (line,) = (line for line in worker.lines if "that worker processes do not get" in line)
    assert set(secrets) < set(line.replace(",", "").split())
    assert KEY not in worker.log


def test_what_a_worker_process_logs_is_in_the_log_in_its_format(shop: Shop) -> None:
    with shop.serve("worker", "--json", TQE_APP=APP) as worker:
        run_task("log")
        worker.signal()
        assert worker.wait() == 0
    lines = [json.loads(line) for line in worker.lines]
    (info,) = (line for line in lines if line["message"] == "counted 3")
    assert (info["level"], info["logger"], info["shelf"]) == ("INFO", "shop.stock", "A")
    assert len(info["task_id"]) == 36
    (warned,) = (line for line in lines if line["logger"] == "py.warnings")
    assert "it is old" in warned["message"]
    (failed,) = (line for line in lines if line["message"] == "it failed")
    assert "ValueError: two" in failed["exception"]
    assert not [line for line in lines if "not at this level" in line["message"]]


def test_a_hangup_drains_and_no_logging_that_an_application_configures_silences_the_engine(
    shop: Shop,
) -> None:
    app = shop.path / "configures.py"
    app.write_text("from leftovers import configure_logging, tasks\nconfigure_logging(None)\n")
    with shop.serve("worker", TQE_APP="configures:tasks") as worker:
        run_task("configure-logging")
        worker.signal(signal.SIGHUP)
        assert worker.wait() == 0
    assert "SIGHUP received" in worker.log
    assert "INFO    service: stopped" in worker.log


def test_a_service_whose_threads_are_worn_out_ends_to_be_replaced(shop: Shop) -> None:
    with shop.serve("worker", TQE_APP=APP, TQE_THREADS="2") as worker:
        for _ in range(2):
            submit("hang")
        assert worker.wait() == 8
    assert {task["status"] for task in shop.tasks()} == {"FAILED"}
    assert worker.lines[-1].startswith("tqe: 2 `def` handlers outlived their attempts")


@pytest.mark.skipif(
    subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
    ).returncode
    != 0
    if shutil.which("unshare")
    else True,
    reason="needs the right to make a PID namespace, as a container runtime does",
)
@pytest.mark.parametrize("processes", [1, 2])
def test_as_process_1_of_a_container_it_reaps_orphans_and_passes_signals_on(
    shop: Shop, processes: int
) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    inside = subprocess.Popen(
        [
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *(sys.executable, "-m", "task_queue_engine", "worker", "--processes", str(processes)),
        ],
        cwd=shop.path,
        env=kept | {"TQE_APP": APP, "TQE_SHUTDOWN_GRACE": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with closing(Server(inside)) as worker:
        try:
            run_task("orphan")
            (init,) = children(inside.pid)
            # It ends by itself; what is not reaped then stays in the list, as a zombie.
            eventually(lambda: "sleep" not in children_of(init))
            os.kill(init, signal.SIGTERM)
            assert worker.wait() == 0
        finally:
            inside.kill()  # and all in its namespace with it
    assert worker.log.count(" INFO    signals: SIGTERM received") == 1


def guards_of(service: int) -> list[int]:
    """Processes that watch over this one, also when it has ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"guard_process.py") for word in words) and (
                str(service).encode() in words
            ):
                found.append(int(folder.name))
    return found


def children_of(parent: int) -> list[str]:
    """The names of its children, zombies included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            if int(rest.split()[1]) == parent:
                found.append(name)
    return found

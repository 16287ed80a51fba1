"""`tqe serve`, `api` and `worker` as processes: how they start, what they say, how they end."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import closing

import apsw
import httpx
import pytest

from tests.cli.embedded import embedded
from tests.cli.runner import APP, KEY, TIMEOUT, Api, Server, Shop, eventually, request, tqe
from tests.cli.shop import tasks as shop_tasks


def metric(server: Api, name: str) -> int:
    number: int = request("GET", f"{server.url}/metrics").json()[name]
    return number


# --- starting -------------------------------------------------------------------------------


TYPES = "block, echo, fail, gate, hold, poison, poison_beside, says, ship, short, square"


def test_it_says_what_runs_where_and_options_win_over_variables(shop: Shop) -> None:
    elsewhere = {"WORKER_COUNT": "9", "TQE_APP": "x:y"}
    with shop.serve(
        "serve", "--workers", "2", "--app", APP, from_nothing=True, **elsewhere
    ) as server:
        assert request("GET", f"{server.url}/health").json()["status"] == "healthy"
        assert str(shop.path / "tasks.db") in server.log
        assert f" 2 workers for {TYPES}" in server.log
        assert "variables" not in server.log  # what worker processes do not get is at DEBUG
        assert f"{server.url}/docs" in server.log
        # Handlers in worker processes find the team's module.
        ran = tqe("submit", "--url", server.url, "square", "7", "--wait", "20", "--json")
        assert ran.json["result"] == 49


def test_keys_are_asked_for_and_never_logged_and_json_logs_are_json_to_the_last_line(
    shop: Shop,
) -> None:
    with shop.serve("serve", "--debug", "--json", TQE_API_KEYS=KEY) as server:
        asked = request("GET", f"{server.url}/tasks", headers={"Authorization": f"Bearer {KEY}"})
        assert asked.status_code == 200
        for environment in ({}, {"TQE_API_KEY": "another-key-of-sixteen"}):
            ran = tqe("list", "--url", server.url, **environment)
            assert ran.code == 2
            assert "TQE_API_KEY" in ran.error
        assert tqe("list", "--url", server.url, TQE_API_KEY=KEY).code == 0
        ran = tqe("list", "--url", server.url, "--api-key", KEY, "--debug")
        assert ran.code == 0
        assert KEY not in ran.out + ran.err
        server.signal()
        assert server.wait() == 0
    assert KEY not in server.log
    lines = [json.loads(line) for line in server.lines]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert f"5 workers for {TYPES}" in {line["message"] for line in lines}
    assert lines[-1]["message"].startswith("stopped")

    refused = shop.run("serve", "--json", "--app", "shop:price")
    (line,) = refused.err.splitlines()
    assert json.loads(line)["level"] == "CRITICAL"


def test_api_and_worker_share_the_work(shop: Shop) -> None:
    with shop.serve("api") as api:
        task = api.post("ship", {"number": 7})
        assert shop.statuses() == {"PENDING": 1}
        with shop.serve("worker") as worker:
            ended = request("GET", f"{api.url}/tasks/{task['id']}?wait={TIMEOUT:g}", timeout=30)
            assert ended.json()["result"] == "PKG-7"
            worker.signal()
            assert worker.wait() == 0
        api.signal()
        assert api.wait() == 0


# --- not starting ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["serve", "api", "worker"])
def test_a_wrong_setting_is_one_line(command: str) -> None:
    ran = tqe(command, WORKER_COUNT="many")
    assert ran.code == 2
    assert ran.error.startswith("WORKER_COUNT: ")


def test_a_wrong_setting_of_the_default_tasks_is_found_at_the_start() -> None:
    ran = tqe("serve", SMTP_HOST="mail.example.com")
    assert ran.code == 2
    assert ran.error.startswith("SMTP_FROM: ")


def test_a_port_in_use(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = shop.run("serve", "--app", APP, "--port", port)
    assert ran.code == 2
    assert port in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err
    assert not (shop.path / "tasks.db").exists(), "nothing else was touched"


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_corrupt_database(shop: Shop, command: str) -> None:
    (shop.path / "tasks.db").write_bytes(b"not a database, but long enough to look at" * 100)
    ran = shop.run(command, "--app", APP, PORT="0")
    assert ran.code == 2
    assert "tasks.db" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


# --- ending ---------------------------------------------------------------------------------


def test_sigterm_gives_everything_back(shop: Shop) -> None:
    """At once: the leases would last far longer than the next worker waits."""
    leases = {"TQE_VISIBILITY_TIMEOUT": "3600"}
    with shop.serve("serve", "--workers", "2", TQE_PREFETCH="3", **leases) as server:
        for number in range(40):  # what may wait here has to prove short
            server.post("echo", number)
        eventually(lambda: shop.statuses() == {"COMPLETED": 40})
        for number in range(2):
            server.post("gate", f"gate-{number}")
        eventually(lambda: len(list(shop.path.glob("*.running"))) == 2)
        # Their last chance: held here, and claimed when a worker is free.
        waiting = [{"type": "echo", "payload": n, "max_attempts": 1} for n in range(6)]
        request("POST", f"{server.url}/tasks/batch", json={"tasks": waiting})
        eventually(lambda: metric(server, "in_flight") == 2 + 3)
        server.signal()
        assert server.wait() == 0
    tasks = shop.tasks()
    assert shop.statuses() == {"COMPLETED": 40, "PENDING": 8}
    assert {task["retry_count"] for task in tasks} == {0}
    metrics = tqe("metrics", "--json").json
    assert (metrics["queue_depth"], metrics["in_flight"]) == (8, 0)
    for number in range(2):
        (shop.path / f"gate-{number}.open").touch()
    with embedded(shop_tasks, shop.path, **leases):
        eventually(lambda: shop.statuses() == {"COMPLETED": 48})


def test_what_runs_may_end_within_the_grace_and_what_was_asked_is_answered(shop: Shop) -> None:
    """Ctrl-C in a terminal reaches worker processes too: they are left to the engine, and what runs
    in them may end as everything else."""
    with shop.serve("serve", TQE_SHUTDOWN_GRACE="60") as server:
        task = server.post("gate", "gate")
        server.post("hold", "hold")
        eventually(shop.is_there("gate.running"))
        eventually(shop.is_there("hold.running"))
        url = httpx.URL(server.url)
        with socket.create_connection((url.host, url.port), timeout=TIMEOUT) as client:
            asked = f"GET /tasks/{task['id']}?wait=60 HTTP/1.1\r\nHost: {url.host}\r\n\r\n"
            client.sendall(asked.encode())
            server.ctrl_c()
            server.wait_for("stopping")
            answer = b"".join(iter(lambda: client.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"PROCESSING"' in answer
        (shop.path / "gate.open").touch()
        (shop.path / "hold.open").touch()
        assert server.wait() == 0
    assert shop.statuses() == {"COMPLETED": 2}


def test_a_signal_while_it_starts(shop: Shop) -> None:
    """The database is locked by another program: the server waits for it."""
    shop.submit("echo", "1")
    with closing(apsw.Connection(str(shop.path / "tasks.db"))) as other:
        other.pragma("locking_mode", "exclusive")  # else only those that write would wait
        other.execute("BEGIN EXCLUSIVE")
        with closing(Server(shop.command("worker", "--app", APP))) as worker:
            worker.wait_for("Task Queue Engine")
            worker.signal()
            worker.wait_for("SIGTERM received")
            other.close()
            assert worker.wait() == 0
            assert "how to stop" not in worker.log
    assert shop.statuses() == {"PENDING": 1}


def test_a_second_signal_means_now_for_what_runs_and_for_clients_that_are_slow(shop: Shop) -> None:
    with shop.serve("serve", TQE_SHUTDOWN_GRACE="3600") as server:
        server.post("gate", "gate")
        eventually(shop.is_there("gate.running"))
        url = httpx.URL(server.url)
        with socket.create_connection((url.host, url.port), timeout=TIMEOUT) as client:
            head = f"POST /tasks HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 50\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
            server.signal()
            server.wait_for("stopping")
            server.signal()
            assert server.wait() == 0
    assert "of grace are over" not in server.log
    assert shop.statuses() == {"PENDING": 1}, "what ran, and nothing of the slow client"


def test_no_work_is_taken_while_a_last_request_is_answered(shop: Shop) -> None:
    body = b'{"type": "echo", "payload": "last"}'
    with shop.serve("serve", "--workers", "1", TQE_SHUTDOWN_GRACE="60") as server:
        first, second = server.post("gate", "one"), server.post("gate", "two")
        eventually(shop.is_there("one.running"))
        url = httpx.URL(server.url)
        with socket.create_connection((url.host, url.port), timeout=TIMEOUT) as client:
            head = f"POST /tasks HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body[:5])
            server.signal()
            server.wait_for("stopping")
            (shop.path / "one.open").touch()
            eventually(lambda: shop.statuses() == {"COMPLETED": 1, "PENDING": 1})
            client.sendall(body[5:])
            answer = b"".join(iter(lambda: client.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 201")
        assert server.wait() == 0
    by_id = {task["id"]: task["status"] for task in shop.tasks()}
    assert (by_id[first["id"]], by_id[second["id"]]) == ("COMPLETED", "PENDING")
    assert sorted(by_id.values()) == ["COMPLETED", "PENDING", "PENDING"]
    assert not (shop.path / "two.running").exists()


def test_a_handler_that_blocks_the_loop_does_not_keep_the_process(shop: Shop) -> None:
    with shop.serve("worker", TQE_SHUTDOWN_FLUSH="0.1") as worker:
        shop.submit("block", "3600")
        eventually(shop.is_there("block.running"))
        worker.signal()
        assert worker.wait() == 7
    (line,) = (line for line in worker.lines if "CRITICAL" in line)
    assert "shop.py" in line
    assert "in block" in line


def test_a_defect_of_the_engine_ends_it_loudly(shop: Shop) -> None:
    (shop.path / "broken.py").write_text(
        "from shop import tasks\n"
        "from task_queue_engine.actors.acker import Acker\n"
        "async def run(self):\n"
        "    raise RuntimeError('a screw is loose')\n"
        "Acker.run = run\n"
    )
    ran = shop.run("worker", "--app", "broken:tasks")
    assert ran.code == 1
    assert "RuntimeError: a screw is loose" in ran.err
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("tqe: a defect: RuntimeError: a screw is loose")


def test_killed_in_mid_flight_and_started_again_every_task_ends(shop: Shop) -> None:
    with shop.serve("serve", TQE_VISIBILITY_TIMEOUT="1") as server:
        # The gates first: they run when it is killed.
        body = {"tasks": [{"type": "gate", "payload": "gate"} for _ in range(3)]}
        body["tasks"] += [{"type": "echo", "payload": number} for number in range(300)]
        answer = request("POST", f"{server.url}/tasks/batch", json=body)
        assert answer.json()["accepted"] == 303
        eventually(lambda: shop.statuses()["COMPLETED"] >= 50)
        server.signal(signal.SIGKILL)
        server.wait()
    (shop.path / "gate.open").touch()
    with shop.serve("serve", TQE_VISIBILITY_TIMEOUT="1") as server:
        eventually(lambda: shop.statuses() == {"COMPLETED": 303})
        server.signal()
        assert server.wait() == 0


def test_killed_beside_a_full_buffer_only_what_had_started_lost_an_attempt(shop: Shop) -> None:
    few = {"TQE_VISIBILITY_TIMEOUT": "3", "WORKER_COUNT": "2", "TQE_PREFETCH": "18"}
    with shop.serve("serve", **few) as server:
        # What takes long, or is not known to be short, waits on the queue.
        for number in range(40):
            server.post("echo", number)
        eventually(lambda: shop.statuses() == {"COMPLETED": 40})
        one_attempt = {"max_attempts": 1}
        held = [server.post("gate", "gate", **one_attempt)["id"] for _ in range(2)]
        eventually(lambda: shop.statuses()["PROCESSING"] == 2)
        tasks = [{"type": "echo", "payload": number, **one_attempt} for number in range(18)]
        request("POST", f"{server.url}/tasks/batch", json={"tasks": tasks})
        eventually(lambda: metric(server, "in_flight") == 20)
        # Their last chance: they are held here, and claimed when a worker is free.
        assert shop.statuses() == {"COMPLETED": 40, "PROCESSING": 2, "PENDING": 18}
        server.signal(signal.SIGKILL)
        server.wait()
    with embedded(shop_tasks, shop.path, **few):
        eventually(lambda: shop.statuses() == {"COMPLETED": 58, "FAILED": 2})
        assert {task["id"] for task in shop.tasks() if task["status"] == "FAILED"} == set(held)
        assert all(task["attempt"] == 1 for task in shop.tasks())


def holds(shop: Shop, server: Server, *, more_than: int) -> bool:
    """Looked at while it stands still, which it goes on to do where it is so."""
    server.signal(signal.SIGSTOP)
    it_does = shop.statuses()["PROCESSING"] > more_than
    if not it_does:
        server.signal(signal.SIGCONT)
    return it_does


def test_killed_with_many_claimed_ahead_no_more_than_its_workers_lost_an_attempt(
    shop: Shop,
) -> None:
    """With default settings: five workers, and what proved short is claimed before one is free."""
    with shop.serve("serve", TQE_VISIBILITY_TIMEOUT="2") as server:
        body = {"tasks": [{"type": "short", "payload": number} for number in range(500)]}
        for _ in range(4):
            answer = request("POST", f"{server.url}/tasks/batch", json=body)
            assert answer.json()["accepted"] == 500
        # Warmed up, and far from the end.
        eventually(lambda: metric(server, "completed_tasks") >= 200)
        eventually(lambda: holds(shop, server, more_than=10))
        server.signal(signal.SIGKILL)
        server.wait()
    held = [task for task in shop.tasks() if task["status"] == "PROCESSING"]
    with embedded(shop_tasks, shop.path, TQE_VISIBILITY_TIMEOUT="2") as server:
        eventually(lambda: metric(server, "completed_tasks") == 2000, seconds=4 * TIMEOUT)
    tasks = shop.tasks()
    assert {task["status"] for task in tasks} == {"COMPLETED"}
    lost = [task for task in tasks if task["retry_count"]]
    assert len(lost) <= 5
    assert {task["id"] for task in lost} <= {task["id"] for task in held}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_task_that_kills_its_process_is_quarantined_and_the_others_go_on(
    shop: Shop, is_first: bool
) -> None:
    """Those that run beside it die with it, and would run out of attempts as soon as it does; the
    second time it does so at once."""
    types = ["gate"] * 3
    types.insert(0 if is_first else 3, "poison_beside")
    payloads = iter(f"gate-{n}" for n in range(3))
    ids = [
        shop.submit(each, "3" if each == "poison_beside" else next(payloads), "--max-attempts", "2")
        for each in types
    ]
    poison = ids.pop(types.index("poison_beside"))
    beside = set(ids)
    for _ in range(2):
        with shop.serve("worker", TQE_VISIBILITY_TIMEOUT="2") as worker:
            # The second time they are kept apart, one each five seconds, in any order.
            worker.process.wait(4 * TIMEOUT)
            assert worker.wait() == 9
        for n in range(3):  # the first time, all of them run when it dies
            (shop.path / f"gate-{n}.open").touch()
    with shop.serve("worker", TQE_VISIBILITY_TIMEOUT="2") as worker:
        for number in (1, 2, 3):  # apart, too
            eventually(lambda number=number: shop.statuses().get("COMPLETED", 0) >= number)
        eventually(lambda: shop.statuses() == {"COMPLETED": 3, "FAILED": 1})
        worker.signal()
        assert worker.wait() == 0
    assert f"poison_beside task {poison}: the worker that had it died" in worker.log
    (dead_letter,) = tqe("dlq", "list", "--json").json["dead_letters"]
    assert dead_letter["task_id"] == poison
    assert {task["id"] for task in shop.tasks() if task["status"] == "COMPLETED"} == beside


def test_a_database_that_is_removed_takes_no_task_that_would_be_lost(shop: Shop) -> None:
    """A 201 for it would be gone after a restart."""
    body = {"type": "echo", "payload": 1}
    with embedded(shop_tasks, shop.path) as server:
        server.post("echo", 1)
        (shop.path / "tasks.db").rename(shop.path / "moved.db")

        answer = request("POST", f"{server.url}/tasks", json=body, timeout=TIMEOUT)
        assert answer.status_code == 503
        assert "was removed while it is in use" in answer.text
        ready = request("GET", f"{server.url}/ready", timeout=TIMEOUT)
        assert ready.status_code == 503
        assert "was removed while it is in use" in ready.text

        (shop.path / "moved.db").rename(shop.path / "tasks.db")
        assert tqe("submit", "--url", server.url, "echo", "2", "--wait", "20").code == 0

"""tqe workers, tqe worker --port, and the warning of submit where nothing runs a type."""

from __future__ import annotations

import socket
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import httpx
import msgspec

from task_queue_engine.backends.sqlite.rows import NUMBER_OF, to_us
from task_queue_engine.task import TaskStatus, new_task_id
from task_queue_engine.worker import MAX_RUNNING, Worker
from tests.cli.runner import APP, Shop, eventually, tqe

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\n"


def put(shop: Shop, *, seconds_ago: float = 0.0, **fields: Any) -> Worker:
    """A row as another process writes it that can make no pipe: its age counts."""
    now = datetime.now(UTC)
    defaults: dict[str, Any] = {
        "id": "host:1:abcdef",
        "host": "host",
        "pid": 1,
        "version": "1.2.3",
        "queues": ("default",),
        "types": ("echo",),
        "slots": 5,
        "started_at": now,
        "last_seen": now,
    }
    worker = Worker(**(defaults | fields))
    connection = apsw.Connection(str(shop.path / "tasks.db"))
    connection.execute(
        "INSERT INTO workers VALUES (?, ?, NULL, ?) ON CONFLICT (id) DO UPDATE SET "
        "last_seen = excluded.last_seen, worker = excluded.worker",
        (
            worker.id,
            to_us(now - timedelta(seconds=seconds_ago)),
            msgspec.json.encode(worker),
        ),
    )
    connection.close()
    return worker


def test_processes_with_a_port_of_their_own(shop: Shop) -> None:
    """One start, for all that needs one."""
    shop.submit("gate", '"gate-1"')
    with shop.serve(
        "worker", "--processes", "2", "--port", "0", TQE_SHUTDOWN_GRACE="60", PORT="1"
    ) as server:
        server.wait_for("2 processes are up, all behind")
        found = server.wait_for(
            r"/health, /ready, /metrics and /scale are at (http://127\.0\.0\.1:\d+)"
        )
        url = found[1] if found.groups() else found[0].rpartition(" ")[2]
        eventually(shop.is_there("gate-1.running"))
        # Whichever answers, it is about both.
        assert httpx.get(f"{url}/ready", trust_env=False).json()["status"] == "ready"
        assert httpx.get(f"{url}/metrics", trust_env=False).json()["workers"] == 10
        refused = httpx.post(f"{url}/tasks", json={"type": "echo", "payload": 1}, trust_env=False)
        assert refused.status_code == 404
        assert "this is the port of a worker" in refused.json()["error"]

        def shown() -> Any:
            return tqe("workers", "--json").json["workers"]

        eventually(lambda: len({worker["pid"] for worker in shown()}) == 2)
        assert all(worker["slots"] == 5 and "echo" in worker["types"] for worker in shown())
        assert tqe("submit", "--app", APP, "echo", "1").err == ""

        server.signal()

        def draining() -> list[Any]:
            return [worker for worker in shown() if worker["state"] == "draining"]

        eventually(
            lambda: [run["type"] for one in draining() for run in one["running"]] == ["gate"]
        )
        lines = tqe("workers").out.splitlines()
        (row,) = [line for line in lines if " draining " in line]
        assert " 1/5 " in row
        (task,) = shop.tasks()[-1:]
        (run,) = [line for line in lines if line.startswith(task["id"])]
        assert run.split()[1] == "gate"
        assert task["worker"] in run
        (shop.path / "gate-1.open").touch()
        assert server.wait() == 0
    ran = tqe("workers")
    assert (ran.code, ran.out, ran.err) == (0, "no workers\n", "")


def test_a_port_that_cannot_be_is_named_by_its_variable(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = shop.run("worker", "--app", APP, "--port", str(port))
    assert ran.code == 2
    assert f"TQE_WORKER_PORT: {port} on 127.0.0.1 is in use" in ran.err
    assert not (shop.path / "tasks.db").exists()
    ran = tqe("worker", "--app", APP, TQE_WORKER_PORT="nonsense")
    assert ran.code == 2
    assert "TQE_WORKER_PORT" in ran.error


def test_what_a_host_is_called_stays_inert(shop: Shop) -> None:
    shop.submit("echo", "1")
    with closing(apsw.Connection(str(shop.path / "tasks.db"))) as connection:
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(tasks)")]
        columns.remove("id")
        for _ in range(29):
            connection.execute(
                f"INSERT INTO tasks (id, {', '.join(columns)}) "
                f"SELECT ?, {', '.join(columns)} FROM tasks LIMIT 1",
                (new_task_id(),),
            )
        connection.execute(
            "UPDATE tasks SET status = ?, type = ?, worker = ?, attempt = 1, started_at = ?",
            (NUMBER_OF[TaskStatus.PROCESSING], HOSTILE, HOSTILE, to_us(datetime.now(UTC))),
        )
    put(
        shop,
        id=HOSTILE,
        host=HOSTILE,
        version=HOSTILE,
        state=HOSTILE,
        queues=(HOSTILE,),
        types=(HOSTILE,),
        slots=30,
    )
    ran = tqe("workers")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 5 + MAX_RUNNING  # no line of its own
    assert all(char.isprintable() or char == "\n" for char in ran.out)
    assert r"\x1b]0;owned\x07" in ran.out
    assert f"and {30 - MAX_RUNNING} more" in ran.out
    warned = tqe("submit", "--app", APP, "echo", "1")
    assert all(char.isprintable() or char == "\n" for char in warned.err)


def test_those_that_are_lost_are_told_of(shop: Shop) -> None:
    shop.submit("echo", "1")
    put(shop, seconds_ago=70)
    ran = tqe("workers")
    assert (ran.code, ran.out) == (0, "no workers\n")
    assert ran.err == "tqe: 1 more worker has died or fallen silent within the last hour\n"


def test_no_database_is_made_by_looking(tmp_path: Path) -> None:
    ran = tqe("workers")
    assert ran.code == 2
    assert "TQE_DATABASE" in ran.error
    assert not (tmp_path / "tasks.db").exists()


# --- the warning ----------------------------------------------------------------------------


def warning(shop: Shop) -> str:
    ran = tqe("submit", "--app", APP, "echo", "1")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 1
    return ran.err


def test_submit_warns_where_no_living_worker_knows_the_type(shop: Shop) -> None:
    shop.submit("echo", "1")
    assert warning(shop) == "", "nothing has shown itself: there may be workers of older versions"
    put(shop, slots=0, types=())
    assert warning(shop) == "", "nor does a process that serves the API tell of workers"
    put(shop, types=("other",))
    assert warning(shop).startswith("tqe: no living worker knows the task type echo: ")
    put(shop, types=("other", "echo"))
    assert warning(shop) == ""
    put(shop, seconds_ago=70)
    assert warning(shop) != "", "it was here and has died"
    put(shop, seconds_ago=4000)
    assert warning(shop) == ""


def test_it_does_not_where_one_of_an_older_version_is_at_work_on_it(shop: Shop) -> None:
    shop.submit("echo", "1")
    put(shop, types=("other",))
    connection = apsw.Connection(str(shop.path / "tasks.db"))
    connection.execute(
        "UPDATE tasks SET status = ?, worker = 'of an older version'",
        (NUMBER_OF[TaskStatus.PROCESSING],),
    )
    connection.close()
    assert [task["status"] for task in shop.tasks()] == ["PROCESSING"]
    assert warning(shop) == ""

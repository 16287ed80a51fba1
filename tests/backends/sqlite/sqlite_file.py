"""Looking into a file past the backend."""

from __future__ import annotations

from pathlib import Path

import apsw

from task_queue_engine.task import TaskStatus


def check(path: Path) -> None:
    """Assert that the file is sound and that its counters say what is in it."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    assert connection.pragma("integrity_check") == "ok"
    with connection:  # one transaction: another process may be writing
        counted = dict(connection.execute("SELECT name, n FROM counters").fetchall())
        counted.pop("pings", None)
        real: dict[str, int] = {}
        for number, n in connection.execute("SELECT status, count(*) FROM tasks GROUP BY status"):
            real[list(TaskStatus)[number]] = n
        for queue, n, leased in connection.execute(
            "SELECT queue, count(*), sum(leased) FROM messages GROUP BY queue"
        ):
            real[f"messages:{queue}"] = n
            real[f"leased:{queue}"] = leased
        for queue, n in connection.execute(
            "SELECT queue, count(*) FROM dead_letters GROUP BY queue"
        ):
            real[f"dead:{queue}"] = n
        orphans = connection.execute(
            "SELECT count(*) FROM large_payloads WHERE task_id NOT IN (SELECT id FROM tasks)"
        ).fetchall()
        missing = connection.execute(
            "SELECT count(*) FROM tasks WHERE payload IS NULL "
            "AND id NOT IN (SELECT task_id FROM large_payloads)"
        ).fetchall()
    connection.close()
    assert (orphans, missing) == ([(0,)], [(0,)])
    assert {name: n for name, n in counted.items() if n} == {
        name: n for name, n in real.items() if n
    }

"""A SQLite file as it is after some weeks of work, made by statements and not by work: a million
tasks in half a minute.

    python -m benchmarks.weeks FILE [COUNT]

`tests/benchmarks/test_weeks.py` compares what lies in it with what an engine stores.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import trio

from task_queue_engine import __version__
from task_queue_engine.backends.claimed_by import claimed_by
from task_queue_engine.backends.sqlite import SqliteBackend

TYPES = (
    "email.send", "email.digest", "invoice.render", "invoice.post", "report.build",
    "report.export", "image.resize", "image.scan", "sync.customers", "sync.orders",
    "webhook.deliver", "cleanup.sessions",
)  # fmt: skip
QUEUE, OTHER, RARE = "default", "bulk", "rare"
"""Nine in ten tasks are of the first, one in ten of the second, and the oldest one of the third."""
SPAN = timedelta(days=30)
LOG_LINES, MOST_ATTEMPTS = 100, 20

_DONE, _FAILED, _CANCELLED, _PENDING, _RUNNING = 2, 3, 4, 0, 1

# n = 1 is the oldest. Nothing waits on the queue that a server takes from, or it would be run: what
# is pending there is due in a year, and the other queue has the waiting and the running ones.
_TASKS = f"""
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count),
kinds AS (
    SELECT n, :first + CAST(n AS INTEGER) * :step AS at, CASE
        WHEN n <= 2 THEN {_FAILED}
        WHEN n > :count - :count / 100 THEN {_PENDING}
        WHEN n > :count - :count / 20 AND n % 1000 = 3 THEN {_RUNNING}
        WHEN n % 50 = 0 THEN {_FAILED}
        WHEN n % 100 = 1 THEN {_CANCELLED}
        ELSE {_DONE} END AS status
    FROM numbers
), facts AS (
    SELECT n, at, status,
        CASE WHEN n = 1 THEN '{RARE}'
            WHEN status = {_RUNNING} OR n % 10 = 5 OR (status = {_PENDING} AND n % 2 = 1)
            THEN '{OTHER}' ELSE '{QUEUE}' END AS queue,
        CASE WHEN n = 2 THEN {MOST_ATTEMPTS} WHEN status = {_FAILED} THEN 3
            WHEN status IN ({_PENDING}, {_CANCELLED}) THEN 0 WHEN n % 20 = 7 THEN 2
            ELSE 1 END AS attempt
    FROM kinds
)
INSERT INTO tasks (id, queue, type, status, retry_count, attempt, max_attempts, timeout_seconds,
    created_at, updated_at, run_at, due_at, started_at, finished_at, cancel_requested, message_id,
    receive_count, worker, claimed_by, payload, result, error)
SELECT printf('%08x-%04x-7%03x-8000-%012x', at / 65536000, at / 1000 % 65536, n % 4096, n), queue,
    (SELECT value FROM json_each(:types) WHERE key = n * 7 / 5 % :type_count), status,
    CASE WHEN status = {_FAILED} THEN attempt ELSE max(attempt - 1, 0) END, attempt,
    max(attempt, 3), 300.0, at,
    CASE WHEN status = {_PENDING} THEN at WHEN status = {_RUNNING} THEN :now ELSE at + 1500000 END,
    iif(status = {_PENDING} AND queue = '{QUEUE}', at + 31536000000000, NULL),
    iif(status = {_PENDING} AND queue = '{QUEUE}', at + 31536000000000, NULL),
    CASE WHEN attempt = 0 THEN NULL WHEN status = {_RUNNING} THEN :now ELSE at + 500000 END,
    iif(status IN ({_PENDING}, {_RUNNING}), NULL, at + 1500000), 0,
    iif(status IN ({_RUNNING}, {_FAILED}), CAST(n AS TEXT), NULL),
    iif(status IN ({_RUNNING}, {_FAILED}), attempt, 0),
    iif(attempt, :worker, NULL), iif(attempt, :claimed_by, NULL),
    iif(n % 100 = 17, NULL, CAST('{{"customer":' || n || ',"note":"' || :note || '"}}' AS BLOB)),
    iif(status = {_DONE}, CAST('{{"rows":' || n || '}}' AS BLOB), NULL),
    iif(status = {_FAILED},
        CAST(replace(:error, 'HOST', iif(n = 1, 'rare', n % 977)) AS BLOB), NULL)
FROM facts
"""
# What was retried, and what has logged.
_ATTEMPTS = f"""
INSERT INTO attempts (task_id, slot, number, outcome, worker, version, started_at, ended_at, error,
    logs, logs_omitted)
SELECT id, numbers.number, numbers.number,
    CASE WHEN number < attempt THEN 'retried' WHEN status = {_FAILED} THEN 'failed'
        ELSE 'succeeded' END,
    worker, :version, started_at - (attempt - number) * 10000,
    updated_at - (attempt - number) * 10000,
    iif(number < attempt OR status = {_FAILED}, CAST(:error AS BLOB), NULL),
    iif(number = attempt OR attempt = {MOST_ATTEMPTS}, CAST(:logs AS BLOB), NULL), 0
FROM tasks CROSS JOIN (
    SELECT key + 1 AS number FROM json_each(json_array({", ".join("0" * MOST_ATTEMPTS)}))
) AS numbers
WHERE number <= attempt AND status IN ({_DONE}, {_FAILED})
    AND (number < attempt OR tasks.rowid % 100 = 13 OR attempt = {MOST_ATTEMPTS})
"""
_REST = f"""
INSERT INTO large_payloads SELECT id, CAST('"' || hex(zeroblob(1500)) || '"' AS BLOB)
    FROM tasks WHERE payload IS NULL;
INSERT INTO messages (id, queue, task_id, visible_at, receive_count, leased, hidden_at)
    SELECT rowid, queue, id, iif(status = {_RUNNING}, :now + 86400000000, created_at),
        receive_count, status = {_RUNNING}, created_at
    FROM tasks WHERE status = {_RUNNING} OR (status = {_PENDING} AND due_at IS NULL);
INSERT INTO dead_letters (queue, task_id, task_type, reason, error, attempts, at)
    SELECT queue, id, type,
        'attempts exhausted (' || attempt || ' of ' || max_attempts || ')', error, attempt,
        finished_at
    FROM tasks WHERE status = {_FAILED};
INSERT INTO counters
    SELECT (SELECT value FROM json_each(:statuses) WHERE key = status), count(*)
    FROM tasks GROUP BY status;
INSERT INTO counters SELECT 'messages:' || queue, count(*) FROM messages GROUP BY queue;
INSERT INTO counters
    SELECT 'leased:' || queue, sum(leased) FROM messages GROUP BY queue HAVING sum(leased);
INSERT INTO counters SELECT 'dead:' || queue, count(*) FROM dead_letters GROUP BY queue;
"""


def found_in(path: Path) -> tuple[datetime, dict[str, str], int]:
    """When the first task was made, the ids of some, and how many there are."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    with connection:
        at = "SELECT created_at, id FROM tasks WHERE rowid = ?"
        ((count,),) = connection.execute("SELECT max(rowid) FROM tasks")
        ((first, _),) = connection.execute(at, (1,))
        ((_, history),) = connection.execute(at, (2,))
        ((_, ended),) = connection.execute(at, (count // 3 // 10 * 10 + 2,))
    connection.close()
    return datetime.fromtimestamp(first / 1e6, UTC), {"history": history, "ended": ended}, count


def step_us(count: int) -> int:
    """Between two tasks, in microseconds."""
    return int(SPAN.total_seconds() * 1e6) // count


def fill(path: Path, count: int) -> None:
    """Into a file that has no tasks, or is not there."""
    trio.run(_make, path)
    now = datetime.now(UTC)
    worker = "old-host:4711:abcdef"
    error = {
        "type": "ConnectionError",
        "message": "no route to host HOST",
        "traceback": "Traceback (most recent call last):\n"
        + '  File "/srv/app/tasks.py", line 42, in deliver\n    await client.send(message)\n' * 12
        + "ConnectionError: no route to host",
    }
    line = {
        "time": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": "INFO",
        "logger": "app.tasks",
        "message": "looked up a customer and has written the page of a report",
    }
    bound = {
        "count": count,
        "now": int(now.timestamp() * 1e6),
        "first": int((now - SPAN).timestamp() * 1e6),
        "step": step_us(count),
        "types": json.dumps(TYPES),
        "type_count": len(TYPES),
        "statuses": json.dumps(["PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED"]),
        "worker": worker,
        "version": __version__,
        "claimed_by": claimed_by(__version__, worker),
        "note": "x" * 150,
        "error": json.dumps(error, separators=(",", ":")),
        "logs": json.dumps([line] * LOG_LINES, separators=(",", ":")),
    }
    connection = apsw.Connection(str(path))
    connection.pragma("cache_size", -400_000)
    with connection:
        for statement in (_TASKS, _ATTEMPTS, _REST):
            connection.execute(statement, bound)
    connection.pragma("wal_checkpoint", "TRUNCATE")
    connection.close()


async def _make(path: Path) -> None:
    async with SqliteBackend(path).open():
        pass


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)

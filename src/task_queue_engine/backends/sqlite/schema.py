"""The file's layout: version 1, and what each version after it changed.

A new file is made as version 1 and then upgraded like an old one, so that there is one way to the
newest layout. To change it, write the next `_to_N` and put it at the end of `_UPGRADES`.

Processes of the version before may have the file open meanwhile, and go on. So an upgrade only
adds: columns that may be NULL or have a default, tables, indexes, triggers that keep new tables in
order; and deletes what no process should have left there. What a column means stays.
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

APPLICATION_ID = 0x54514531
"""In the file's header (SQLite file format, offset 68): "TQE1"."""

_VERSION_1 = """
CREATE TABLE tasks (
    id TEXT NOT NULL PRIMARY KEY,
    queue TEXT NOT NULL,
    type TEXT NOT NULL,
    status INTEGER NOT NULL,
    retry_count INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    timeout_seconds REAL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    run_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    due_at INTEGER,
    cancel_requested INTEGER NOT NULL,
    message_id TEXT,
    receive_count INTEGER NOT NULL,
    worker TEXT,
    payload BLOB, -- NULL: it is in large_payloads
    result BLOB,
    error BLOB,
    progress BLOB
) STRICT;
CREATE INDEX tasks_listed ON tasks (status, type, created_at, id);
CREATE INDEX tasks_due ON tasks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_finished ON tasks (finished_at, id) WHERE finished_at IS NOT NULL;

CREATE TABLE large_payloads (task_id TEXT NOT NULL PRIMARY KEY, payload BLOB NOT NULL) STRICT;

CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    task_id TEXT NOT NULL,
    visible_at INTEGER NOT NULL,
    receive_count INTEGER NOT NULL,
    leased INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_by_visibility ON messages (queue, visible_at, id);
CREATE INDEX messages_by_task ON messages (task_id);

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    task_id TEXT NOT NULL,
    task_type TEXT NOT NULL,
    reason TEXT NOT NULL,
    error BLOB,
    attempts INTEGER NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX dead_letters_by_queue ON dead_letters (queue, id);

CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""

TABLES = {"tasks", "large_payloads", "messages", "dead_letters", "counters"}
"""That every version has."""


def _to_2(connection: apsw.Connection) -> None:
    """`hidden_at`: when `visible_at` was set, in microseconds as that. Later than now: the clock
    was set back since. NULL in what a process of version 1 sends. Dead letters are found by their
    task, what is due by its queue."""
    connection.execute("ALTER TABLE messages ADD COLUMN hidden_at INTEGER")
    connection.execute(
        "UPDATE messages SET hidden_at = "
        "min(visible_at, CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER))"
    )
    connection.execute("CREATE INDEX dead_letters_by_task ON dead_letters (task_id)")
    connection.execute("DROP INDEX tasks_due")
    connection.execute("CREATE INDEX tasks_due ON tasks (queue, due_at) WHERE due_at IS NOT NULL")


def _to_3(connection: apsw.Connection) -> None:
    """`claimed_ahead`: the attempt that was claimed before a worker was free for it. Not a flag,
    which a process of version 2 would leave there for its own attempts."""
    connection.execute("ALTER TABLE tasks ADD COLUMN claimed_ahead INTEGER")


def _add_workers(connection: apsw.Connection) -> None:
    """A row for each process: `worker` is its JSON, `pipe` the name of the pipe that tells whether
    it lives (`workers.py`), NULL where it could make none."""
    connection.execute(
        "CREATE TABLE workers (id TEXT NOT NULL PRIMARY KEY, last_seen INTEGER NOT NULL, "
        "pipe TEXT, worker BLOB NOT NULL) STRICT"
    )


def _to_4(connection: apsw.Connection) -> None:
    """`workers`: one for each process. `attempts`: those that the task's own row says no more of,
    and what handlers logged; they go with their task, whichever version deletes it. `claimed_by`:
    the version that claimed the latest attempt, and a checksum of its worker; not the version
    alone, which a process of version 3 would leave there for its own. `trace_context`: JSON, of
    a task that has one."""
    connection.execute("ALTER TABLE tasks ADD COLUMN claimed_by TEXT")
    connection.execute("ALTER TABLE tasks ADD COLUMN trace_context BLOB")
    connection.execute(
        """
CREATE TABLE attempts (
    task_id TEXT NOT NULL,
    slot INTEGER NOT NULL,
    number INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    worker TEXT,
    version TEXT,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    error BLOB,
    progress BLOB,
    logs BLOB,
    logs_omitted INTEGER NOT NULL,
    PRIMARY KEY (task_id, slot)
) STRICT
"""
    )
    connection.execute(
        "CREATE TRIGGER attempts_deleted AFTER DELETE ON tasks "
        "BEGIN DELETE FROM attempts WHERE task_id = OLD.id; END"
    )
    _add_workers(connection)
    _delete_stale_dead_letters(connection)


def _delete_stale_dead_letters(connection: apsw.Connection) -> None:
    """A retry left them there before: of tasks that are not FAILED any more, and all but the newest
    of those that have failed again."""
    connection.execute(
        "DELETE FROM dead_letters WHERE EXISTS (SELECT 1 FROM tasks "
        "WHERE tasks.id = dead_letters.task_id AND status <> 3) "
        "OR EXISTS (SELECT 1 FROM dead_letters AS later WHERE later.task_id = dead_letters.task_id "
        "AND later.id > dead_letters.id)"
    )
    connection.execute(
        "UPDATE counters SET n = (SELECT count(*) FROM dead_letters "
        "WHERE 'dead:' || queue = counters.name) WHERE name LIKE 'dead:%'"
    )


_UPGRADES: tuple[Callable[[apsw.Connection], None], ...] = (_to_2, _to_3, _to_4)

SCHEMA_VERSION = 1 + len(_UPGRADES)
"""The one that this package makes of every file; in the file's `user_version`."""


def create(connection: apsw.Connection) -> None:
    """Lay out an empty file. Within a transaction of the caller's."""
    connection.execute(_VERSION_1)
    connection.pragma("application_id", APPLICATION_ID)
    upgrade(connection, 1)


def upgrade(connection: apsw.Connection, version: int) -> None:
    """From `version` to SCHEMA_VERSION. Within a transaction of the caller's."""
    for step in _UPGRADES[version - 1 :]:
        step(connection)
    connection.pragma("user_version", SCHEMA_VERSION)

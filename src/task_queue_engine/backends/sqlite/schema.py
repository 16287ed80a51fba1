"""The file's layout, and whether a file is one of ours."""

from __future__ import annotations

from pathlib import Path

import apsw

from task_queue_engine.errors import BackendRefused, BackendUnavailable

APPLICATION_ID = 0x54514531
"""In the file's header (SQLite file format, offset 68): "TQE1"."""

SCHEMA_VERSION = 1

_DDL = """
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
    payload BLOB NOT NULL,
    result BLOB,
    error BLOB,
    progress BLOB
) STRICT;
CREATE INDEX tasks_by_time ON tasks (created_at, id);
CREATE INDEX tasks_by_status ON tasks (status, created_at, id);
CREATE INDEX tasks_by_type ON tasks (type, created_at, id);
CREATE INDEX tasks_due ON tasks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_finished ON tasks (finished_at) WHERE finished_at IS NOT NULL;

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

BUSY_TIMEOUT_MS = 5_000
"""How long a statement waits for another process's write before BackendUnavailable."""


def connect(path: str) -> apsw.Connection:
    """A connection to our file, made where there is none.

    Raises:
        BackendRefused: not a database, damaged, somebody else's, newer, or not to be opened.
        BackendUnavailable: locked for longer than the busy timeout, or the disk is full.
    """
    try:
        connection = apsw.Connection(path)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA temp_store = MEMORY")
        _check_or_create(connection, path)
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise BackendRefused(
            f"{path} is damaged or not a SQLite database ({error}); move it away or restore it"
        ) from None
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError) as error:
        folder = Path(path).resolve().parent
        raise BackendRefused(
            f"{path} cannot be opened for writing ({error}); "
            f"check that {folder} exists and may be written"
        ) from None
    except (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.IOError) as error:
        raise BackendUnavailable(f"{path}: {error}") from None
    return connection


def _check_or_create(connection: apsw.Connection, path: str) -> None:
    with_lock = connection.execute("BEGIN IMMEDIATE")
    with_lock.fetchall()
    try:
        application_id = connection.pragma("application_id")
        version = connection.pragma("user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()[0][0]
        if not tables and application_id in (0, APPLICATION_ID):
            connection.execute(_DDL)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif application_id != APPLICATION_ID:
            raise BackendRefused(
                f"{path} is a SQLite database of another program; "
                "set TQE_DATABASE to a file of its own"
            )
        elif version > SCHEMA_VERSION:
            raise BackendRefused(
                f"{path} was written by a newer version (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); upgrade, or use another file"
            )
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")

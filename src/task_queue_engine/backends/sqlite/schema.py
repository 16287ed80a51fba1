"""The file's layout, and whether a file is one of ours."""

from __future__ import annotations

import time
from pathlib import Path

import apsw

from task_queue_engine.backends.sqlite.failures import translate
from task_queue_engine.errors import BackendRefused

APPLICATION_ID = 0x54514531
"""In the file's header (SQLite file format, offset 68): "TQE1"."""

SCHEMA_VERSION = 1

_TABLES = {"tasks", "messages", "dead_letters", "counters"}

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

BUSY_TIMEOUT = 5.0
"""Seconds a write waits for another process's before BackendUnavailable."""


def connect(path: str, *, busy_timeout: float = BUSY_TIMEOUT) -> apsw.Connection:
    """A connection to our file, made where there is none. A file that is not ours stays as it is.

    Raises:
        BackendRefused: not a database, damaged, somebody else's, newer, or not to be opened.
        BackendUnavailable: locked for longer than the busy timeout, or the disk is full.
    """
    _check_path(path)
    connection = None
    try:
        connection = apsw.Connection(path)
        connection.set_busy_timeout(round(busy_timeout * 1000))
        _refuse_foreign(connection, path)
        _use_wal(connection, path, busy_timeout)
        connection.pragma("synchronous", "FULL")
        connection.pragma("temp_store", "MEMORY")
        _create_where_new(connection, path)
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError) as error:
        _close(connection)
        raise BackendRefused(
            f"{path} cannot be opened for writing ({error}); "
            f"check that it and {Path(path).absolute().parent} may be written"
        ) from None
    except apsw.Error as error:
        _close(connection)
        translated = translate(error, path)
        if translated is None:
            raise
        raise translated from None
    except BaseException:
        _close(connection)
        raise
    return connection


def _close(connection: apsw.Connection | None) -> None:
    if connection is not None:
        connection.close()


def _check_path(path: str) -> None:
    """What SQLite would say too, but not as clearly. Nothing is opened here: closing a file
    drops this process's locks on it (POSIX advisory locks), and another engine's with them."""
    if path in ("", ":memory:"):
        raise BackendRefused(
            f"the database must be a file that threads and processes can share, not {path!r}"
        )
    where = Path(path)
    if where.is_dir():
        raise BackendRefused(f"{path} is a directory; name a file in it")
    folder = where.absolute().parent
    if not folder.is_dir():
        raise BackendRefused(f"{path} cannot be made: {folder} is not a directory; make it first")


def _refuse_foreign(connection: apsw.Connection, path: str) -> None:
    """Raises BackendRefused unless the file is ours or empty. Only reads."""
    with connection:  # one snapshot: another engine may be making the file right now
        application_id = connection.pragma("application_id")
        version = connection.pragma("user_version")
        tables = _tables(connection)
    if application_id == 0 and version == 0 and not tables:
        return
    if application_id != APPLICATION_ID:
        raise BackendRefused(
            f"{path} is a SQLite database of another program; set TQE_DATABASE to a file of its own"
        )
    if version > SCHEMA_VERSION:
        raise BackendRefused(
            f"{path} was written by a newer version (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); upgrade, or use another file"
        )
    if missing := _TABLES - tables:
        raise BackendRefused(
            f"{path} is damaged: it has no table {min(missing)}; restore it from a backup"
        )


def _tables(connection: apsw.Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return {str(name) for (name,) in rows}


def _use_wal(connection: apsw.Connection, path: str, busy_timeout: float) -> None:
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            mode = connection.pragma("journal_mode", "WAL")
            break
        except apsw.BusyError:
            # Another engine makes the same switch. SQLite does not wait here by itself.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise BackendRefused(
            f"{path}: SQLite cannot use write-ahead logging there (journal mode {mode!r}); "
            "put it on a local file system"
        )


def _create_where_new(connection: apsw.Connection, path: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _tables(connection):
            connection.execute(_DDL)
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", SCHEMA_VERSION)
        # Another process may have been first, a newer version even.
        _refuse_foreign(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise

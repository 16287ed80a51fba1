"""The file's layout, and whether a file is one of this package's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import apsw

from task_queue_engine.backends.sqlite.failures import translate
from task_queue_engine.errors import BackendError, BackendRefused

APPLICATION_ID = 0x54514531
"""In the file's header (SQLite file format, offset 68): "TQE1"."""

SCHEMA_VERSION = 1
"""In the file's `user_version`."""

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
-- Not in files that older versions made: then `expire` reads all dead letters.
CREATE INDEX dead_letters_by_task ON dead_letters (task_id);

CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""

_TABLES = {"tasks", "large_payloads", "messages", "dead_letters", "counters"}

# Payloads may be private. SQLite gives its -wal and -shm files the mode of the file, so that a
# `chmod 660` is all it takes to share it with a group.
_NEW_FILE_MODE = 0o600

# Bytes; a WAL that a burst has blown up is cut back to this at its next reset.
_WAL_SIZE_LIMIT = 64 * 2**20

# Prepared statements that a connection keeps; batches.py has several sizes of each.
_STATEMENTS = 256

_PERMISSIONS = "check that it and its folder may be written by this user"


def connect(path: str, busy_handler: Callable[[int], bool]) -> apsw.Connection:
    """A connection to the file, which is made where there is none.

    Args:
        busy_handler: asked each time the lock is another connection's, with the number of times
            so far; waits a little and says whether to try again.

    Raises:
        BackendRefused: not a database, damaged, another program's, newer, or not to be opened.
        BackendUnavailable: locked for longer than `busy_handler` waits, or the disk is full.
    """
    connection: apsw.Connection | None = None
    try:
        _check_place(path)
        connection = apsw.Connection(path, statementcachesize=_STATEMENTS)
        connection.set_busy_handler(busy_handler)
        _open_with_retries(connection, path, busy_handler)
    except BaseException as error:
        if connection is not None:
            connection.close(True)
        said = _said_of(path, error)
        if said is None:
            raise
        raise said from None
    return connection


def _said_of(path: str, error: BaseException) -> BackendError | None:
    if isinstance(error, OSError) and not isinstance(error, apsw.Error):
        return BackendRefused(f"{path} cannot be made ({error.strerror}); {_PERMISSIONS}")
    if isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError):
        return BackendRefused(f"{path} cannot be opened for writing ({error}); {_PERMISSIONS}")
    return translate(error, path) if isinstance(error, apsw.Error) else None


def check_path(path: str) -> None:
    """Raises BackendRefused for what SQLite would take for something else than a file's name."""
    if not path or path == ":memory:" or path.startswith("file:") or "\0" in path:
        raise BackendRefused(
            f"{path!r} is not the path of a file; set TQE_DATABASE to one (nothing else outlives "
            "the process, and a queue has to)"
        )


def _check_place(path: str) -> None:
    """Find the plain mistakes before SQLite calls them all "unable to open database file"."""
    place = Path(path)
    if place.is_dir():
        raise BackendRefused(f"{path} is a folder; set TQE_DATABASE to a file in it")
    if not place.parent.is_dir():
        raise BackendRefused(
            f"{path} cannot be made: there is no folder {place.parent}; make it, or set "
            "TQE_DATABASE to another place"
        )
    if not place.exists():
        # Exists: another process starts on it at the same moment.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _NEW_FILE_MODE))


def _open_with_retries(
    connection: apsw.Connection, path: str, busy_handler: Callable[[int], bool]
) -> None:
    """SQLite asks no busy handler where it changes the journal mode: two processes that start on
    one new file meet there."""
    tries = 0
    while True:
        try:
            return _open(connection, path)
        except apsw.BusyError:
            if not busy_handler(tries):
                raise
            tries += 1


def _open(connection: apsw.Connection, path: str) -> None:
    if connection.readonly("main"):
        raise BackendRefused(f"{path} may only be read; {_PERMISSIONS}")
    # Looked at before anything is changed: it may be another program's file.
    is_new = _is_new(connection, path)
    mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise BackendRefused(
            f"{path} is in a place where SQLite's write-ahead log does not work (a network file "
            "system?); set TQE_DATABASE to a local disk"
        )
    connection.pragma("synchronous", "full")
    connection.pragma("temp_store", "memory")
    connection.pragma("journal_size_limit", _WAL_SIZE_LIMIT)
    if is_new:
        _create(connection, path)


def _is_new(connection: apsw.Connection, path: str) -> bool:
    """False for a file that this package made; BackendRefused for another program's."""
    with connection:  # one snapshot: another process may be making the file right now
        tables = {
            str(name)
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table'"
            ).fetchall()
        }
        application_id = connection.pragma("application_id")
        version = connection.pragma("user_version")
    if not tables and application_id == version == 0:
        return True
    if application_id != APPLICATION_ID:
        raise BackendRefused(
            f"{path} is a SQLite database of another program; set TQE_DATABASE to a file of its own"
        )
    if version > SCHEMA_VERSION:
        raise BackendRefused(
            f"{path} was written by a newer version (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); upgrade, or use another file"
        )
    if version < 1 or not tables >= _TABLES:
        raise BackendRefused(
            f"{path} is damaged (schema {version} with the tables "
            f"{', '.join(sorted(tables)) or 'none'}); move it away or restore it"
        )
    return False


def _create(connection: apsw.Connection, path: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Again, under the lock: another process may have been first.
        if _is_new(connection, path):
            connection.execute(_DDL)
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", SCHEMA_VERSION)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise

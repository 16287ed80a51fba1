"""Opening the file: is it one of this package's, and of which version?"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import apsw

from task_queue_engine.backends.sqlite import schema
from task_queue_engine.backends.sqlite.failures import translate
from task_queue_engine.backends.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from task_queue_engine.errors import BackendError, BackendRefused

logger = logging.getLogger("task_queue_engine.sqlite")

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


def _check_place(path: str) -> None:
    """Find the plain mistakes before SQLite calls them all "unable to open database file"."""
    place = Path(path)
    if place.is_dir():
        raise BackendRefused(f"{path} is a folder; set TQE_DATABASE to a file in it")
    # Where a link leads to is where the file is: it is made there, with the same mode.
    real = Path(os.path.realpath(path))
    if not real.parent.is_dir():
        raise BackendRefused(
            f"{path} cannot be made: there is no folder {real.parent}; make it, or set "
            "TQE_DATABASE to another place"
        )
    if not real.exists():
        # Exists: another process starts on it at the same moment.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(real, os.O_CREAT | os.O_EXCL | os.O_RDWR, _NEW_FILE_MODE))
    elif not real.is_file():
        raise BackendRefused(f"{path} is not a file; set TQE_DATABASE to one")


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
    version = _version(connection, path)
    mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise BackendRefused(
            f"{path} is in a place where SQLite's write-ahead log does not work (a network file "
            "system?); set TQE_DATABASE to a local disk"
        )
    connection.pragma("synchronous", "full")
    connection.pragma("temp_store", "memory")
    connection.pragma("journal_size_limit", _WAL_SIZE_LIMIT)
    if version < SCHEMA_VERSION:
        _bring_up_to_date(connection, path)


def _version(connection: apsw.Connection, path: str) -> int:
    """Of a file that this package made, 0 for an empty one; BackendRefused for what it cannot
    use."""
    with connection:  # one snapshot: another process may be making the file right now
        tables = {
            str(name)
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table'"
            ).fetchall()
        }
        application_id = connection.pragma("application_id")
        version = int(connection.pragma("user_version"))
    if not tables and application_id == version == 0:
        return 0
    if application_id != APPLICATION_ID:
        raise BackendRefused(
            f"{path} is a SQLite database of another program; set TQE_DATABASE to a file of its own"
        )
    if version > SCHEMA_VERSION:
        raise BackendRefused(
            f"{path} was written by a newer version (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); upgrade, or use another file"
        )
    if version < 1 or not tables >= schema.TABLES:
        raise BackendRefused(
            f"{path} is damaged (schema {version} with the tables "
            f"{', '.join(sorted(tables)) or 'none'}); move it away or restore it"
        )
    return version


def _bring_up_to_date(connection: apsw.Connection, path: str) -> None:
    """Make the file what this version needs, all of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Again, under the lock: another process may have been first.
        version = _version(connection, path)
        copy = _keep_copy(path, version) if 0 < version < SCHEMA_VERSION else None
        if version == 0:
            schema.create(connection)
        else:
            schema.upgrade(connection, version)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    if copy is not None:
        logger.warning(
            "%s was upgraded from schema %d to %d, which older versions cannot open; it is kept as "
            "it was in %s, for you to delete",
            path,
            version,
            SCHEMA_VERSION,
            copy,
        )


def _keep_copy(path: str, version: int) -> Path:
    """Copy the file beside itself, as it is before the upgrade whose lock is held: other
    connections can read it, and none can write. Returns where it is."""
    real = Path(os.path.realpath(path))
    copy = real.with_name(f"{real.name}.v{version}")
    unfinished = copy.with_name(f"{copy.name}.part")
    try:
        unfinished.unlink(missing_ok=True)
        # Made here, so that SQLite does not choose another mode.
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_RDWR, _NEW_FILE_MODE))
        unfinished.chmod(real.stat().st_mode & 0o777)
        with (
            contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)) as source,
            contextlib.closing(apsw.Connection(str(unfinished))) as target,
            target.backup("main", source, "main") as backup,
        ):
            backup.step()
        unfinished.replace(copy)
    except (OSError, apsw.Error) as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise BackendRefused(
            f"{path} has to be upgraded from schema {version} to {SCHEMA_VERSION}, and no copy of "
            f"it could be made first in {copy} ({error}); make room for one"
        ) from error
    return copy

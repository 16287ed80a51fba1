"""Rows of one read-only query on a SQLite file.

The SQL is written by clients, so nothing relies on its wording: the file is opened read-only,
and an authorizer allows reading and nothing else (no ATTACH, no PRAGMA), with functions by
allow-list. What a query takes of time and memory is limited by the process it runs in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import apsw.ext

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers.export.payload import Parameters
from task_queue_engine.handlers.export.rows import RowSource
from task_queue_engine.handlers.export.sql_functions import ALLOWED
from task_queue_engine.handlers.export.temp_space import TempSpace, limited_temp_space
from task_queue_engine.retry import Discard, Retry

MAX_VALUE = 16 * 2**20
"""Bytes in one text or blob."""

MAX_ROW = 32 * 2**20
"""Characters and bytes in all texts and blobs of a row: it is in memory several times over on its
way to the file."""

MAX_COLUMNS = 1000
"""Of the result: half of what SQLite takes, and far more than a table that is looked at has."""

# Milliseconds to wait for a lock in the thread; longer waits are left to the task's backoff.
_BUSY_TIMEOUT = 1000

# Atomic groups: comments without end must not cost time without end.
_SELECT = re.compile(r"(?>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))*+(?:SELECT|WITH)\b", re.I | re.S)

_READING = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_RECURSIVE})

_TRANSIENT = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.SchemaChangeError,
    apsw.FullError,  # the disk under the temporary files
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ProtocolError,
)


@contextmanager
def open_query(
    database: Path | None,
    sql: str,
    parameters: Parameters | None,
    *,
    max_temp_bytes: int,
) -> Iterator[RowSource]:
    """Prepare the query; it runs as its rows are read, one at a time, in one read transaction.

    Args:
        max_temp_bytes: what sorting and grouping may put into temporary files.

    Raises (reading the rows raises the same):
        ConfigurationError: `TQE_EXPORT_DATABASE` is not set, or no such file.
        Discard: not one SELECT; an error in the SQL or the parameters; a value, row or temporary
            file too large; not a database.
        Retry: locked, disk full, I/O error.
        MemoryError: also where SQLite got no memory.
    """
    if database is None:
        raise ConfigurationError(
            "is not set: it names the SQLite file that exports may query",
            variable="TQE_EXPORT_DATABASE",
        )
    if not database.is_file():
        raise ConfigurationError(f"no such file: {database}", variable="TQE_EXPORT_DATABASE")
    if not _SELECT.match(sql):
        raise Discard("query: only one SELECT, or WITH ... SELECT, is allowed")

    with limited_temp_space(max_temp_bytes) as space:
        with _verdicts(space):
            connection = _connect(database, space)
        with closing(connection):
            with _verdicts(space):
                columns = _inspect(connection, sql)
            yield RowSource(columns, _rows(connection, sql, parameters, space))


def _connect(database: Path, space: TempSpace) -> apsw.Connection:
    connection = apsw.Connection(
        str(database), flags=apsw.SQLITE_OPEN_READONLY, vfs=space.name, statementcachesize=0
    )
    connection.set_busy_timeout(_BUSY_TIMEOUT)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    # Views and generated columns of the file run no function that has side effects.
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
    connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_VALUE)
    connection.limit(apsw.SQLITE_LIMIT_WORKER_THREADS, 0)
    connection.pragma("query_only", True)
    connection.authorizer = _allow_reading
    return connection


def _allow_reading(
    action: int, first: str | None, second: str | None, database: str | None, inner: str | None
) -> int:
    if action in _READING:
        return apsw.SQLITE_OK
    if action == apsw.SQLITE_FUNCTION and (second or "").lower() in ALLOWED:
        return apsw.SQLITE_OK
    if action == apsw.SQLITE_PRAGMA and first == "data_version" and second is None:
        return apsw.SQLITE_OK  # full-text search asks this of itself; it changes nothing
    return apsw.SQLITE_DENY


def _inspect(connection: apsw.Connection, sql: str) -> tuple[str, ...]:
    """The query's column names, without running it."""
    info = apsw.ext.query_info(connection, sql)
    rest = info.query_remaining
    if not info.is_readonly or (rest and apsw.ext.query_info(connection, rest).has_vdbe):
        raise Discard("query: only one SELECT, or WITH ... SELECT, is allowed")
    if len(info.description) > MAX_COLUMNS:
        raise Discard(f"query: more than {MAX_COLUMNS} columns")
    return tuple(column[0] for column in info.description)


def _rows(
    connection: apsw.Connection, sql: str, parameters: Parameters | None, space: TempSpace
) -> Iterator[tuple[Any, ...]]:
    with _verdicts(space):
        for row in connection.execute(sql, parameters):
            if sum(len(value) for value in row if isinstance(value, str | bytes)) > MAX_ROW:
                raise Discard(f"query: a row is larger than {MAX_ROW} bytes")
            yield row


@contextmanager
def _verdicts(space: TempSpace) -> Iterator[None]:
    try:
        yield
    except apsw.NoMemError as error:
        raise MemoryError from error
    except _TRANSIENT as error:
        if space.exceeded:
            raise Discard(
                "query: needs more temporary space than TQE_EXPORT_MAX_BYTES: narrow it, or sort "
                "and group less"
            ) from error
        raise Retry(reason=f"query: {error}") from error
    except apsw.AuthError as error:
        raise Discard(f"query: only reading is allowed ({error})") from error
    except apsw.TooBigError as error:
        raise Discard(f"query: a value is larger than {MAX_VALUE} bytes") from error
    except apsw.Error as error:
        raise Discard(f"query: {error}") from error
    except KeyError as error:
        raise Discard(f"query: no parameter is given for :{error.args[0]}") from error
    except UnicodeDecodeError as error:
        raise Discard("query: a text is not UTF-8; CAST it to BLOB") from error

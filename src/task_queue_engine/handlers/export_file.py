"""The file an export becomes: counted, hashed, published under its name or not at all.

A name is taken only once. That a retry of the same task finds its own file there and may replace
it, while another task is refused, is told by an extended attribute the file carries.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.handlers.export_payload import ExportFormat, ExportPayload
from task_queue_engine.handlers.export_rows import RowSource
from task_queue_engine.handlers.export_writers import make_writer
from task_queue_engine.handlers.files import (
    Folder,
    StagedFile,
    exists,
    open_folder,
    open_regular,
    part_name,
    remove_old_parts,
)
from task_queue_engine.handlers.settings import ExportSettings
from task_queue_engine.retry import Discard, Retry

OWNER_ATTRIBUTE = "user.task_queue_engine.task"
"""Extended attribute with the id of the task that wrote the file, where the file system has
those."""

_CHECK_EVERY = 500
"""Rows between looks at cancellation."""

_PROGRESS_EVERY = 10_000
"""Rows between reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """A finished file."""

    path: str
    """Absolute, on the machine of the worker."""
    rows: int
    """Without the header."""
    bytes: int
    format: ExportFormat
    sha256: str
    """Of the file, in hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What the export needs of its run, as plain calls for use in a thread."""

    task_id: str
    number: int
    check_cancelled: Callable[[], None]
    """May raise."""
    report: Callable[[int], None]
    """Rows written so far."""


def write_export(
    source: RowSource, payload: ExportPayload, settings: ExportSettings, attempt: Attempt
) -> ExportResult:
    """Write all rows of `source`. A file that is not finished leaves nothing behind.

    Raises:
        Discard: the name is taken by another task's file; too many rows or bytes.
        Retry: the disk is full or fails.
        ConfigurationError: `TQE_EXPORT_DIR` cannot be used.
    """
    name = payload.file_name(attempt.task_id)
    # A name made of the task's id is nobody else's.
    replace = payload.overwrite or payload.filename is None
    with _disk_errors(settings), _open_directory(settings) as folder:
        remove_old_parts(folder, attempt.task_id, attempt.number)
        if not replace:
            _refuse_early(folder, name, attempt)
        with StagedFile(folder, part_name(attempt.task_id, attempt.number)) as staged:
            output = _Output(staged, settings.max_bytes)
            rows = _write_rows(source, payload.format, output, settings.max_rows, attempt)
            with suppress(OSError, AttributeError):  # no such attributes here: see _is_ours
                os.setxattr(staged.fileno(), OWNER_ATTRIBUTE, attempt.task_id.encode())
            attempt.check_cancelled()
            try:
                staged.publish(folder, name, replace=replace)
            except FileExistsError:
                if replace or not _is_ours(folder, name, attempt, output.digest):
                    raise _name_is_taken(name) from None
                staged.publish(folder, name, replace=True)
        return ExportResult(
            path=str((folder.path / name).absolute()),
            rows=rows,
            bytes=output.size,
            format=payload.format,
            sha256=output.digest,
        )


def _write_rows(
    source: RowSource, form: ExportFormat, output: _Output, max_rows: int, attempt: Attempt
) -> int:
    writer = make_writer(form, output, source.columns)
    writer.begin()
    count = 0
    for row in source.rows:
        count += 1
        if count > max_rows:
            raise Discard(f"more than {max_rows} rows (TQE_EXPORT_MAX_ROWS): narrow the export")
        writer.write(row)
        if count % _CHECK_EVERY == 0:
            attempt.check_cancelled()
        if count % _PROGRESS_EVERY == 0:
            attempt.report(count)
    writer.end()
    return count


class _Output:
    """Counts and hashes what goes into the file."""

    def __init__(self, staged: StagedFile, max_bytes: int) -> None:
        self._staged = staged
        self._max_bytes = max_bytes
        self._sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes, /) -> None:
        self.size += len(data)
        if self.size > self._max_bytes:
            raise Discard(
                f"more than {self._max_bytes} bytes (TQE_EXPORT_MAX_BYTES): narrow the export"
            )
        self._sha256.update(data)
        self._staged.write(data)

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()


def _refuse_early(folder: Folder, name: str, attempt: Attempt) -> None:
    """Spare the work where the name is surely taken. Publishing decides."""
    if not exists(folder, name):
        return
    owner = _owner(folder, name)
    first_attempt = attempt.number == 1
    if owner != attempt.task_id and (owner is not None or first_attempt):
        raise _name_is_taken(name)


def _is_ours(folder: Folder, name: str, attempt: Attempt, digest: str) -> bool:
    """Whether an earlier attempt of this task published `name`. Where files carry no attributes,
    a file with the same content will do: replacing it changes nothing."""
    owner = _owner(folder, name)
    if owner is not None:
        return owner == attempt.task_id
    with open_regular(folder, name) as fd:
        if fd is None:
            return False
        with os.fdopen(os.dup(fd), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest


def _owner(folder: Folder, name: str) -> str | None:
    with open_regular(folder, name) as fd:
        if fd is None:
            return None
        try:
            return os.getxattr(fd, OWNER_ATTRIBUTE).decode("ascii", "replace")
        except (OSError, AttributeError):  # not set, or not to be had here
            return None


def _name_is_taken(name: str) -> Discard:
    return Discard(f"{name} exists and another task wrote it; overwrite: true would replace it")


def _open_directory(settings: ExportSettings) -> AbstractContextManager[Folder]:
    try:
        return open_folder(settings.directory)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ConfigurationError(
            f"{settings.directory}: {error.strerror}", variable="TQE_EXPORT_DIR"
        ) from error


@contextmanager
def _disk_errors(settings: ExportSettings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else error.strerror or str(error)
        raise Retry(reason=f"TQE_EXPORT_DIR {settings.directory}: {what}") from error

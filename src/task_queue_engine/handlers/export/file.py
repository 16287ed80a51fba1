"""The file an export becomes: rows of a source in one of the formats, within limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from task_queue_engine.handlers.export.payload import ExportFormat, ExportPayload
from task_queue_engine.handlers.export.rows import RowSource
from task_queue_engine.handlers.export.settings import ExportSettings
from task_queue_engine.handlers.export.writers import RowWriter, make_writer
from task_queue_engine.handlers.result_file import ResultFile, open_result
from task_queue_engine.retry import Discard

# Rows between looks at cancellation.
_CHECK_EVERY = 500

# Rows between reports.
_PROGRESS_EVERY = 10_000


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
class ExportAttempt:
    """What the export needs of its run, as plain calls for use in a thread."""

    task_id: str
    number: int
    check_cancelled: Callable[[], None]
    """May raise."""
    report: Callable[[int], None]
    """Rows written so far."""


def write_export(
    source: RowSource, payload: ExportPayload, settings: ExportSettings, attempt: ExportAttempt
) -> ExportResult:
    """Write all rows of `source`. A file that is not finished leaves nothing behind.

    Raises:
        Discard: the name is taken by another task's file; too many rows or bytes.
        Retry: the disk or `TQE_EXPORT_DIR` is full, or the disk fails.
        ConfigurationError: `TQE_EXPORT_DIR` cannot be used.
    """
    with open_result(
        settings.directory,
        payload.file_name(attempt.task_id),
        variable="TQE_EXPORT_DIR",
        limits=settings.folder_limits(),
        task_id=attempt.task_id,
        attempt=attempt.number,
        # A name made of the task's id cannot be another task's.
        replace=payload.overwrite or payload.filename is None,
    ) as file:
        output = _Limited(file, settings.max_bytes)
        writer = make_writer(
            payload.format, output, source.columns, delimiter=payload.delimiter or ","
        )
        rows = _write_rows(source, writer, settings.max_rows, attempt)
        attempt.check_cancelled()
        path = file.publish()
        return ExportResult(
            path=str(path),
            rows=rows,
            bytes=file.size,
            format=payload.format,
            sha256=file.digest,
        )


def _write_rows(source: RowSource, writer: RowWriter, max_rows: int, attempt: ExportAttempt) -> int:
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


class _Limited:
    def __init__(self, file: ResultFile, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes

    def write(self, data: bytes, /) -> None:
        if self._file.size + len(data) > self._max_bytes:
            raise Discard(
                f"more than {self._max_bytes} bytes (TQE_EXPORT_MAX_BYTES): narrow the export"
            )
        self._file.write(data)

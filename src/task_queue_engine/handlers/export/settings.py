"""Settings of the `data-export` task type, read when a task runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from task_queue_engine.config import EnvironmentSettings, Seconds
from task_queue_engine.handlers.folder_limits import FolderLimits
from task_queue_engine.retry import MAX_SECONDS


class ExportSettings(EnvironmentSettings):
    """What `data-export` may read, and where it writes."""

    database: Path | None = Field(None, validation_alias="TQE_EXPORT_DATABASE")
    """The SQLite file that `query` reads, all of it; None: exports by query are refused."""
    directory: Path = Field(Path("exports"), validation_alias="TQE_EXPORT_DIR")
    max_rows: Annotated[int, Field(ge=1)] = Field(1_000_000, validation_alias="TQE_EXPORT_MAX_ROWS")
    max_bytes: Annotated[int, Field(ge=1)] = Field(2**30, validation_alias="TQE_EXPORT_MAX_BYTES")
    """Of one file, and of the temporary files of one query."""
    max_total_bytes: Annotated[int, Field(ge=0)] = Field(
        10 * 2**30, validation_alias="TQE_EXPORT_MAX_TOTAL_BYTES"
    )
    """Of all files in the folder; 0: no limit."""
    retention: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = Field(
        0.0, validation_alias="TQE_EXPORT_RETENTION"
    )
    """Seconds for which a file is kept; 0: for ever."""
    max_memory: Annotated[int, Field(ge=64 * 2**20)] = Field(
        512 * 2**20, validation_alias="TQE_EXPORT_MAX_MEMORY_BYTES"
    )
    """Address space that a query may add to its process (Linux)."""
    max_cpu_seconds: Seconds = Field(600.0, validation_alias="TQE_EXPORT_MAX_CPU_SECONDS")
    """CPU time of a query and the writing of its rows."""

    def folder_limits(self) -> FolderLimits:
        return FolderLimits(
            max_bytes=self.max_total_bytes,
            variable="TQE_EXPORT_MAX_TOTAL_BYTES",
            retention=self.retention,
        )

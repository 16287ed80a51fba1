"""Settings of the `data-export` task type, read when a task runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from task_queue_engine.config import EnvironmentSettings, Seconds


class ExportSettings(EnvironmentSettings):
    """What `data-export` may read, and where it writes."""

    database: Path | None = Field(None, validation_alias="TQE_EXPORT_DATABASE")
    """The SQLite file that `query` reads, all of it; None: exports by query are refused."""
    directory: Path = Field(Path("exports"), validation_alias="TQE_EXPORT_DIR")
    max_rows: Annotated[int, Field(ge=1)] = Field(1_000_000, validation_alias="TQE_EXPORT_MAX_ROWS")
    max_bytes: Annotated[int, Field(ge=1)] = Field(2**30, validation_alias="TQE_EXPORT_MAX_BYTES")
    """Of one file, and of the temporary files of one query."""
    max_memory: Annotated[int, Field(ge=64 * 2**20)] = Field(
        512 * 2**20, validation_alias="TQE_EXPORT_MAX_MEMORY_BYTES"
    )
    """Address space that a query may add to its process (Linux)."""
    max_cpu_seconds: Seconds = Field(600.0, validation_alias="TQE_EXPORT_MAX_CPU_SECONDS")
    """CPU time of a query and the writing of its rows."""

"""Settings of the `data-export` task type, read when a task runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from task_queue_engine.config import EnvironmentSettings


class ExportSettings(EnvironmentSettings):
    """What `data-export` may read, and where it writes."""

    database: Path | None = Field(None, validation_alias="TQE_EXPORT_DATABASE")
    """The SQLite file that `query` reads, all of it; None: exports by query are refused."""
    directory: Path = Field(Path("exports"), validation_alias="TQE_EXPORT_DIR")
    max_rows: Annotated[int, Field(ge=1)] = Field(1_000_000, validation_alias="TQE_EXPORT_MAX_ROWS")
    max_bytes: Annotated[int, Field(ge=1)] = Field(2**30, validation_alias="TQE_EXPORT_MAX_BYTES")
    """Of one file."""

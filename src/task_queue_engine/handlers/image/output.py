"""Results written below `TQE_IMAGE_OUTPUT`, each whole or not at all."""

from __future__ import annotations

from pathlib import Path

from task_queue_engine.handlers.folder_limits import FolderLimits
from task_queue_engine.handlers.result_file import open_result


def write_output(
    directory: Path,
    name: str,
    data: bytes,
    *,
    limits: FolderLimits,
    task_id: str,
    attempt: int,
    overwrite: bool,
) -> Path:
    """Write `directory/name` and return its absolute path. Raises as `open_result`."""
    with open_result(
        directory,
        name,
        variable="TQE_IMAGE_OUTPUT",
        limits=limits,
        task_id=task_id,
        attempt=attempt,
        replace=overwrite,
    ) as file:
        file.write(data)
        return file.publish()

"""Mail into a folder, for machines without an SMTP server.

The layout is maildir's (tmp, new, cur), so that mail programs can read it. The file name is that
of the task: a second attempt of the same task finds the mail and writes no other.
"""

from __future__ import annotations

from pathlib import Path

from task_queue_engine.handlers.files import (
    StagedFile,
    open_folder,
    part_name,
    remove_old_parts,
)

# Mail is for its owner's eyes, as in any maildir.
_PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600


def write(outbox: Path, message: bytes, *, task_id: str, attempt: int) -> tuple[Path, bool]:
    """Write `message` (with LF line ends) durably into `outbox`.

    Returns:
        Where it is, and whether it was there before.

    Raises OSError.
    """
    name = f"{task_id}.eml"
    with (
        open_folder(outbox / "tmp", mode=_PRIVATE_FOLDER) as tmp,
        open_folder(outbox / "new", mode=_PRIVATE_FOLDER) as new,
        open_folder(outbox / "cur", mode=_PRIVATE_FOLDER) as cur,
    ):
        if attempt > 1:
            remove_old_parts(tmp, task_id, attempt)
            # A mail program moves what it has shown to cur/ and adds flags after a colon.
            for entry in cur.path.iterdir():
                if entry.name == name or entry.name.startswith(f"{name}:"):
                    return entry.absolute(), True
        path = (new.path / name).absolute()
        with StagedFile(tmp, part_name(task_id, attempt), mode=_PRIVATE_FILE) as staged:
            staged.write(message)
            try:
                staged.publish(new, name, replace=False)
            except FileExistsError:
                return path, True
    return path, False

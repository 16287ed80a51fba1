"""Mail into a folder, for machines without an SMTP server.

The layout is maildir's (tmp, new, cur), so that mail programs can read it. The file name is that
of the task: a second attempt of the same task finds the mail and writes no other.
"""

from __future__ import annotations

import re
from pathlib import Path

from task_queue_engine.handlers.files import (
    Folder,
    StagedFile,
    open_folder,
    part_name,
    remove_earlier_parts,
)
from task_queue_engine.handlers.folder_limits import FolderLimits, make_room

# Mail is for its owner's eyes, as in any maildir.
_PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600


# What `write` has named, and what a mail program has made of the name.
_MAIL = re.compile(r"[0-9a-f-]{36}\.eml(?::.*)?", re.S)


def write(
    outbox: Path, message: bytes, *, task_id: str, attempt: int, limits: FolderLimits
) -> tuple[Path, bool]:
    """Write `message` (with LF line ends) durably into `outbox`.

    Returns:
        Where it is, and whether it was there before.

    Raises:
        OSError: the disk or the outbox is full, or the disk fails.
        ConfigurationError: the outbox cannot be used.
    """
    name = f"{task_id}.eml"
    with (
        _open(outbox / "tmp") as tmp,
        _open(outbox / "new") as new,
        _open(outbox / "cur") as cur,
    ):
        if attempt > 1:
            remove_earlier_parts(tmp, task_id, attempt)
            # A mail program moves what it has shown to cur/ and adds flags after a colon.
            for entry in cur.path.iterdir():
                if entry.name == name or entry.name.startswith(f"{name}:"):
                    return entry.absolute(), True
        path = (new.path / name).absolute()
        with (
            make_room((new, cur, tmp), limits, expires=_is_mail) as room,
            StagedFile(tmp, part_name(task_id, attempt), mode=_PRIVATE_FILE) as staged,
        ):
            room.take(len(message))
            staged.write(message)
            try:
                staged.publish(new, name, replace=False)
            except FileExistsError:
                room.give_back()
                return path, True
    return path, False


def _open(path: Path) -> Folder:
    return open_folder(path, variable="TQE_OUTBOX", mode=_PRIVATE_FOLDER)


def _is_mail(folder: Folder, name: str) -> bool:
    return _MAIL.fullmatch(name) is not None

"""Notices when the files that are open are no longer those of their names.

SQLite goes on with what it has open. What is then written is gone after a restart, or mixed into
another database: removed by a cleanup, moved away, restored from a backup while the engine runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from task_queue_engine.errors import BackendUnavailable

# Seconds between looks at the -wal and -shm files. They go with the database, which is looked at
# before every commit; alone they are only ever removed by hand.
_EVERY = 1.0

# Seconds: until an operator has put the file back, not with another try in a second.
_RETRY_AFTER = 5.0


class FilesInUse:
    """The files of a connection that was just opened, by device and inode."""

    def __init__(self, path: str) -> None:
        self._path = path
        real = os.path.realpath(path)
        self._opened = {name: _identity(name) for name in (path, f"{real}-wal", f"{real}-shm")}
        self._looked = time.monotonic()

    def check(self) -> None:
        """Raises BackendUnavailable, which lasts until the files are back in their places."""
        names: Iterable[str] = (self._path,)
        now = time.monotonic()
        if now - self._looked >= _EVERY:
            names = self._opened
        for name in names:
            found = _identity(name)
            if found != self._opened[name]:
                what = "was removed" if found is None else "was replaced by another file"
                raise BackendUnavailable(
                    f"{name} {what} while it is in use: nothing is written, as it would be lost; "
                    "put the old one back, or restart to use what is there",
                    retry_after=_RETRY_AFTER,
                )
        if names is self._opened:
            self._looked = now


def _identity(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)  # noqa: PTH116 - a Path for every commit would cost more than the call
    except OSError:
        return None
    return found.st_dev, found.st_ino

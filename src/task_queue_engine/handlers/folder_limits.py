"""What a folder of results may hold, and for how long.

A folder is looked through when something is about to be written there, in the thread or process
that writes. Between two looks its size is carried on by what is written from here; what other
processes write comes with the next look: a limit is kept but for what they write meanwhile.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from stat import S_ISREG
from typing import Self

from task_queue_engine.clock import SystemClock
from task_queue_engine.handlers.files import Folder, is_abandoned_part

# A look is repeated when this many times its own duration has passed: with any number of files it
# takes a twentieth of the time at most.
_REST = 20

# Files removed in one look: a thousand take some 10 ms, and the task at hand is waiting.
_MAX_REMOVALS = 1000

# Of a file system, what stays free, since the queue's own database may be on it: a twentieth, as
# much as ext4 keeps back for the system, but no more than a gigabyte.
_RESERVED_SHARE = 20
_RESERVED_BYTES = 2**30

# Bytes between looks at the free space: a look takes a microsecond.
_FREE_SPACE_STEP = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderLimits:
    max_bytes: int
    """In all; 0: no limit."""
    variable: str
    """The setting of that, for messages."""
    retention: float
    """Seconds since it was written for which a file is kept; 0: for ever."""


@dataclass(slots=True)
class _Known:
    """About one folder, in this process."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    used: int = 0
    look_at: float = 0.0
    """Not before (time.monotonic())."""


_known: dict[tuple[str, int], _Known] = {}


class Room:
    """The room in a folder, taken by one file; given back where the `with` block raises."""

    def __init__(self, folder: Folder, known: _Known, limits: FolderLimits) -> None:
        self._folder = folder
        self._known = known
        self._limits = limits
        self._taken = 0
        self._free_space_checked = -_FREE_SPACE_STEP

    def take(self, count: int) -> None:
        """Before `count` bytes are written. Raises OSError (EDQUOT): there is no room."""
        limit = self._limits.max_bytes
        with self._known.lock:
            if limit and self._known.used + count > limit:
                raise OSError(
                    errno.EDQUOT, f"is full: it holds its {limit} bytes ({self._limits.variable})"
                )
            self._known.used += count
        self._taken += count
        if self._taken >= self._free_space_checked + _FREE_SPACE_STEP:
            self._free_space_checked = self._taken
            self._check_free_space(count)

    def give_back(self) -> None:
        """The file was not kept."""
        with self._known.lock:
            self._known.used -= self._taken
        self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        if exc_type is not None:
            self.give_back()

    def _check_free_space(self, count: int) -> None:
        system = os.fstatvfs(self._folder.fd)
        reserved = min(system.f_blocks * system.f_frsize // _RESERVED_SHARE, _RESERVED_BYTES)
        if system.f_bavail * system.f_frsize - count < reserved:
            raise OSError(
                errno.EDQUOT,
                f"is full: what is left of its disk, {reserved} bytes, is not for results",
            )


def make_room(
    folders: tuple[Folder, ...],
    limits: FolderLimits,
    *,
    expires: Callable[[Folder, str], bool],
) -> Room:
    """Remove what has been kept long enough, and count the rest.

    Args:
        folders: they share the limits; what is written goes into the first one.
        expires: whether a file is one that retention is for, and not of other origin.

    Raises OSError.
    """
    first = folders[0]
    key = (str(first.path.absolute()), os.fstat(first.fd).st_ino)
    known = _known.setdefault(key, _Known())
    with known.lock:
        if time.monotonic() >= known.look_at:
            started = time.monotonic()
            known.used = _look(folders, limits.retention, expires)
            now = time.monotonic()
            known.look_at = now + _REST * (now - started)
    return Room(first, known, limits)


def _look(
    folders: Iterable[Folder], retention: float, expires: Callable[[Folder, str], bool]
) -> int:
    """Returns the bytes that are left."""
    now = SystemClock().now().timestamp()
    used = 0
    removed = 0
    for folder in folders:
        with os.scandir(folder.fd) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if not S_ISREG(status.st_mode):
                        continue
                    age = now - status.st_mtime
                    gone = is_abandoned_part(entry.name, age) or (
                        0 < retention < age and expires(folder, entry.name)
                    )
                    if gone and removed < _MAX_REMOVALS:
                        os.unlink(entry.name, dir_fd=folder.fd)
                        removed += 1
                    else:
                        used += status.st_size
    return used

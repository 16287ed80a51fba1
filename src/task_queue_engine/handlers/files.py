"""Files that appear whole or not at all.

A file is written under a hidden name, `.TASK.ATTEMPT.part`, and gets its own name when it is
complete and on disk. Names are resolved below an open directory, never by a path: a directory that
is swapped or symlinked meanwhile changes nothing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from task_queue_engine.errors import ConfigurationError

FOLDER_MODE = 0o750
FILE_MODE = 0o640
"""What results hold is for the deployment's user, and for the group that it shares them with."""

_PART = re.compile(r"\.[^.]+\.\d+\.part")

# Attempts looked back on: each has removed what those before it left, as far as it began at all.
_EARLIER = 100

STALE_AFTER = 48 * 3600.0
"""Seconds without a write after which a part counts as abandoned: no attempt may take longer than a
day (`TQE_TASK_TIMEOUT`)."""

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Folder:
    """An open directory; leaving the `with` block closes it."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self.fd)


def open_folder(path: Path, *, variable: str, mode: int = FOLDER_MODE) -> Folder:
    """Open `path`, made when missing, durably, as its parents are; `mode` is less the umask.

    Raises:
        ConfigurationError: it cannot be made or used; `variable` names it.
        OSError: the disk is full or fails.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for made in reversed(missing):
            made.mkdir(mode=mode, exist_ok=True)  # raises for a symlink that points to nothing
        opened = Folder(path, os.open(path, _OPEN_FOLDER))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ConfigurationError(f"{path}: {error.strerror}", variable=variable) from error
    with ExitStack() as stack:
        stack.push(opened)
        for made in missing:
            with Folder(made.parent, os.open(made.parent, _OPEN_FOLDER)) as parent:
                os.fsync(parent.fd)
        stack.pop_all()
    return opened


def part_name(task_id: str, attempt: int) -> str:
    return f".{task_id}.{attempt}.part"


def remove_earlier_parts(folder: Folder, task_id: str, attempt: int) -> None:
    """Remove what killed attempts of this task left.

    An earlier attempt that still runs somewhere has lost its lease; without its part it cannot
    publish either.
    """
    for earlier in range(max(1, attempt - _EARLIER), attempt):
        with suppress(FileNotFoundError):
            os.unlink(part_name(task_id, earlier), dir_fd=folder.fd)


def is_abandoned_part(name: str, age: float) -> bool:
    """Whether a file is a part of any task that has not been written to for very long.

    Args:
        age: seconds since the last write.
    """
    return age > STALE_AFTER and _PART.fullmatch(name) is not None


class StagedFile:
    """A file being written. Leaving the `with` block without `publish` removes it."""

    def __init__(self, folder: Folder, name: str, *, mode: int = FILE_MODE) -> None:
        """Raises OSError. `mode` is less the umask."""
        self._folder = folder
        self._name = name
        self._published = False
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder.fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, mode, dir_fd=folder.fd)
        self._file = os.fdopen(fd, "wb", buffering=256 * 1024)

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def fileno(self) -> int:
        return self._file.fileno()

    def publish(self, folder: Folder, name: str, *, replace: bool) -> None:
        """Give it its name, durably: the content is on disk before the name is, and the name
        before this returns.

        May be called again, with `replace`, after FileExistsError.

        Raises:
            FileExistsError: the name is taken and `replace` is False, or by a directory.
            OSError.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        if replace:
            self._rename(folder, name)
        else:
            self._link(folder, name)
        self._published = True
        os.fsync(folder.fd)

    def _rename(self, folder: Folder, name: str) -> None:
        try:
            os.rename(self._name, name, src_dir_fd=self._folder.fd, dst_dir_fd=folder.fd)
        except IsADirectoryError as error:
            raise FileExistsError(errno.EEXIST, "is a directory", name) from error

    def _link(self, folder: Folder, name: str) -> None:
        """A hard link, since unlike a rename it never replaces anything."""
        try:
            os.link(
                self._name,
                name,
                src_dir_fd=self._folder.fd,
                dst_dir_fd=folder.fd,
                follow_symlinks=False,
            )
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # Some network and FAT file systems: the next best thing is to look first.
            if exists(folder, name):
                raise FileExistsError(errno.EEXIST, "exists", name) from error
            self._rename(folder, name)
        else:
            os.unlink(self._name, dir_fd=self._folder.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc is None:
                self._file.close()
            else:
                with suppress(OSError):  # flushing to a full disk; `exc` says so already
                    self._file.close()
        finally:
            if not self._published:
                with suppress(FileNotFoundError):
                    os.unlink(self._name, dir_fd=self._folder.fd)


def exists(folder: Folder, name: str) -> bool:
    """Whether anything has this name, a dangling symlink included."""
    try:
        os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def open_regular(folder: Folder, name: str) -> Iterator[int | None]:
    """A file descriptor to read `name` by; None where it is missing or no regular file (symlinks
    are not followed)."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=folder.fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        yield None
        return
    try:
        yield fd if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)

"""Results written below `TQE_IMAGE_OUTPUT`, each whole or not at all.

A name is taken only once: another task's file is not replaced unless that is asked for, while a
repeated attempt finds its own and replaces it. Whose a file is, it says itself, by an extended
attribute.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.retry import Discard, Retry

_OWNER = "user.task_queue_engine.task"
"""Extended attribute: the id of the task that wrote the file, where files have attributes."""

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def write_output(
    directory: Path, name: str, data: bytes, *, task_id: str, attempt: int, overwrite: bool
) -> Path:
    """Write `directory/name` and return its absolute path.

    At every moment, a power cut included, the name shows all of `data` or what was there before.
    What a killed attempt left behind is removed by the task's next one; an attempt that has lost
    its lease and still runs finds its temporary file gone, and publishes nothing.

    Raises:
        Discard: the name is taken by something else than this task's file.
        Retry: the disk is full or fails.
        ConfigurationError: the directory cannot be used.
    """
    target = directory.absolute() / name
    with _described_errors(directory):
        _make(directory)
        for earlier in range(1, attempt):
            _temporary(target, task_id, earlier).unlink(missing_ok=True)
        temporary = _temporary(target, task_id, attempt)
        temporary.unlink(missing_ok=True)
        try:
            _write(temporary, data, task_id)
            _publish(temporary, target, data, task_id, overwrite=overwrite)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        _sync_directory(target.parent)
    return target


def _temporary(target: Path, task_id: str, attempt: int) -> Path:
    return target.with_name(f".{task_id}.{attempt}.part")


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ConfigurationError(
            f"{directory}: {error.strerror}", variable="TQE_IMAGE_OUTPUT"
        ) from error


def _write(temporary: Path, data: bytes, task_id: str) -> None:
    with temporary.open("xb") as file:
        file.write(data)
        with suppress(OSError, AttributeError):  # no such attributes here: _is_ours knows
            os.setxattr(file.fileno(), _OWNER, task_id.encode())
        file.flush()
        os.fsync(file.fileno())


def _publish(temporary: Path, target: Path, data: bytes, task_id: str, *, overwrite: bool) -> None:
    if not overwrite:
        try:
            _link(temporary, target)
        except FileExistsError:
            if not _is_ours(target, data, task_id):
                raise Discard(
                    f"{target.name} exists and another task wrote it; "
                    "overwrite: true would replace it"
                ) from None
        else:
            return
    try:
        temporary.replace(target)
    except IsADirectoryError:
        raise Discard(f"{target.name} is a directory") from None


def _link(temporary: Path, target: Path) -> None:
    """Unlike a rename this never replaces anything. Raises FileExistsError."""
    try:
        target.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Some network and FAT file systems. The next best thing is to look first.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "exists", target.name) from error
        temporary.replace(target)


def _is_ours(target: Path, data: bytes, task_id: str) -> bool:
    """Whether an earlier attempt published `target`. Where nothing says who did, a file with the
    same content will do: replacing it changes nothing."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(target, flags)
    except OSError:  # a symbolic link, a socket, unreadable, or gone by now
        return False
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        try:
            return os.getxattr(descriptor, _OWNER) == task_id.encode()
        except (OSError, AttributeError):  # not set, or not to be had here
            return file.read(len(data) + 1) == data


def _sync_directory(directory: Path) -> None:
    """Make the name durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _described_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else error.strerror or str(error)
        raise Retry(reason=f"TQE_IMAGE_OUTPUT {directory}: {what}") from error

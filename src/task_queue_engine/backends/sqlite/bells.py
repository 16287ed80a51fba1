"""A doorbell: a named pipe in a folder beside the database, one for each process and what it
listens for.

A pipe that has lost its reader refuses writers, so what a killed process has left is known for that
and removed by whoever comes upon it. Its name may be as long as any other's, which a socket's may
not, and who may write to it is a matter of its mode: those who may write to the database.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import select
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

ATOMIC = select.PIPE_BUF
"""Bytes that are written whole or not at all (POSIX; 4096 on Linux, 512 on macOS)."""

END = b"\0"
"""Ends each task id on a pipe. Alone it says: something has changed, look at all."""

LIVES = "worker"
"""The topic of a pipe on which nothing is rung: that it has a reader says that its maker lives."""

BROADCASTS = "events"
"""The topic of a pipe into which others write what happens, as long as it is there."""

# Bytes read at a time: what is done with them holds the loop.
_READ = 65_536

_NAME = re.compile(r"(?P<topic>[A-Za-z0-9_-]{1,128})\.[0-9a-f]{16}", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)

# Seconds after which an unfinished pipe without a reader is one that a killed process has left.
_UNFINISHED_FOR = 60.0

_WRITABLE = 0o022


def topic_of_messages(queue: str) -> str:
    """What a process listens for that works on this queue."""
    plain = _PLAIN.fullmatch(queue) is not None
    return f"messages-{queue if plain else sha256(queue.encode()).hexdigest()}"


def folder_of(database: str) -> Path:
    """Where the pipes of a database are, by whichever link it is reached."""
    return Path(os.path.realpath(database) + "-bells")


@dataclass(frozen=True, slots=True)
class Bell:
    """A pipe that this process reads."""

    path: Path
    reader: int
    """File descriptors. With a writer of its own it never comes to its end."""
    writer: int
    inode: int
    half_full: int
    """Bytes. Where so many lie in it some may have found no room."""

    @property
    def is_there(self) -> bool:
        """Whether others can still find it."""
        try:
            return self.path.stat().st_ino == self.inode
        except OSError:
            return False

    def take(self) -> bytes:
        """What lies in it."""
        try:
            return os.read(self.reader, min(2 * self.half_full, _READ))
        except BlockingIOError:
            return b""

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink()
        self.close()
        with suppress(OSError):  # another process's is in it, or it is another user's
            self.path.parent.rmdir()

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def make(database: str, topic: str, *, room: int | None = None) -> Bell:
    """A bell that others can find, tried out.

    Args:
        room: bytes that it should hold, where that is not as many as usual.

    Raises:
        OSError: it cannot be made or does not work here.
    """
    for _ in range(3):
        folder = _make_folder(database)
        remove_dead(folder)
        with suppress(FileNotFoundError):  # the last one to leave has just removed the folder
            return _make_in(folder, database, topic, room)
    raise FileNotFoundError(errno.ENOENT, "removed again and again", str(folder))


def _make_folder(database: str) -> Path:
    folder = folder_of(database)
    of_file = Path(database).stat()
    mode = _folder_mode(of_file.st_mode)
    with suppress(FileExistsError):
        folder.mkdir(0o700)
    found = folder.lstat()
    # The file may have been shared with a group since.
    if (
        stat.S_ISDIR(found.st_mode)
        and _is_mine(found, of_file)
        and stat.S_IMODE(found.st_mode) != mode
    ):
        _give_to_file(folder, found, of_file)
        folder.chmod(mode)
    check_folder(database)
    return folder


def _make_in(folder: Path, database: str, topic: str, room: int | None) -> Bell:
    name = f"{topic}.{secrets.token_hex(8)}"
    # Whoever sees a pipe without a reader removes it, so it gets its name when it has one.
    unfinished = folder / f".{name}"
    os.mkfifo(unfinished, 0o600)
    reader = writer = -1
    try:
        reader = os.open(unfinished, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(unfinished, os.O_WRONLY | os.O_NONBLOCK)
        if room is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # the user has many large ones already
                fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, room)
        of_file, made = Path(database).stat(), os.fstat(reader)
        _give_to_file(unfinished, made, of_file)
        # To be written to, and read by its maker alone.
        unfinished.chmod(0o600 | of_file.st_mode & _WRITABLE)
        os.write(writer, END)
        if os.read(reader, 1) != END:
            raise OSError(errno.EIO, "a named pipe does not work in this place", str(folder))
        path = unfinished.rename(folder / name)
    except BaseException:
        for descriptor in (reader, writer):
            if descriptor >= 0:
                os.close(descriptor)
        with suppress(OSError):
            unfinished.unlink()
        raise
    return Bell(path, reader, writer, made.st_ino, _half_full(reader))


def _half_full(reader: int) -> int:
    # A full pipe holds at least half of what it could: no message is split over two of its pages.
    # Only Linux tells; the smallest buffer of a named pipe on macOS is 8 KiB.
    get_size = getattr(fcntl, "F_GETPIPE_SZ", None)
    return 4096 if get_size is None else int(fcntl.fcntl(reader, get_size)) // 2


def check_folder(database: str) -> None:
    """Raises OSError where the folder is not there, or where others than those who may write to
    the database could put their own pipes into it, to see which tasks there are."""
    folder = folder_of(database)
    found, of_file = folder.lstat(), Path(database).stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is not a folder", str(folder))
    is_for_all = of_file.st_mode & 0o002
    is_of_group = of_file.st_mode & 0o020 and found.st_gid == of_file.st_gid
    is_known = is_of_group or found.st_uid in (os.geteuid(), of_file.st_uid, 0)
    too_open = found.st_mode & 0o002 or (found.st_mode & 0o020 and not is_of_group)
    if not is_for_all and (too_open or not is_known):
        raise PermissionError(
            errno.EPERM, "others than the users of the database may write to it", str(folder)
        )


def _is_pipe(path: Path) -> bool:
    """Whether this is a pipe at all, and no link to something else."""
    return stat.S_ISFIFO(path.lstat().st_mode)


def names_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and topic of each bell. What a killed process has left unfinished is removed."""
    for name in os.listdir(folder):  # noqa: PTH208  # names are all that is needed
        found = _NAME.fullmatch(name)
        if found is not None:
            yield name, found["topic"]
        elif name.startswith(".") and _NAME.fullmatch(name[1:]):
            _remove_unfinished(folder / name)


def _remove_unfinished(path: Path) -> None:
    with suppress(OSError):
        if time.time() - path.lstat().st_mtime > _UNFINISHED_FOR:
            os.close(open_to_ring(path))


def remove_dead(folder: Path) -> None:
    """Remove what killed processes have left."""
    with suppress(OSError):
        for name, _ in names_in(folder):
            with suppress(OSError):
                os.close(open_to_ring(folder / name))


def open_to_ring(path: Path) -> int:
    """A file descriptor to write to. A pipe that a killed process has left is removed.

    Raises:
        OSError: nothing reads it, or this user may not ring it.
    """
    if not _is_pipe(path):
        raise OSError(errno.EINVAL, "not a named pipe", str(path))
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENXIO:
            with suppress(OSError):
                path.unlink()
        raise


def is_heard(database: str, name: str) -> bool:
    """Whether the maker of this bell lives. One that has died goes with its bell."""
    if not _NAME.fullmatch(name):  # it comes from the database, and could lead elsewhere
        return False
    try:
        os.close(open_to_ring(folder_of(database) / name))
    except OSError as error:
        # It is there, and another user's.
        return error.errno in (errno.EACCES, errno.EPERM)
    return True


def _folder_mode(file_mode: int) -> int:
    """Who may write to the file may look into the folder, and put pipes into it."""
    return 0o700 | (0o070 if file_mode & 0o020 else 0) | (0o007 if file_mode & 0o002 else 0)


def _is_mine(found: os.stat_result, of_file: os.stat_result) -> bool:
    me = os.geteuid()
    return found.st_uid == me or (me == 0 and found.st_uid == of_file.st_uid)


def _give_to_file(path: Path, found: os.stat_result, of_file: os.stat_result) -> None:
    """To the file's group; and by root to its owner too, who could not ring otherwise."""
    owner = of_file.st_uid if os.geteuid() == 0 else -1
    if (owner in (-1, found.st_uid)) and found.st_gid == of_file.st_gid:
        return
    with suppress(PermissionError):  # not one of that group: its members find it by looking
        os.chown(path, owner, of_file.st_gid)

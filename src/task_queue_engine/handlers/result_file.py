"""The file a task leaves behind: counted, hashed, published under its name or not at all.

A name is taken only once. That a retry of the same task finds its own file there and may replace
it, while another task is refused, is told by an extended attribute the file carries.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from task_queue_engine.handlers.files import (
    Folder,
    StagedFile,
    exists,
    open_folder,
    open_regular,
    part_name,
    remove_earlier_parts,
)
from task_queue_engine.handlers.folder_limits import FolderLimits, Room, make_room
from task_queue_engine.retry import Discard, Retry

OWNER_ATTRIBUTE = "user.task_queue_engine.task"
"""Extended attribute with the id of the task that wrote the file, where the file system has
those."""


class ResultFile:
    """Being written; `publish` gives it its name."""

    def __init__(
        self,
        folder: Folder,
        staged: StagedFile,
        name: str,
        *,
        task_id: str,
        replace: bool,
        room: Room,
    ) -> None:
        self._folder = folder
        self._staged = staged
        self._name = name
        self._task_id = task_id
        self._replace = replace
        self._room = room
        self._sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes, /) -> None:
        self._room.take(len(data))
        self.size += len(data)
        self._sha256.update(data)
        self._staged.write(data)

    @property
    def digest(self) -> str:
        """SHA-256 of what was written, in hex."""
        return self._sha256.hexdigest()

    def publish(self) -> Path:
        """Returns the absolute path. Raises Discard: the name is another task's."""
        with suppress(OSError, AttributeError):  # no such attributes here: see _is_ours
            os.setxattr(self._staged.fileno(), OWNER_ATTRIBUTE, self._task_id.encode())
        try:
            self._staged.publish(self._folder, self._name, replace=self._replace)
        except FileExistsError:
            if self._replace or not self._is_ours():
                raise _name_is_taken(self._folder, self._name) from None
            self._staged.publish(self._folder, self._name, replace=True)
        return (self._folder.path / self._name).absolute()

    def _is_ours(self) -> bool:
        """Whether an earlier attempt of this task published the name. Where files carry no
        attributes, a file with the same content will do: replacing it changes nothing."""
        owner = _owner(self._folder, self._name)
        if owner is not None:
            return owner == self._task_id
        with open_regular(self._folder, self._name) as fd:
            if fd is None:
                return False
            with os.fdopen(os.dup(fd), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.digest


@contextmanager
def open_result(
    directory: Path,
    name: str,
    *,
    variable: str,
    limits: FolderLimits,
    task_id: str,
    attempt: int,
    replace: bool,
) -> Iterator[ResultFile]:
    """A file that appears as `directory/name` when it is published; else it leaves nothing.

    What a killed attempt left behind is removed by the task's next one; an attempt that has lost
    its lease and still runs finds its part gone, and publishes nothing.

    Args:
        variable: the setting that names the directory, for messages.
        limits: of the directory. What is past its retention and was written by a task is removed.
        replace: also a file of another task, or one that no task wrote.

    Raises:
        Discard: the name is taken by another task's file.
        Retry: the disk or the directory is full, or the disk fails.
        ConfigurationError: the directory cannot be used.
    """
    with _disk_errors(directory, variable), open_folder(directory, variable=variable) as folder:
        remove_earlier_parts(folder, task_id, attempt)
        if not replace:
            _refuse_early(folder, name, task_id, attempt)
        with (
            make_room((folder,), limits, expires=_was_written_by_a_task) as room,
            StagedFile(folder, part_name(task_id, attempt)) as staged,
        ):
            yield ResultFile(folder, staged, name, task_id=task_id, replace=replace, room=room)


def _refuse_early(folder: Folder, name: str, task_id: str, attempt: int) -> None:
    """Spare the work where the name is surely taken. Publishing decides."""
    if not exists(folder, name):
        return
    owner = _owner(folder, name)
    if owner != task_id and (owner is not None or attempt == 1):
        raise _name_is_taken(folder, name)


def _owner(folder: Folder, name: str) -> str | None:
    with open_regular(folder, name) as fd:
        if fd is None:
            return None
        try:
            return os.getxattr(fd, OWNER_ATTRIBUTE).decode("ascii", "replace")
        except (OSError, AttributeError):  # not set, or not to be had here
            return None


def _was_written_by_a_task(folder: Folder, name: str) -> bool:
    return _owner(folder, name) is not None


def _name_is_taken(folder: Folder, name: str) -> Discard:
    if (folder.path / name).is_dir():
        return Discard(f"{name} is a directory")
    return Discard(f"{name} exists and another task wrote it; overwrite: true would replace it")


@contextmanager
def _disk_errors(directory: Path, variable: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise Retry(reason=f"{variable} {directory}: {what}") from error

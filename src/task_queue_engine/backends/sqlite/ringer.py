"""Tells other processes on the same file what a commit has changed."""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress

from task_queue_engine.backends.sqlite import bells
from task_queue_engine.backends.sqlite.bells import ATOMIC, END

logger = logging.getLogger("task_queue_engine.sqlite")

# Seconds. A folder's time is as coarse as the kernel's tick (10 ms at most): where it changed just
# before it was looked into, it may change again without its time telling.
_SETTLED = 0.05

# Pipe writes for one commit, for each process. More tasks than that are "some".
_MOST_WRITES = 4


class Ringer:
    """Rings the bells of all processes that listen for what has changed. Lives in the writer's
    thread.

    It never waits. A pipe without room belongs to a process that has not looked for a while, and
    finds out that it is full when it does.

    Args:
        own: names of the bells of this backend, which knows by itself.
        is_shared: whether this backend is in several hands, one of which listens to what another
            does.
        on_listeners: told the names of the bells for broadcasts, whenever they change.
    """

    def __init__(
        self,
        database: str,
        *,
        own: Collection[str],
        is_shared: Callable[[], bool],
        on_listeners: Callable[[frozenset[str]], object] = bool,
    ) -> None:
        self._database = database
        self._folder = bells.folder_of(database)
        self._own = own
        self._is_shared = is_shared
        self._on_listeners = on_listeners
        self._listeners: frozenset[str] = frozenset()
        self._known: tuple[int, ...] | None = None
        """The folder as it was looked into; None where it has to be looked into again."""
        self._bells: dict[str, tuple[str, int]] = {}
        """By name: topic, and a file descriptor."""
        self._unreachable: dict[str, str] = {}
        self._is_quiet = False

    @property
    def trouble(self) -> str | None:
        """Why some process cannot be rung; None where all can. From any thread."""
        return next(iter(self._unreachable.values()), None)

    def ring(self, news: Mapping[str, Sequence[str]]) -> None:
        """After each commit: look who listens, and ring for each topic, with the ids of the tasks
        where there are any."""
        if not self._is_quiet:
            # A program that has set SIGPIPE to its default must not end for a reader that is gone.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
            self._is_quiet = True
        try:
            self._look_into_folder()
        except OSError as error:
            self.close()
            if news:
                self._cannot_ring(str(self._folder), error)
        for topic, task_ids in news.items():
            messages: list[bytes] | None = None
            for name in [name for name, (of, _) in self._bells.items() if of == topic]:
                if name not in self._own or self._is_shared():
                    messages = _pack(task_ids) if messages is None else messages
                    self._write(name, messages)

    def close(self) -> None:
        for _, descriptor in self._bells.values():
            os.close(descriptor)
        self._bells.clear()
        self._known = None

    def _look_into_folder(self) -> None:
        """Raises OSError where it may not be used."""
        asked_at = time.time()  # what changes after a pause in all this has a later time
        try:
            found = os.stat(self._folder)  # noqa: PTH116  # at every commit, as in files_in_use.py
        except OSError:
            self.close()
            self._note_listeners(frozenset())
            return
        now = (found.st_dev, found.st_ino, found.st_mtime_ns)
        if now == self._known:
            return
        bells.check_folder(self._database)
        there = {
            name: topic
            for name, topic in bells.names_in(self._folder)
            if topic != bells.LIVES  # its worker listens to nothing on it
        }
        self._note_listeners(
            frozenset(name for name, topic in there.items() if topic == bells.BROADCASTS)
        )
        for name in self._listeners:
            del there[name]
        self._known = now if asked_at - found.st_mtime > _SETTLED else None
        for name in set(self._bells) - set(there):
            os.close(self._bells.pop(name)[1])
        self._unreachable = {
            key: self._unreachable[key] for key in self._unreachable if key in there
        }
        for name in set(there) - set(self._bells):
            self._reach(name, there[name])

    def _note_listeners(self, names: frozenset[str]) -> None:
        if names != self._listeners:
            self._listeners = names
            self._on_listeners(names)

    def _reach(self, name: str, topic: str) -> None:
        try:
            self._bells[name] = (topic, bells.open_to_ring(self._folder / name))
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                self._cannot_ring(name, error)

    def _cannot_ring(self, name: str, error: OSError) -> None:
        trouble = (
            f"a process that uses the same database cannot be rung in {self._folder} "
            f"({error.strerror}): it finds what this one does by looking, later and at more cost"
        )
        if self.trouble is None:
            logger.warning("%s", trouble)
        self._unreachable[name] = trouble

    def _write(self, name: str, messages: Sequence[bytes]) -> None:
        descriptor = self._bells[name][1]
        try:
            for message in messages:
                os.write(descriptor, message)
        except BlockingIOError:
            pass  # see the class
        except OSError:  # its reader is gone
            del self._bells[name]
            os.close(descriptor)
            with suppress(OSError):
                (self._folder / name).unlink()


def _pack(task_ids: Sequence[str]) -> list[bytes]:
    """What is written to a pipe, each piece in one write."""
    pieces = list(_pieces(task_ids))
    return pieces if 0 < len(pieces) <= _MOST_WRITES else [END]


def _pieces(task_ids: Sequence[str]) -> Iterator[bytes]:
    piece = b""
    for task_id in task_ids:
        entry = task_id.encode() + END
        if len(piece) + len(entry) > ATOMIC:
            yield piece
            piece = b""
        piece += entry
    if piece:
        yield piece

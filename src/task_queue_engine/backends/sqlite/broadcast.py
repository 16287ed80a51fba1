"""What happens in one process, told to those on the same file that listen: by a bell that is there
only while its maker listens.

A message is written to a pipe in pieces that are written whole or not at all, each with its
writer's name and a number: where the pipe had no room a number is missing, and the reader knows.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from task_queue_engine.backends.base import Heard, TaskChange
from task_queue_engine.backends.sqlite import bells
from task_queue_engine.backends.sqlite.bells import ATOMIC, BROADCASTS, END, Bell
from task_queue_engine.backends.sqlite.doorbell import Doorbell

# Bytes in a listener's pipe, where the system allows it (Linux, to every user): a second of two
# thousand events.
_ROOM = 2**20
# Bytes of a message; what is longer is missed. A line of a log is a tenth of it.
_LONGEST = 2**16
# Of a piece: the name of its writer, a number, and what goes between them.
_HEAD = 48
# Writers that a listener remembers; each process is one.
_MOST_WRITERS = 1000


class Broadcast:
    """Of one backend. All but `tell_listeners` is in trio's thread.

    Args:
        is_shared: whether this backend is in several hands, one of which listens to what another
            does.
    """

    def __init__(self, database: str, *, doorbell: Doorbell, is_shared: Callable[[], bool]) -> None:
        self._database = database
        self._doorbell = doorbell
        self._is_shared = is_shared
        self._name = secrets.token_hex(8).encode()
        self._number = 0
        self._listeners: dict[str, int] = {}
        """By the name of the bell: a file descriptor."""
        self._to_tell: list[Callable[[bool], object]] = []
        self._is_asked = trio.Event()
        self._times_told = 0
        self._token: trio.lowlevel.TrioToken | None = None

    def open(self) -> None:
        self._token = trio.lowlevel.current_trio_token()

    def close(self) -> None:
        self._token = None
        for descriptor in self._listeners.values():
            os.close(descriptor)
        self._listeners.clear()

    def tell_listeners(self, names: frozenset[str]) -> None:
        """`set_listeners`, from the writer's thread."""
        if (token := self._token) is not None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._learn, names)

    def _learn(self, names: frozenset[str]) -> None:
        self._times_told += 1
        self.set_listeners(names)

    def on_listening(self, tell: Callable[[bool], object]) -> Callable[[], None]:
        self._to_tell.append(tell)
        self._tell()
        return lambda: self._to_tell.remove(tell)

    def set_listeners(self, names: frozenset[str]) -> None:
        if self._token is None:
            return
        for name in self._listeners.keys() - names:
            os.close(self._listeners.pop(name))
        for name in names - self._listeners.keys():
            with suppress(OSError):  # it has just gone, or is another user's
                path = bells.folder_of(self._database) / name
                self._listeners[name] = bells.open_to_ring(path)
        self._tell()

    def _tell(self) -> None:
        is_heard = any(map(self._is_others, self._listeners))
        for tell in self._to_tell:
            tell(is_heard)

    def _is_others(self, name: str) -> bool:
        return name not in self._doorbell.own or self._is_shared()

    def send(self, message: bytes) -> None:
        self._number += 1
        if len(message) > _LONGEST:
            return
        pieces = list(_pieces(b"%b %d " % (self._name, self._number), message))
        gone: list[str] = []
        with _without_sigpipe():
            for name, descriptor in self._listeners.items():
                if self._is_others(name):
                    try:
                        for piece in pieces:
                            os.write(descriptor, piece)
                    except BlockingIOError:
                        pass  # it is behind, and will see that a number is missing
                    except OSError:
                        gone.append(name)
        if gone:
            self.set_listeners(frozenset(self._listeners.keys() - gone))

    async def hear(
        self,
        heard: Callable[[Sequence[bytes]], object],
        *,
        missed: Callable[[int | None], object],
        hears: Callable[[bool], object],
    ) -> None:
        reading = Reading()

        def take(pieces: Sequence[bytes], _: bool) -> None:
            messages, lost = reading.take(pieces)
            if messages:
                heard(messages)
            if lost:
                missed(lost)

        def note(is_heard: bool) -> None:
            if is_heard and self._is_shared():
                self._is_asked.set()
            hears(is_heard)

        await self._doorbell.attend(partial(_make_and_announce, self._database), take, note)

    async def hear_of_listeners(self, heard: Heard, listen: Callable[[Heard], Any]) -> None:
        """Until cancelled, `listen` with `heard`, and look for listeners whenever all is to be
        looked at."""

        def both(task_ids: Collection[str] | None) -> None:
            if task_ids is None:
                self._is_asked.set()
            heard(task_ids)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_looking)
            await listen(both)

    async def _keep_looking(self) -> None:
        while True:
            await self._is_asked.wait()
            self._is_asked = trio.Event()
            before = self._times_told
            found = await trio.to_thread.run_sync(_find, self._database, BROADCASTS)
            if self._times_told == before:
                self.set_listeners(found)
            else:
                self._is_asked.set()  # what the writer has told meanwhile may be newer


class Reading:
    """Puts messages together from their pieces."""

    def __init__(self) -> None:
        self._writers: dict[bytes, _Writer] = {}

    def take(self, pieces: Sequence[bytes]) -> tuple[list[bytes], int]:
        """The messages that are complete, and how many were lost before one of them."""
        messages: list[bytes] = []
        lost = 0
        for piece in pieces:
            name, _, rest = piece.partition(b" ")
            digits, _, data = rest.partition(b" ")
            if not digits.isdigit() or data[:1] not in (b"+", b"."):
                continue  # of another version
            number = int(digits)
            writer = self._writers.get(name)
            if writer is None:
                if len(self._writers) == _MOST_WRITERS:
                    del self._writers[next(iter(self._writers))]
                writer = self._writers[name] = _Writer(number - 1)
            if number != writer.number:
                lost += number - writer.complete - 1
                writer.complete = number - 1
                writer.number, writer.begun = number, b""
            writer.begun += data[1:]
            if data[:1] == b".":
                messages.append(writer.begun)
                writer.complete, writer.begun = number, b""
        return messages, lost


@dataclass(slots=True)
class _Writer:
    complete: int
    """The number of its latest message that came whole."""
    number: int = 0
    """Of the message that is coming in."""
    begun: bytes = b""


def _pieces(head: bytes, message: bytes) -> Iterator[bytes]:
    size = ATOMIC - _HEAD
    last = max(0, len(message) - 1) // size * size
    for start in range(0, last + 1, size):
        mark = b"." if start == last else b"+"
        yield head + mark + message[start : start + size] + END


def _make_and_announce(database: str) -> Bell:
    """Raises OSError."""
    bell = bells.make(database, BROADCASTS, room=_ROOM)
    # Those at work look who listens when they are told that something has changed. Others do when
    # they have changed something themselves.
    with _without_sigpipe():
        for name in _find(database, TaskChange.CANCEL_ASKED.value):
            with suppress(OSError):
                descriptor = bells.open_to_ring(bells.folder_of(database) / name)
                try:
                    os.write(descriptor, END)
                finally:
                    os.close(descriptor)
    return bell


def _find(database: str, topic: str) -> frozenset[str]:
    try:
        bells.check_folder(database)
        found = bells.names_in(bells.folder_of(database))
        return frozenset(name for name, of in found if of == topic)
    except OSError:
        return frozenset()


def _without_sigpipe() -> AbstractContextManager[None]:
    """A program that has set it to its default must not end for a reader that is gone."""
    is_deadly = signal.getsignal(signal.SIGPIPE) is signal.SIG_DFL
    return _sigpipe_blocked() if is_deadly else nullcontext()


@contextmanager
def _sigpipe_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    try:
        yield
    finally:
        if signal.SIGPIPE in signal.sigpending() and signal.SIGPIPE not in before:
            signal.sigwait([signal.SIGPIPE])
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

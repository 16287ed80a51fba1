"""Threads that own a connection, and how trio tasks ask them for something. The one that writes is
in `writer_thread`."""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import apsw
import outcome
import trio

from task_queue_engine.backends.sqlite.failures import translate
from task_queue_engine.backends.sqlite.files_in_use import FilesInUse
from task_queue_engine.backends.sqlite.opening import connect
from task_queue_engine.backends.sqlite.transaction import Transaction, Work
from task_queue_engine.errors import BackendUnavailable

T = TypeVar("T")

logger = logging.getLogger("task_queue_engine.sqlite")

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process's write before BackendUnavailable."""

# Seconds between tries, at most. SQLite's own busy timeout pauses up to 0.1 s: beside a process
# that writes all the time it finds the lock free once in seconds (measured: 4 s without one commit;
# with this, at most 0.7 s, and more commits by all).
_BUSY_PAUSE = 0.002

# Requests in one transaction, at most: bounds how long the last of them waits.
_GROUP = 64

# Seconds beyond the busy timeout. A thread that hangs in the file system does not hold the exit of
# the process for ever.
_CLOSE_TIMEOUT = 10.0


@dataclass(slots=True, eq=False)
class Request:
    """A trio task waits for this work."""

    work: Work
    task: trio.lowlevel.Task
    spare: Work | None = None
    begun: threading.Lock = field(default_factory=threading.Lock)
    """Acquired once and for good, by whichever is first: the thread that begins the work, or the
    trio task that is cancelled before."""
    result: outcome.Outcome[Any] | None = None


class ConnectionThread(ABC):
    """One thread, one connection.

    What was begun is always finished: then the trio task that asked cannot be cancelled out of it.
    """

    def __init__(self, path: str, *, name: str, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._unanswered = 0
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._failure: BaseException | None = None
        self._ready = trio.Event()
        self._closing = False
        self._opening_cancelled = False
        self._busy_until = 0.0
        self.files: FilesInUse
        """Set when it is open: whether its files are still those of their names."""

    # --- in trio's thread -------------------------------------------------------------------

    async def open(self) -> None:
        """Connect. When this raises, the thread and its connection are gone.

        Raises:
            BackendRefused, BackendUnavailable: as `connect`.
        """
        self._token = trio.lowlevel.current_trio_token()
        self._thread.start()
        try:
            await self._ready.wait()
        except BaseException:
            self._opening_cancelled = True
            await self.close()
            raise
        if self._failure is not None:
            await self.close()
            raise self._failure

    @property
    def unanswered(self) -> int:
        """Requests that trio tasks wait for."""
        return self._unanswered

    # A Ctrl-C between handing over and waiting would end the task, and the thread would then wake
    # one that is gone, which trio does not survive.
    @trio.lowlevel.enable_ki_protection
    async def run(self, work: Callable[[Transaction], T], *, spare: Work | None = None) -> T:
        """`work(transaction)` in the thread; durable when it returns (writer). Where `spare`, which
        reads without the lock, has an answer that is not None, that is it.

        Raises:
            Cancelled: before the work was begun. From then on it is finished, whatever comes.
            BackendUnavailable, BackendRefused, and what `work` itself raises.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closing:
            raise BackendUnavailable("the backend is not open")
        request = Request(work, trio.lowlevel.current_task(), spare)
        self._requests.put(request)

        def abort(_: object) -> trio.lowlevel.Abort:
            withdrawn = request.begun.acquire(blocking=False)
            return trio.lowlevel.Abort.SUCCEEDED if withdrawn else trio.lowlevel.Abort.FAILED

        self._unanswered += 1
        try:
            result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self._unanswered -= 1
        return result

    async def close(self) -> None:
        """Finish what was handed over, then close the connection. Not cancellable; takes as long
        as the busy timeout at most, and a little longer where the file system hangs."""
        self._closing = True
        if self._thread.ident is None:
            return
        self._requests.put(None)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join, self._busy_timeout + _CLOSE_TIMEOUT)

    def _answer(self, group: Sequence[Request]) -> None:
        for request in group:
            result = request.result or outcome.Error(BackendUnavailable(f"{self._path}: closed"))
            trio.lowlevel.reschedule(request.task, result)

    def _end(self) -> None:
        """The thread is at its end: whatever still waits for it is answered."""
        self._closing = True
        self._answer(self._begin_waiting(limit=None))
        self._ready.set()

    # --- in the thread itself ---------------------------------------------------------------

    def _serve(self) -> None:
        connection: apsw.Connection | None = None
        try:
            try:
                connection = connect(self._path, self._wait_for_lock)
                self.files = FilesInUse(self._path)
            except BaseException as error:  # noqa: BLE001  # raised by open()
                self._failure = error
                return
            self._tell(self._ready.set)
            while (first := self._requests.get()) is not None:
                group: list[Request] = []
                try:
                    self._carry_out(connection, first, group)
                finally:
                    if first.begun.acquire(blocking=False):
                        group.append(first)
                    self._tell(self._answer, group)
        finally:
            if connection is not None:
                # Everything is committed; what could not be tidied up, the next opening does.
                with contextlib.suppress(apsw.Error):
                    connection.close()
            self._tell(self._end)

    @abstractmethod
    def _carry_out(self, connection: apsw.Connection, first: Request, group: list[Request]) -> None:
        """Fill `group` by `_begin`, and give each of them its result."""

    def _begin(self, first: Request, group: list[Request]) -> None:
        """Take `first` and what else is waiting, without what was cancelled meanwhile."""
        if first.begun.acquire(blocking=False):
            group.append(first)
        group += self._begin_waiting(limit=_GROUP - 1)

    def _begin_waiting(self, *, limit: int | None) -> list[Request]:
        begun: list[Request] = []
        while limit is None or len(begun) < limit:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                break
            if request is None:
                if limit is not None:
                    self._requests.put(None)  # the end, for later; nothing comes after it
                    break
            elif request.begun.acquire(blocking=False):
                begun.append(request)
        return begun

    def _outcome(self, function: Callable[..., T], *args: Any) -> outcome.Outcome[T]:
        """Call it; SQLite's errors become the engine's."""
        try:
            return outcome.Value(function(*args))
        except apsw.Error as error:
            return outcome.Error(translate(error, self._path) or error)
        # Raised again in the trio task that asked; the thread goes on.
        except BaseException as error:  # noqa: BLE001
            return outcome.Error(error)

    def _wait_for_lock(self, tries: int) -> bool:
        now = time.monotonic()
        if tries == 0:
            self._busy_until = now + self._busy_timeout
        if now >= self._busy_until or self._opening_cancelled:
            return False
        # At random: two that wait in step meet again and again.
        time.sleep(_BUSY_PAUSE * random.uniform(0.25, 1))  # noqa: S311  # no secret
        return True

    def _tell(self, function: Callable[..., object], *args: Any) -> None:
        # The trio run may be over where it was ended without closing the backend.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, *args)


class ReaderThread(ConnectionThread):
    """Answers one after the other, each from the state of its own moment."""

    def _carry_out(self, connection: apsw.Connection, first: Request, group: list[Request]) -> None:
        self._begin(first, group)
        for request in group:
            request.result = self._outcome(request.work, Transaction(connection))

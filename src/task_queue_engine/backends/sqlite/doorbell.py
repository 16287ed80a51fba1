"""Hears what other processes on the same file have changed, in place of looking for it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from task_queue_engine.backends.base import Heard
from task_queue_engine.backends.sqlite import bells
from task_queue_engine.backends.sqlite.bells import ATOMIC, END, Bell

logger = logging.getLogger("task_queue_engine.sqlite")

# Seconds between looks whether the pipe is still in its place, where a cleanup may have removed it.
_CHECK_EVERY = 30.0

# Seconds until the next try where it could not be made: a folder that was full or read-only may be
# mended.
_RETRY_EVERY = 60.0

Take = Callable[[Sequence[bytes], bool], None]
"""Called with what has been written to a bell, and whether some of it may have found no room."""


class Doorbell:
    """The bells of one backend."""

    def __init__(self, database: str) -> None:
        self._database = database
        self.own: set[str] = set()
        """Names of the pipes that this backend itself listens to."""
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why others are not heard; None where they are."""
        return self._trouble

    async def listen(
        self,
        topic: str,
        heard: Heard,
        *,
        hears: Callable[[bool], object],
        wanted: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        """Until cancelled, call `heard` with what others ring.

        Args:
            hears: told whether they are heard, whenever that changes.
            wanted: waits until something is to be heard; what is rung before lies in the pipe, and
                what finds no room in it is not missed: None is heard then.
        """

        def take(entries: Sequence[bytes], is_full: bool) -> None:
            if is_full or b"" in entries:
                heard(None)
            elif entries:
                heard([task_id.decode(errors="replace") for task_id in entries])

        await self.attend(partial(bells.make, self._database, topic), take, hears, wanted)

    async def attend(
        self,
        make: Callable[[], Bell],
        take: Take,
        hears: Callable[[bool], object],
        wanted: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        """The same, of bells that `make` makes in a thread."""
        while True:
            try:
                bell = await trio.to_thread.run_sync(make)
                self._can()
                await self._attend(bell, take, hears, wanted)
            except OSError as error:
                self._cannot(error)
                await trio.sleep(_RETRY_EVERY)

    async def _attend(
        self,
        bell: Bell,
        take: Take,
        hears: Callable[[bool], object],
        wanted: Callable[[], Awaitable[None]],
    ) -> None:
        self.own.add(bell.path.name)
        try:
            hears(True)
            take((), True)  # what came before has not been heard
            await _hear(bell, take, wanted)
        finally:
            hears(False)
            self.own.discard(bell.path.name)
            trio.lowlevel.notify_closing(bell.reader)
            bell.remove()

    def _cannot(self, error: OSError) -> None:
        place = bells.folder_of(self._database)
        trouble = (
            f"no doorbell in {place} ({error.strerror}): what other processes do is found by "
            "looking, later and at more cost; check that this user may write there"
        )
        if trouble != self._trouble:
            logger.warning("%s", trouble)
        self._trouble = trouble

    def _can(self) -> None:
        if self._trouble is not None:
            logger.info("the doorbell in %s works now", bells.folder_of(self._database))
        self._trouble = None


async def _hear(bell: Bell, take: Take, wanted: Callable[[], Awaitable[None]]) -> None:
    """Until the bell is no longer in its place."""
    rest = b""
    while True:
        await wanted()
        with trio.move_on_after(_CHECK_EVERY) as waiting:
            await trio.lowlevel.wait_readable(bell.reader)
        if waiting.cancelled_caught and not bell.is_there:
            return
        data = bell.take()
        if not data:
            continue
        *entries, rest = (rest + data).split(END)
        is_full = len(data) >= bell.half_full
        if len(rest) > ATOMIC:
            is_full, rest = True, b""
        take(entries, is_full)

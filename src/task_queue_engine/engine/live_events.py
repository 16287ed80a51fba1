"""What happens to tasks while someone watches: of this process as its actors say it, of others as
they broadcast it or as their rows show it, in one order for all that watch.

While no one does, `is_wanted` is False, and nothing is told or kept.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import trio

from task_queue_engine.actors.messages import Attempt, Errored, Outcome, Progressed
from task_queue_engine.attempt_record import LogLine
from task_queue_engine.backends.base import Backend, BroadcastingBackend
from task_queue_engine.clock import Clock
from task_queue_engine.engine.event_order import Seen, states_of
from task_queue_engine.engine.event_reader import Entry, Reader, size_of
from task_queue_engine.engine.hooks import outcome_in_one_word
from task_queue_engine.retry import GiveUp, RetryAt, SnoozeUntil
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_events import (
    GapEvent,
    LogEvent,
    OfTask,
    ProgressEvent,
    StateEvent,
    log_of,
    progress_of,
    state_of,
)

# What is kept for those who come back: five seconds of two thousand events, in five megabytes.
_MOST_KEPT = 10_000
_MOST_BYTES_KEPT = 5 * 2**20
# Seconds for which it is kept on after the last has gone: a connection that broke is back by then.
_KEPT_FOR = 30.0
# Tasks whose order is watched over; far more than run at a time.
_MOST_TASKS = 20_000
# Lines of threads that wait for the loop's next turn.
_MOST_FROM_THREADS = 10_000
# Seconds. What the store says, and the task's own process has not said yet, is most likely on its
# way from there, with the lines and the progress that came before it.
_DOUBT = 0.5
# Seconds that a reader waits at most for the others to be heard: that takes milliseconds.
_HEAR_WITHIN = 1.0

logger = logging.getLogger("task_queue_engine.events")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(OfTask).decode


class LiveEvents:
    """The events of one engine. It is the actors' `Feed`."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.is_wanted = False
        self.hears_others = isinstance(backend, BroadcastingBackend)
        """Others tell what they do. Else their rows say it."""
        self.on_state: Callable[[StateEvent, bool], object] | None = None
        """Called with each state while someone watches all tasks, and whether the task's process
        said it."""
        self._backend = backend
        self._clock = clock
        self._name = secrets.token_hex(8)
        self._is_listened_to = False
        self._readers_of: dict[str, set[Reader]] = {}
        self._readers_of_all: set[Reader] = set()
        self._someone_reads = trio.Event()
        self._last_has_gone = trio.Event()
        self._is_kept = False
        self._number = 0
        self._kept: deque[Entry] = deque()
        self._bytes_kept = 0
        self._kept_from = 1
        """The number of the first event that is not missing here."""
        self._known: OrderedDict[str, Seen] = OrderedDict()
        self._hears = trio.Event()
        self._thread = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._from_threads: deque[LogEvent] = deque()
        self._lost_from_threads = 0
        self._has_failed = False

    # --- what happens here ------------------------------------------------------------------

    def changed(self, task: Task) -> None:
        if self.is_wanted:
            for state in states_of(task, self._clock.now()):
                self._tell(state)

    def recorded(self, outcome: Outcome, status: TaskStatus) -> None:
        """What an attempt came to is in the store, and has made this of the task."""
        if isinstance(outcome, Progressed):
            return
        task = outcome.attempt.task
        decision = outcome.decision if isinstance(outcome, Errored) else None
        run_at = None
        if isinstance(decision, RetryAt | SnoozeUntil) and status is TaskStatus.PENDING:
            run_at = decision.run_at
        is_cancelled = status is TaskStatus.CANCELLED
        self._tell(
            StateEvent(
                task_id=task.id,
                type=task.type,
                queue=task.queue,
                status=status,
                attempt=task.attempt,
                retry_count=task.retry_count + isinstance(decision, RetryAt | GiveUp),
                at=self._clock.now(),
                outcome="cancelled" if is_cancelled else outcome_in_one_word(outcome),
                run_at=run_at,
            )
        )

    def progressed(self, attempt: Attempt, value: Any) -> None:
        task = attempt.task
        self._tell(
            ProgressEvent(
                task_id=task.id,
                type=task.type,
                queue=task.queue,
                attempt=task.attempt,
                at=self._clock.now(),
                progress=value,
            )
        )

    def logged(self, task: Task, line: LogLine) -> None:
        if not self.is_wanted:
            return
        event = log_of(task, task.attempt, line)
        if threading.get_ident() == self._thread:
            self._tell(event)
            return
        if len(self._from_threads) >= _MOST_FROM_THREADS:
            self._lost_from_threads += 1
            return
        self._from_threads.append(event)
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._take_from_threads, idempotent=True)

    def _take_from_threads(self) -> None:
        for _ in range(len(self._from_threads)):
            self._tell(self._from_threads.popleft())
        if self._lost_from_threads:
            lost, self._lost_from_threads = self._lost_from_threads, 0
            self._missed(lost)

    def _tell(self, event: OfTask) -> None:
        try:
            if self._is_listened_to and isinstance(self._backend, BroadcastingBackend):
                self._backend.broadcast(_encode([self._name, event]))
            if self._is_kept:
                self._add(event, is_direct=True)
        # Whatever is wrong with showing it: the task itself goes on.
        except Exception:
            if not self._has_failed:
                logger.exception("an event could not be shown; further ones are not logged")
            self._has_failed = True

    # --- what happens elsewhere -------------------------------------------------------------

    def learn(self, task: Task) -> None:
        """As it is in the store; nothing new to those who watch all tasks."""
        if self._is_kept and task.id not in self._known:
            self._remember(task.id, Seen.as_in(task))

    def in_store(self, task: Task, *, is_new: bool = False) -> None:
        """The store has it so now.

        Args:
            is_new: where nothing is known of it, this is news.
        """
        if not self._is_kept:
            return
        event = state_of(task)
        seen = self._known.get(task.id)
        if seen is None:
            if is_new:
                self._add(event)
            else:
                self.learn(task)
            return
        is_told = self.hears_others or seen.direct == task.attempt
        if not seen.is_news(event):
            seen.doubted_since = None
        elif is_told and not _is_doubted_long(seen):
            return
        else:
            seen.doubted_since = None
            self._add(event)
        if task.progress is not None and task.progress != seen.progress and not is_told:
            self._add(progress_of(task))

    def is_told_of(self, task_id: str, attempt: int, *, from_start: bool = False) -> bool:
        """Whether the lines of this attempt come as they are logged: from now on, or all."""
        seen = self._known.get(task_id)
        return seen is not None and attempt == (seen.begun if from_start else seen.direct)

    def _heard(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            try:
                name, event = msgspec.json.decode(message, type=tuple[str, msgspec.Raw])
                if name != self._name:
                    self._add(_decode(event), is_direct=True)
            except msgspec.DecodeError:
                continue  # of a newer version, of which this one knows nothing

    def _missed(self, count: int | None) -> None:
        if self._is_kept:
            self._put(GapEvent(reason="too much happened at a time", missed=count), 100)

    def _set_hears(self, hears: bool) -> None:
        if hears:
            self._hears.set()
        elif self._hears.is_set():
            self._hears = trio.Event()
            self._missed(None)

    # --- order and keeping ------------------------------------------------------------------

    def _add(self, event: OfTask, *, is_direct: bool = False) -> None:
        seen = self._known.get(event.task_id)
        if seen is None:
            seen = self._remember(event.task_id, Seen())
        if is_direct:
            seen.direct = max(seen.direct, event.attempt)
            if isinstance(event, StateEvent) and event.status is TaskStatus.PROCESSING:
                seen.begun = max(seen.begun, event.attempt)
            seen.doubted_since = None
        if seen.is_news(event):
            seen.note(event)
            self._put(event, size_of(event))
            if self.on_state and self._readers_of_all and isinstance(event, StateEvent):
                self.on_state(event, is_direct)

    def _remember(self, task_id: str, seen: Seen) -> Seen:
        if len(self._known) >= _MOST_TASKS:
            self._known.popitem(last=False)
        self._known[task_id] = seen
        return seen

    def _put(self, event: OfTask | GapEvent, size: int) -> None:
        self._number += 1
        entry = Entry(self._number, event, size)
        self._kept.append(entry)
        self._bytes_kept += size
        while len(self._kept) > _MOST_KEPT or self._bytes_kept > _MOST_BYTES_KEPT:
            first = self._kept.popleft()
            self._bytes_kept -= first.size
            self._kept_from = first.number + 1
        for reader in self._readers_of_all:
            reader.offer(entry)
        if isinstance(event, GapEvent):
            for readers in self._readers_of.values():
                for reader in readers:
                    reader.offer(entry)
        else:
            for reader in self._readers_of.get(event.task_id, ()):
                reader.offer(entry)

    # --- those who watch --------------------------------------------------------------------

    def add_reader(self, reader: Reader, after: str | None) -> bool:
        """From now on it gets what it wants; and what came behind `after`, where that is still
        kept: else False."""
        self._is_kept = self.is_wanted = True
        if reader.task_id is None:
            self._readers_of_all.add(reader)
        else:
            self._readers_of.setdefault(reader.task_id, set()).add(reader)
        self._someone_reads.set()
        name, _, digits = (after or "").partition("-")
        is_mine = name == self._name and digits.isascii() and digits.isdigit()
        if not is_mine or not self._kept_from - 1 <= int(digits[:20]) <= self._number:
            return False
        number = int(digits[:20])
        for entry in self._kept:
            if entry.number > number and reader.is_about(entry.event):
                reader.offer(entry)
        return True

    def remove_reader(self, reader: Reader) -> None:
        self._readers_of_all.discard(reader)
        if reader.task_id is not None:
            readers = self._readers_of.get(reader.task_id, set())
            readers.discard(reader)
            if not readers:
                self._readers_of.pop(reader.task_id, None)
        if not self._has_readers:
            self._last_has_gone.set()

    @property
    def watches_all(self) -> bool:
        return bool(self._readers_of_all)

    @property
    def _has_readers(self) -> bool:
        return bool(self._readers_of_all or self._readers_of)

    @property
    def position(self) -> str:
        """The id of the latest event."""
        return self.id_of(self._number)

    def id_of(self, number: int) -> str:
        return f"{self._name}-{number}"

    def seen(self, task_id: str) -> Seen | None:
        return self._known.get(task_id)

    async def until_others_are_heard(self) -> None:
        if self.hears_others:
            with trio.move_on_after(_HEAR_WITHIN):
                await self._hears.wait()

    # --- life -------------------------------------------------------------------------------

    async def run(self, watch_others: Callable[[], Any]) -> None:
        """Hear others while someone watches, until cancelled.

        Args:
            watch_others: runs while someone watches, where others are not heard.
        """
        self._thread, self._token = threading.get_ident(), trio.lowlevel.current_trio_token()
        forget: Callable[[], None] | None = None
        if isinstance(self._backend, BroadcastingBackend):
            forget = self._backend.on_listening(self._set_listened_to)
        try:
            while True:
                await self._someone_reads.wait()
                async with trio.open_nursery() as nursery:
                    if isinstance(self._backend, BroadcastingBackend):
                        nursery.start_soon(self._hear, self._backend)
                    else:
                        nursery.start_soon(watch_others)
                    await self._until_all_have_gone()
                    self._stop_keeping()
                    nursery.cancel_scope.cancel()
        finally:
            if forget is not None:
                forget()
            self._is_listened_to = False
            self._stop_keeping()

    async def _hear(self, backend: BroadcastingBackend) -> None:
        await backend.hear_broadcasts(self._heard, missed=self._missed, hears=self._set_hears)

    async def _until_all_have_gone(self) -> None:
        while True:
            if self._has_readers:
                self._last_has_gone = trio.Event()
                await self._last_has_gone.wait()
            self._someone_reads = trio.Event()
            with trio.move_on_after(_KEPT_FOR):
                await self._someone_reads.wait()
            if not self._has_readers:
                return

    def _stop_keeping(self) -> None:
        self._is_kept = False
        self.is_wanted = self._is_listened_to
        # From here on something is missing: no one goes on behind what was shown before.
        self._number += 1
        self._kept_from = self._number + 1
        self._kept.clear()
        self._bytes_kept = 0
        self._known.clear()
        self._hears = trio.Event()

    def _set_listened_to(self, is_listened_to: bool) -> None:
        self._is_listened_to = is_listened_to
        self.is_wanted = is_listened_to or self._is_kept

    def close(self) -> None:
        """The engine has ended."""
        for readers in (self._readers_of_all, *self._readers_of.values()):
            for reader in readers:
                reader.close()


def _is_doubted_long(seen: Seen) -> bool:
    now = trio.current_time()
    if seen.doubted_since is None:
        seen.doubted_since = now
    return now - seen.doubted_since >= _DOUBT

"""The queue: messages that name a task, leased by making them invisible for a while."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from task_queue_engine.backends.base import (
    DeadLettering,
    Delivery,
    Message,
    QueueCapabilities,
    QueueDepth,
    QueueVerdict,
    TooLarge,
)
from task_queue_engine.backends.sqlite.bells import topic_of_messages
from task_queue_engine.backends.sqlite.clock_watch import TOLERANCE, ClockWatch
from task_queue_engine.backends.sqlite.database_file import DatabaseFile
from task_queue_engine.backends.sqlite.dead_letters import SqliteDeadLetters
from task_queue_engine.backends.sqlite.doorbell import Doorbell
from task_queue_engine.backends.sqlite.messages import MAX_DELAY, Messages, refuse_bad_delays
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.backends.sqlite.writer_thread import Parking
from task_queue_engine.clock import Clock

T = TypeVar("T")

logger = logging.getLogger("task_queue_engine.sqlite")

LOOK_EVERY = 0.05
"""Seconds between looks for messages that another process sent, where it is not heard: what a task
of another process waits at most, at the price of 20 reads a second by an idle worker."""

LOOK_EVERY_WHERE_HEARD = 1.0
"""Seconds, where other processes ring. What has been missed, or was sent by a process of an older
version, waits no longer; and a look a second costs an idle worker nothing to speak of."""

LOOK_AGAIN = -math.inf
"""Of a look that has not come to an end."""

# Messages that are counted one by one: about a millisecond's work, whatever the queue's length.
_COUNTED = 10_000
_COUNT = (
    "SELECT count(*) FROM (SELECT 1 FROM messages "
    "WHERE queue = ? AND visible_at {relation} ? AND leased = 0 LIMIT ?)"
)
_EARLIEST = "SELECT min(visible_at) FROM messages WHERE queue = ?"
# Hidden by a time of day that is yet to come again: from now, for as long as was meant then.
_RETIME = (
    "UPDATE messages SET visible_at = :now + (visible_at - hidden_at), hidden_at = :now "
    "WHERE queue = :queue AND visible_at > :now AND hidden_at > :now + :tolerance"
)


class SqliteQueue:
    """One queue in the file.

    `depth` counts a message as in flight from its receipt until it is deleted, given back or
    received again; a lapsed lease is noticed by the next receive.
    """

    max_batch = 256
    max_delay = MAX_DELAY
    capabilities = QueueCapabilities()

    def __init__(self, name: str, *, file: DatabaseFile, clock: Clock) -> None:
        self._name = name
        self._file = file
        self._watch = ClockWatch(clock)
        self._retimed = -1
        self._dead_letters = SqliteDeadLetters(name, file=file)
        self._changed = trio.Event()
        self._parkings: list[Parking] = []
        self._topic = topic_of_messages(name)
        self.messages = Messages(name)
        self.hears_others = False
        """Whether other processes say at once when they make messages visible."""
        self._receivers = 0
        self._wanted = trio.Event()

    @property
    def name(self) -> str:
        return self._name

    @property
    def dead_letters(self) -> SqliteDeadLetters:
        return self._dead_letters

    # --- sending and receiving --------------------------------------------------------------

    def too_large(self, message: Message) -> TooLarge | None:
        """None: a message holds the task's id alone."""
        return None

    async def send(self, messages: Sequence[Message]) -> list[QueueVerdict]:
        verdicts, good = refuse_bad_delays([message.delay for message in messages])
        now = self._watch.now()
        rows = [(messages[i].task.id, now + round(messages[i].delay * 1e6)) for i in good]

        await self._file.write(lambda t: self.messages.put(t, rows, now))
        self.wake()
        return verdicts

    def now(self) -> int:
        """In microseconds, as it is kept."""
        return self._watch.now()

    @property
    def times_set_back(self) -> int:
        """How often the machine's clock was."""
        return self._watch.times_set_back

    async def receive(self, max_messages: int, *, wait: float, visibility: float) -> list[Delivery]:
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")

        def take(transaction: Transaction, now: int) -> list[Delivery]:
            until = now + round(visibility * 1e6)
            return self.messages.take(transaction, max_messages, now, until)

        return await self.take_when_visible(take, wait=wait)

    async def take_when_visible(
        self,
        take: Callable[[Transaction, int], list[T] | None],
        *,
        wait: float,
        look: Callable[[Transaction, int], float] | None = None,
    ) -> list[T]:
        """`take(transaction, now)` until it takes something, or `wait` seconds are over. None from
        it ends the wait: there is something, and it is left there.

        Args:
            look: when it could take something, by a read; `LOOK_AGAIN`: to be asked once more.
                None: as soon as a message is visible.
        """
        deadline = trio.current_time() + wait
        while True:
            changed = self._changed
            await self._after_set_back()
            taken: list[T] | None = []
            if look is None:
                taken = await self._take_if_visible(take)
            elif await self._seconds_to_next(look) <= 0:
                now = self._watch.now()
                taken = await self._file.write(lambda t: take(t, now))  # noqa: B023  # done before the next turn
            if taken is None:
                return []
            if taken:
                return taken
            found = await self._wait_for_visible(changed, deadline, take, look or self._earliest)
            if not found:
                return []
            if found is not True:
                return found

    async def _take_if_visible(
        self, take: Callable[[Transaction, int], list[T] | None]
    ) -> list[T] | None:
        """Without the file's lock, for which others may be waiting, where nothing is."""
        now = self._watch.now()
        return await self._file.write(
            lambda t: take(t, now), spare=lambda t: [] if self._earliest(t, now) > now else None
        )

    def _earliest(self, transaction: Transaction, _: int) -> float:
        """When the first message is visible."""
        ((earliest,),) = transaction.execute(_EARLIEST, (self._name,)).fetchall()
        return math.inf if earliest is None else float(earliest)

    async def _after_set_back(self) -> None:
        """A clock set back hides what has no delay, and leases, until it has caught up: measure
        both anew. Another process may have set them before it ended, so once at the start too."""
        now = self._watch.now()
        times = self._watch.times_set_back
        if times == self._retimed:
            return
        values = {"queue": self._name, "now": now, "tolerance": TOLERANCE}

        def work(transaction: Transaction) -> int:
            before = transaction.changes()
            transaction.execute(_RETIME, values)
            return transaction.changes() - before

        number = await self._file.write(work)
        self._retimed = times
        if number:
            logger.warning(
                "the machine's clock was set back: %d messages of queue %s were hidden until times "
                "by the earlier clock, and are measured by the present one now",
                number,
                self._name,
            )

    async def _wait_for_visible(
        self,
        changed: trio.Event,
        deadline: float,
        take: Callable[[Transaction, int], list[T] | None],
        look: Callable[[Transaction, int], float],
    ) -> list[T] | bool:
        """Wait until a message may be visible; False when `deadline` came first.

        What this process sends or gives back meanwhile is taken in the very transaction that brings
        it: then this returns what was taken. Other processes say so at once while `listen` runs.
        Beneath that is a look every so often, which takes a read and no lock.
        """
        with self._listening():
            while (left := deadline - trio.current_time()) > 0:
                until_visible = await self._seconds_to_next(look)
                if until_visible <= 0 or changed.is_set():
                    return True
                look_in = LOOK_EVERY_WHERE_HEARD if self.hears_others else LOOK_EVERY
                with trio.move_on_after(min(left, until_visible, look_in)):
                    return await self._park(take) or True
            return False

    async def _park(self, take: Callable[[Transaction, int], list[T] | None]) -> list[T] | None:
        parking = Parking()
        self._parkings.append(parking)
        try:
            return await self._file.park(self._topic, lambda t: take(t, t.at), parking)
        finally:
            self._parkings.remove(parking)

    async def _seconds_to_next(self, look: Callable[[Transaction, int], float]) -> float:
        earliest = LOOK_AGAIN
        while earliest == LOOK_AGAIN:
            now = self._watch.now()
            earliest = await self._file.read(lambda t: look(t, now))  # noqa: B023  # as above
        now = self._watch.now()
        if self._watch.times_set_back != self._retimed:
            return 0.0
        return (earliest - now) / 1e6

    def wake(self) -> None:
        """Let receivers that wait look again."""
        self._changed.set()
        self._changed = trio.Event()
        for parking in self._parkings:
            if parking.leave is not None:
                parking.leave()

    async def listen(self, doorbell: Doorbell) -> None:
        """Until cancelled, wake receivers when other processes make messages visible."""

        def hears(heard: bool) -> None:
            self.hears_others = heard
            self.wake()  # those that wait look at other times from now on

        await doorbell.listen(
            self._topic, lambda _: self.wake(), hears=hears, wanted=self._until_received
        )

    async def _until_received(self) -> None:
        # A receiver that finds work at every turn is not to be disturbed by each commit of others.
        while not self._receivers:
            await self._wanted.wait()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self._receivers += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._receivers -= 1
            if not self._receivers:
                self._wanted = trio.Event()

    # --- what is held -----------------------------------------------------------------------

    async def extend(
        self, deliveries: Sequence[Delivery], *, visibility: float
    ) -> list[QueueVerdict]:
        now = self._watch.now()
        until = now + round(visibility * 1e6)
        return await self._file.write(lambda t: self.messages.extend(t, deliveries, now, until))

    async def release(self, items: Sequence[tuple[Delivery, float]]) -> list[QueueVerdict]:
        now = self._watch.now()
        answered = await self._file.write(lambda t: self.messages.release(t, items, now))
        self.wake()
        return answered

    async def delete(self, deliveries: Sequence[Delivery]) -> list[QueueVerdict]:
        return await self._file.write(lambda t: self.messages.delete(t, deliveries))

    async def dead_letter(self, items: Sequence[DeadLettering]) -> list[QueueVerdict]:
        return await self._file.write(lambda t: self.messages.dead_letter(t, items))

    # --- looking ----------------------------------------------------------------------------

    async def depth(self) -> QueueDepth:
        """`delayed` is exact where no more than 10,000 messages are delayed, or are not; else it is
        at least that many."""
        names = tuple(f"{kind}:{self._name}" for kind in ("messages", "leased", "dead"))
        now = self._watch.now()

        def look(transaction: Transaction) -> QueueDepth:
            execute = transaction.execute
            found = dict(
                execute("SELECT name, n FROM counters WHERE name IN (?, ?, ?)", names).fetchall()
            )
            messages, leased, dead = (found.get(name, 0) for name in names)
            waiting = messages - leased
            oldest_age = max(0.0, (now - self._earliest(transaction, now)) / 1e6)
            place = (self._name, now, _COUNTED)
            ((delayed,),) = execute(_COUNT.format(relation=">"), place).fetchall()
            if delayed == _COUNTED:
                ((due,),) = execute(_COUNT.format(relation="<="), place).fetchall()
                delayed = max(delayed, waiting - due) if due < _COUNTED else delayed
            return QueueDepth(
                waiting=waiting,
                delayed=delayed,
                in_flight=leased,
                dead=dead,
                oldest_age=oldest_age,
            )

        return await self._file.read(look)

"""The queue: messages that name a task, leased by making them invisible for a while."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import trio

from task_queue_engine.backends.base import (
    DeadLettering,
    Delivery,
    Done,
    LeaseLost,
    Message,
    QueueCapabilities,
    QueueDepth,
    QueueVerdict,
    Rejected,
    TooLarge,
)
from task_queue_engine.backends.sqlite import dead_letters
from task_queue_engine.backends.sqlite.batches import Batch, JsonRows
from task_queue_engine.backends.sqlite.clock_watch import TOLERANCE, ClockWatch
from task_queue_engine.backends.sqlite.database_file import DatabaseFile
from task_queue_engine.backends.sqlite.dead_letters import ID, SqliteDeadLetters
from task_queue_engine.backends.sqlite.rows import LARGE_PAYLOAD
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.clock import Clock

T = TypeVar("T")

logger = logging.getLogger("task_queue_engine.sqlite")

MAX_DELAY = 900.0
"""Seconds, as SQS: what is longer waits in the store, the same on every backend."""

LOOK_EVERY = 0.05
"""Seconds between looks for messages that another process sent: what a task of another process
waits at most, at the price of 20 reads a second by an idle worker."""

_RECEIPT = re.compile(rf"({ID.pattern})\.({ID.pattern})", re.ASCII)

_SEND = Batch(
    "WITH new (task_id, visible_at) AS (VALUES {rows}) "
    "INSERT INTO messages (queue, task_id, visible_at, hidden_at, receive_count, leased) "
    "SELECT ?, task_id, visible_at, ?, 0, 0 FROM new WHERE task_id IS NOT NULL",
    width=2,
)
# With type and payload, by which a worker sees what it cannot run before it claims it.
_VISIBLE = (
    "SELECT '[[' || group_concat(concat_ws(',', m.id, json_quote(m.task_id), m.receive_count, "
    "m.leased, json_quote(ifnull(type, '')), "
    f"ifnull(payload, ifnull(({LARGE_PAYLOAD}), 'null'))), '],[' ORDER BY m.visible_at, m.id) "
    "|| ']]' FROM (SELECT * FROM messages WHERE queue = ? AND visible_at <= ? "
    "ORDER BY visible_at, id LIMIT ?) AS m LEFT JOIN tasks ON tasks.id = m.task_id"
)
_visible = JsonRows(tuple[int, str, int, int, str, msgspec.Raw])
_LEASE = Batch(
    "UPDATE messages SET visible_at = ?, hidden_at = ?, receive_count = receive_count + 1, "
    "leased = 1 WHERE id IN (VALUES {rows})",
    width=1,
)
# Messages that are counted one by one: about a millisecond's work, whatever the queue's length.
_COUNTED = 10_000
_COUNT = (
    "SELECT count(*) FROM (SELECT 1 FROM messages "
    "WHERE queue = ? AND visible_at {relation} ? AND leased = 0 LIMIT ?)"
)
# The plus keeps SQLite from looking through the whole queue instead of for these ids.
_LEASED = Batch(
    "SELECT json_group_array(json_array(id, receive_count)) FROM messages "
    "WHERE id IN (VALUES {rows}) AND +queue = ? AND leased = 1",
    width=1,
)
_leased = JsonRows(tuple[int, int])
_EXTEND = Batch(
    "UPDATE messages SET visible_at = ?, hidden_at = ? WHERE id IN (VALUES {rows})", width=1
)
_RELEASE = Batch(
    "WITH given_back (id, visible_at) AS (VALUES {rows}) "
    "UPDATE messages SET visible_at = given_back.visible_at, hidden_at = ?, leased = 0 "
    "FROM given_back WHERE messages.id = given_back.id",
    width=2,
)
# Hidden by a time of day that is yet to come again: from now, for as long as was meant then.
_RETIME = (
    "UPDATE messages SET visible_at = :now + (visible_at - hidden_at), hidden_at = :now "
    "WHERE queue = :queue AND visible_at > :now AND hidden_at > :now + :tolerance"
)
_DELETE = Batch("DELETE FROM messages WHERE id IN (VALUES {rows})", width=1)


_DONE, _LOST = Done(), LeaseLost()


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
        verdicts, good = _refuse_bad_delays([message.delay for message in messages])
        now = self._watch.now()
        rows = [(messages[i].task.id, now + round(messages[i].delay * 1e6)) for i in good]

        await self._file.write(lambda t: self.put(t, rows, now))
        self.wake()
        return verdicts

    def put(self, transaction: Transaction, rows: Sequence[tuple[str, int]], now: int) -> None:
        """Messages: task id, and when it becomes visible."""
        _SEND.run(transaction.execute, rows, after=(self._name, now))
        transaction.counters[f"messages:{self._name}"] += len(rows)

    def now(self) -> int:
        """In microseconds, as it is kept."""
        return self._watch.now()

    async def receive(self, max_messages: int, *, wait: float, visibility: float) -> list[Delivery]:
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")

        def take(transaction: Transaction, now: int) -> list[Delivery]:
            return self._take(transaction, max_messages, now, now + round(visibility * 1e6))

        return await self.take_when_visible(take, wait=wait)

    async def take_when_visible(
        self, take: Callable[[Transaction, int], list[T] | None], *, wait: float
    ) -> list[T]:
        """`take(transaction, now)` until it takes something, or `wait` seconds are over. None from
        it ends the wait: there is something, and it is left there."""
        deadline = trio.current_time() + wait
        while True:
            changed = self._changed
            await self._after_set_back()
            now = self._watch.now()
            taken = await self._file.write(lambda t: take(t, now))  # noqa: B023  # done before the next turn
            if taken is None:
                return []
            if taken or not await self._wait_for_visible(changed, deadline):
                return taken

    def _take(self, transaction: Transaction, limit: int, now: int, until: int) -> list[Delivery]:
        found = _visible.of(transaction.execute(_VISIBLE, (self._name, now, limit)).fetchall())
        self.lease(transaction, [row[0] for row in found], now, until)
        transaction.counters[f"leased:{self._name}"] += sum(not row[3] for row in found)
        return [
            Delivery(
                task_id=task_id,
                message_id=str(message_id),
                receipt=f"{message_id}.{count + 1}",
                receive_count=count + 1,
                task_type=task_type,
                payload_json=bytes(payload) if task_type else b"",  # there is no row
            )
            for message_id, task_id, count, _, task_type, payload in found
        ]

    def lease(self, transaction: Transaction, ids: Sequence[int], now: int, until: int) -> None:
        _LEASE.run(transaction.execute, [(each,) for each in ids], before=(until, now))

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

    async def _wait_for_visible(self, changed: trio.Event, deadline: float) -> bool:
        """Wait until a message may be visible; False when `deadline` came first.

        This process says at once when it changed something; other processes are noticed by
        looking, which takes a read and no lock.
        """
        while (left := deadline - trio.current_time()) > 0:
            until_visible = await self._seconds_to_next()
            if until_visible <= 0:
                return True
            with trio.move_on_after(min(left, until_visible, LOOK_EVERY)):
                await changed.wait()
                return True
        return False

    async def _seconds_to_next(self) -> float:
        ((earliest,),) = await self._file.read(
            lambda t: t.execute(
                "SELECT min(visible_at) FROM messages WHERE queue = ?", (self._name,)
            ).fetchall()
        )
        now = self._watch.now()
        if self._watch.times_set_back != self._retimed:
            return 0.0
        return math.inf if earliest is None else float(earliest - now) / 1e6

    def wake(self) -> None:
        """Let receivers that wait look again."""
        self._changed.set()
        self._changed = trio.Event()

    # --- what is held -----------------------------------------------------------------------

    async def extend(
        self, deliveries: Sequence[Delivery], *, visibility: float
    ) -> list[QueueVerdict]:
        now = self._watch.now()
        until = now + round(visibility * 1e6)

        def work(transaction: Transaction) -> list[QueueVerdict]:
            held = self._held(transaction, deliveries)
            ids = {message_id for message_id in held if message_id is not None}
            _EXTEND.run(transaction.execute, [(each,) for each in ids], before=(until, now))
            return [LeaseLost() if message_id is None else Done() for message_id in held]

        return await self._file.write(work)

    async def release(self, items: Sequence[tuple[Delivery, float]]) -> list[QueueVerdict]:
        now = self._watch.now()
        answered = await self._file.write(lambda t: self.release_in(t, items, now))
        self.wake()
        return answered

    def release_in(
        self, transaction: Transaction, items: Sequence[tuple[Delivery, float]], now: int
    ) -> list[QueueVerdict]:
        verdicts, good = _refuse_bad_delays([delay for _, delay in items])
        held = self._held_once(transaction, [items[i][0] for i in good])
        given_back = []
        for i, message_id in zip(good, held, strict=True):
            if message_id is None:
                verdicts[i] = LeaseLost()
            else:
                given_back.append((message_id, now + round(items[i][1] * 1e6)))
        _RELEASE.run(transaction.execute, given_back, after=(now,))
        transaction.counters[f"leased:{self._name}"] -= len(given_back)
        return verdicts

    async def delete(self, deliveries: Sequence[Delivery]) -> list[QueueVerdict]:
        return await self._file.write(lambda t: self.delete_in(t, deliveries))

    def delete_in(
        self, transaction: Transaction, deliveries: Sequence[Delivery]
    ) -> list[QueueVerdict]:
        held = self._held_once(transaction, deliveries)
        self._delete(transaction, held)
        return [_LOST if message_id is None else _DONE for message_id in held]

    async def dead_letter(self, items: Sequence[DeadLettering]) -> list[QueueVerdict]:
        return await self._file.write(lambda t: self.dead_letter_in(t, items))

    def dead_letter_in(
        self, transaction: Transaction, items: Sequence[DeadLettering]
    ) -> list[QueueVerdict]:
        held = self._held_once(transaction, [item.delivery for item in items])
        self._delete(transaction, held)
        moved = [
            dead_letters.to_row(item)
            for item, message_id in zip(items, held, strict=True)
            if message_id is not None
        ]
        dead_letters.insert(transaction, self._name, moved)
        return [_LOST if message_id is None else _DONE for message_id in held]

    def _delete(self, transaction: Transaction, held: Sequence[int | None]) -> None:
        ids = [(message_id,) for message_id in held if message_id is not None]
        _DELETE.run(transaction.execute, ids)
        transaction.counters[f"messages:{self._name}"] -= len(ids)
        transaction.counters[f"leased:{self._name}"] -= len(ids)

    def _held(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> list[int | None]:
        """The message's id where the receipt is its latest and it is still leased, else None."""
        receipts = [_parse(delivery.receipt) for delivery in deliveries]
        ids = [(receipt[0],) for receipt in receipts if receipt is not None]
        current = set(_leased.of(_LEASED.run(transaction.execute, ids, after=(self._name,))))
        return [
            receipt[0] if receipt is not None and receipt in current else None
            for receipt in receipts
        ]

    def _held_once(
        self, transaction: Transaction, deliveries: Sequence[Delivery]
    ) -> list[int | None]:
        """The same, for what ends a lease: a receipt used twice in one batch is stale by then."""
        seen: set[int] = set()
        once: list[int | None] = []
        for message_id in self._held(transaction, deliveries):
            once.append(None if message_id is None or message_id in seen else message_id)
            if message_id is not None:
                seen.add(message_id)
        return once

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
            place = (self._name, now, _COUNTED)
            ((delayed,),) = execute(_COUNT.format(relation=">"), place).fetchall()
            if delayed == _COUNTED:
                ((due,),) = execute(_COUNT.format(relation="<="), place).fetchall()
                delayed = max(delayed, waiting - due) if due < _COUNTED else delayed
            return QueueDepth(waiting=waiting, delayed=delayed, in_flight=leased, dead=dead)

        return await self._file.read(look)


def _parse(receipt: str) -> tuple[int, int] | None:
    """(message id, receive count), or None for what was never given out."""
    found = _RECEIPT.fullmatch(receipt)
    return None if found is None else (int(found[1]), int(found[2]))


def _refuse_bad_delays(delays: Sequence[float]) -> tuple[list[QueueVerdict], list[int]]:
    """A verdict for each, Done for now where the delay is fine, and the indexes of those."""
    verdicts: list[QueueVerdict] = [
        Done()
        if 0 <= delay <= MAX_DELAY
        else Rejected(f"the delay must be 0 to {MAX_DELAY:g} seconds, not {delay!r}")
        for delay in delays
    ]
    return verdicts, [i for i, verdict in enumerate(verdicts) if isinstance(verdict, Done)]

"""The queue: messages that name a task, leased by making them invisible for a while."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import trio

from task_queue_engine.backends.base import (
    DeadLetter,
    DeadLettering,
    DeadLetterPage,
    Delivery,
    Done,
    LeaseLost,
    Message,
    QueueDepth,
    QueueVerdict,
    Rejected,
)
from task_queue_engine.backends.cursors import Int64, check_limit, decode_cursor, encode_cursor
from task_queue_engine.backends.sqlite.batches import Batch, JsonRows
from task_queue_engine.backends.sqlite.rows import encode, encode_or_none, from_us, to_us
from task_queue_engine.backends.sqlite.threads import ReaderThread, Transaction, WriterThread
from task_queue_engine.clock import Clock
from task_queue_engine.errors import BackendUnavailable
from task_queue_engine.lifecycle import Burial
from task_queue_engine.task import TaskError

T = TypeVar("T")

MAX_DELAY = 900.0
"""Seconds, as SQS: what is longer waits in the store, the same on every backend."""

LOOK_EVERY = 0.05
"""Seconds between looks for messages that another process sent."""

_PURGE_AT_ONCE = 5_000
"""Dead letters deleted in one transaction, so that other writes get their turn."""

# Numbers within 64 bits, spelled as they are given out.
_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_RECEIPT = re.compile(rf"({_ID.pattern})\.({_ID.pattern})", re.ASCII)

_SEND = Batch(
    "WITH new (task_id, visible_at) AS (VALUES {rows}) "
    "INSERT INTO messages (queue, task_id, visible_at, receive_count, leased) "
    "SELECT ?, task_id, visible_at, 0, 0 FROM new WHERE task_id IS NOT NULL",
    width=2,
)
_VISIBLE = (
    "SELECT json_group_array(json_array(id, task_id, receive_count, leased) "
    "ORDER BY visible_at, id) FROM (SELECT * FROM messages "
    "WHERE queue = ? AND visible_at <= ? ORDER BY visible_at, id LIMIT ?)"
)
_visible = JsonRows(tuple[int, str, int, int])
_LEASE = Batch(
    "UPDATE messages SET visible_at = ?, receive_count = receive_count + 1, leased = 1 "
    "WHERE id IN (VALUES {rows})",
    width=1,
)
# The plus keeps SQLite from looking through the whole queue instead of for these ids.
_LEASED = Batch(
    "SELECT json_group_array(json_array(id, receive_count)) FROM messages "
    "WHERE id IN (VALUES {rows}) AND +queue = ? AND leased = 1",
    width=1,
)
_leased = JsonRows(tuple[int, int])
_EXTEND = Batch("UPDATE messages SET visible_at = ? WHERE id IN (VALUES {rows})", width=1)
_RELEASE = Batch(
    "WITH given_back (id, visible_at) AS (VALUES {rows}) "
    "UPDATE messages SET visible_at = given_back.visible_at, leased = 0 "
    "FROM given_back WHERE messages.id = given_back.id",
    width=2,
)
_DELETE = Batch("DELETE FROM messages WHERE id IN (VALUES {rows})", width=1)

_LETTER = "task_id, task_type, reason, error, attempts, at"
_BURY = Batch(
    f"WITH new ({_LETTER}) AS (VALUES {{rows}}) INSERT INTO dead_letters (queue, {_LETTER}) "
    "SELECT ?, * FROM new WHERE task_id IS NOT NULL",
    width=6,
)
_LIST_DEAD = (
    f"SELECT id, {_LETTER} FROM dead_letters WHERE queue = ? AND id < ? ORDER BY id DESC LIMIT ?"
)
_TAKE_DEAD = f"SELECT id, {_LETTER} FROM dead_letters WHERE queue = ? ORDER BY id LIMIT ?"
_TAKE_DEAD_BY_ID = (
    f"SELECT id, {_LETTER} FROM dead_letters "
    "WHERE queue = ? AND id IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?"
)
_DEAD = Batch(
    "SELECT json_group_array(id) FROM dead_letters WHERE id IN (VALUES {rows}) AND queue = ?",
    width=1,
)
_dead = JsonRows(int)
_DELETE_DEAD = Batch("DELETE FROM dead_letters WHERE id IN (VALUES {rows})", width=1)
_PURGE = (
    "DELETE FROM dead_letters WHERE id IN "
    "(SELECT id FROM dead_letters WHERE queue = ? AND id <= ? ORDER BY id LIMIT ?)"
)
_decode_error = msgspec.json.Decoder(TaskError).decode


class SqliteQueue:
    """One queue in the file.

    `depth` counts a message as in flight from its receipt until it is deleted, given back or
    received again; a lapsed lease is noticed by the next receive.
    """

    max_batch = 256
    max_delay = MAX_DELAY
    poll_outlives_cancel = False
    settle_linger = 0.0

    def __init__(self, name: str, *, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._writer: WriterThread | None = None
        self._reader: ReaderThread | None = None
        self._changed = trio.Event()

    @property
    def name(self) -> str:
        return self._name

    def attach(self, writer: WriterThread | None, reader: ReaderThread | None) -> None:
        self._writer, self._reader = writer, reader
        self._wake()

    # --- sending and receiving --------------------------------------------------------------

    async def send(self, messages: Sequence[Message]) -> list[QueueVerdict]:
        verdicts, good = _refuse_bad_delays([message.delay for message in messages])
        now = self._now_us()
        rows = [(messages[i].task.id, now + round(messages[i].delay * 1e6)) for i in good]

        def work(transaction: Transaction) -> None:
            _SEND.run(transaction.execute, rows, after=(self._name,))
            transaction.counters[f"messages:{self._name}"] += len(rows)

        await self._write(work)
        self._wake()
        return verdicts

    async def receive(self, max_messages: int, *, wait: float, visibility: float) -> list[Delivery]:
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        deadline = trio.current_time() + wait
        while True:
            changed = self._changed
            now = self._now_us()
            until = now + round(visibility * 1e6)
            taken = await self._write(lambda t: self._take(t, max_messages, now, until))  # noqa: B023  # done before the next turn
            if taken or not await self._wait_for_visible(changed, deadline):
                return taken

    def _take(self, transaction: Transaction, limit: int, now: int, until: int) -> list[Delivery]:
        found = _visible.of(transaction.execute(_VISIBLE, (self._name, now, limit)).fetchall())
        _LEASE.run(transaction.execute, [(row[0],) for row in found], before=(until,))
        transaction.counters[f"leased:{self._name}"] += sum(not row[3] for row in found)
        return [
            Delivery(
                task_id=task_id,
                message_id=str(message_id),
                receipt=f"{message_id}.{count + 1}",
                receive_count=count + 1,
            )
            for message_id, task_id, count, _ in found
        ]

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
        ((earliest,),) = await self._read(
            lambda t: t.execute(
                "SELECT min(visible_at) FROM messages WHERE queue = ?", (self._name,)
            ).fetchall()
        )
        if earliest is None:
            return math.inf
        return float(earliest - self._now_us()) / 1e6

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _now_us(self) -> int:
        """Asked on the event loop alone, where every clock may be asked."""
        return to_us(self._clock.now())

    # --- what is in hand --------------------------------------------------------------------

    async def extend(
        self, deliveries: Sequence[Delivery], *, visibility: float
    ) -> list[QueueVerdict]:
        until = self._now_us() + round(visibility * 1e6)

        def work(transaction: Transaction) -> list[QueueVerdict]:
            held = self._held(transaction, deliveries)
            ids = {message_id for message_id in held if message_id is not None}
            _EXTEND.run(transaction.execute, [(each,) for each in ids], before=(until,))
            return [LeaseLost() if message_id is None else Done() for message_id in held]

        return await self._write(work)

    async def release(self, items: Sequence[tuple[Delivery, float]]) -> list[QueueVerdict]:
        refusals, good = _refuse_bad_delays([delay for _, delay in items])
        now = self._now_us()

        def work(transaction: Transaction) -> list[QueueVerdict]:
            verdicts = list(refusals)
            held = self._held_once(transaction, [items[i][0] for i in good])
            given_back = []
            for i, message_id in zip(good, held, strict=True):
                if message_id is None:
                    verdicts[i] = LeaseLost()
                else:
                    given_back.append((message_id, now + round(items[i][1] * 1e6)))
            _RELEASE.run(transaction.execute, given_back)
            transaction.counters[f"leased:{self._name}"] -= len(given_back)
            return verdicts

        answered = await self._write(work)
        self._wake()
        return answered

    async def delete(self, deliveries: Sequence[Delivery]) -> list[QueueVerdict]:
        def work(transaction: Transaction) -> list[QueueVerdict]:
            held = self._held_once(transaction, deliveries)
            self._delete(transaction, held)
            return [LeaseLost() if message_id is None else Done() for message_id in held]

        return await self._write(work)

    async def dead_letter(self, items: Sequence[DeadLettering]) -> list[QueueVerdict]:
        letters = [
            (
                item.delivery.task_id,
                item.task_type,
                item.reason,
                encode_or_none(item.error),
                item.attempts,
                to_us(item.at),
            )
            for item in items
        ]

        def work(transaction: Transaction) -> list[QueueVerdict]:
            held = self._held_once(transaction, [item.delivery for item in items])
            self._delete(transaction, held)
            buried = [letter for letter, id_ in zip(letters, held, strict=True) if id_ is not None]
            _BURY.run(transaction.execute, buried, after=(self._name,))
            transaction.counters[f"dead:{self._name}"] += len(buried)
            return [LeaseLost() if message_id is None else Done() for message_id in held]

        return await self._write(work)

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

    # --- looking, and dead letters ----------------------------------------------------------

    async def depth(self) -> QueueDepth:
        names = tuple(f"{kind}:{self._name}" for kind in ("messages", "leased", "dead"))
        found = dict(
            await self._read(
                lambda t: t.execute(
                    "SELECT name, n FROM counters WHERE name IN (?, ?, ?)", names
                ).fetchall()
            )
        )
        messages, leased, dead = (found.get(name, 0) for name in names)
        return QueueDepth(waiting=messages - leased, in_flight=leased, dead=dead)

    async def list_dead(self, *, limit: int, cursor: str | None = None) -> DeadLetterPage:
        check_limit(limit)
        (below,) = (2**62,) if cursor is None else decode_cursor(cursor, "dead", tuple[Int64])
        rows = await self._read(
            lambda t: t.execute(_LIST_DEAD, (self._name, below, limit + 1)).fetchall()
        )
        letters = tuple(_to_letter(row) for row in rows[:limit])
        more = len(rows) > limit
        return DeadLetterPage(
            letters=letters,
            next_cursor=encode_cursor("dead", (int(letters[-1].id),)) if more else None,
        )

    async def take_dead(self, *, limit: int, ids: Sequence[str] | None = None) -> list[DeadLetter]:
        if ids is None:
            rows = await self._read(lambda t: t.execute(_TAKE_DEAD, (self._name, limit)).fetchall())
        else:
            wanted = encode([int(text) for text in ids if _ID.fullmatch(text)]).decode()
            rows = await self._read(
                lambda t: t.execute(_TAKE_DEAD_BY_ID, (self._name, wanted, limit)).fetchall()
            )
        return [_to_letter(row) for row in rows]

    async def delete_dead(self, letters: Sequence[DeadLetter]) -> list[QueueVerdict]:
        wanted = [int(letter.id) if _ID.fullmatch(letter.id) else None for letter in letters]

        def work(transaction: Transaction) -> list[QueueVerdict]:
            ids = [(letter_id,) for letter_id in wanted if letter_id is not None]
            there = set(_dead.of(_DEAD.run(transaction.execute, ids, after=(self._name,))))
            _DELETE_DEAD.run(transaction.execute, [(letter_id,) for letter_id in there])
            transaction.counters[f"dead:{self._name}"] -= len(there)
            verdicts: list[QueueVerdict] = []
            for letter_id in wanted:
                verdicts.append(Done() if letter_id in there else LeaseLost())
                there.discard(letter_id or 0)
            return verdicts

        return await self._write(work)

    async def purge_dead(self) -> int:
        """Letters that come while it is under way stay."""
        ((last,),) = await self._read(
            lambda t: t.execute(
                "SELECT ifnull(max(id), 0) FROM dead_letters WHERE queue = ?", (self._name,)
            ).fetchall()
        )

        def work(transaction: Transaction) -> int:
            before = transaction.changes()
            transaction.execute(_PURGE, (self._name, last, _PURGE_AT_ONCE))
            gone = transaction.changes() - before
            transaction.counters[f"dead:{self._name}"] -= gone
            return gone

        total = 0
        while gone := await self._write(work):
            total += gone
        return total

    async def buried(self) -> list[Burial]:
        await trio.lowlevel.checkpoint()
        return []

    async def _write(self, work: Callable[[Transaction], T]) -> T:
        if self._writer is None:
            raise BackendUnavailable("the backend is not open")
        return await self._writer.run(work)

    async def _read(self, work: Callable[[Transaction], T]) -> T:
        if self._reader is None:
            raise BackendUnavailable("the backend is not open")
        return await self._reader.run(work)


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


def _to_letter(row: tuple[Any, ...]) -> DeadLetter:
    id_, task_id, task_type, reason, error, attempts, at = row
    return DeadLetter(
        id=str(id_),
        task_id=task_id,
        task_type=task_type,
        reason=reason,
        error=None if error is None else _decode_error(error),
        attempts=attempts,
        at=from_us(at),
    )

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

# Numbers within 64 bits, spelled as they are given out.
_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_RECEIPT = re.compile(rf"({_ID.pattern})\.({_ID.pattern})", re.ASCII)

_IF_HELD = "WHERE id = ? AND receive_count = ? AND queue = ? AND leased = 1 RETURNING 1"

_LETTER = "id, task_id, task_type, reason, error, attempts, at"
_TAKE_DEAD = f"SELECT {_LETTER} FROM dead_letters WHERE queue = ? ORDER BY id LIMIT ?"
_TAKE_DEAD_BY_ID = (
    f"SELECT {_LETTER} FROM dead_letters "
    "WHERE queue = ? AND id IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?"
)
_decode_error = msgspec.json.Decoder(TaskError).decode


class SqliteQueue:
    """One queue in the file.

    `depth` counts a message as in flight from its receipt until it is deleted, given back or
    received again; a lapsed lease is noticed by the next receive.
    """

    max_batch = 256
    max_delay = MAX_DELAY

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
        if good:
            now = to_us(self._clock.now())
            rows = [
                (self._name, messages[i].task.id, now + round(messages[i].delay * 1e6))
                for i in good
            ]

            def work(transaction: Transaction) -> None:
                transaction.executemany(
                    "INSERT INTO messages (queue, task_id, visible_at, receive_count, leased) "
                    "VALUES (?, ?, ?, 0, 0)",
                    rows,
                )
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
            taken = await self._write(lambda t: self._take(t, max_messages, visibility))
            if taken or not await self._wait_for_visible(changed, deadline):
                return taken

    def _take(self, transaction: Transaction, limit: int, visibility: float) -> list[Delivery]:
        now = to_us(self._clock.now())
        found = transaction.execute(
            "SELECT id, task_id, receive_count, leased FROM messages "
            "WHERE queue = ? AND visible_at <= ? ORDER BY visible_at, id LIMIT ?",
            (self._name, now, limit),
        ).fetchall()
        if not found:
            return []
        until = now + round(visibility * 1e6)
        transaction.executemany(
            "UPDATE messages SET visible_at = ?, receive_count = ?, leased = 1 WHERE id = ?",
            [(until, count + 1, message_id) for message_id, _, count, _ in found],
        )
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
        return float(earliest - to_us(self._clock.now())) / 1e6

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- what is in hand --------------------------------------------------------------------

    async def extend(
        self, deliveries: Sequence[Delivery], *, visibility: float
    ) -> list[QueueVerdict]:
        def work(transaction: Transaction) -> list[QueueVerdict]:
            until = to_us(self._clock.now()) + round(visibility * 1e6)
            return [
                self._held(
                    transaction,
                    f"UPDATE messages SET visible_at = ? {_IF_HELD}",
                    delivery,
                    until,
                )
                for delivery in deliveries
            ]

        return await self._write(work)

    async def release(self, items: Sequence[tuple[Delivery, float]]) -> list[QueueVerdict]:
        verdicts, good = _refuse_bad_delays([delay for _, delay in items])

        def work(transaction: Transaction) -> list[QueueVerdict]:
            now = to_us(self._clock.now())
            for i in good:
                delivery, delay = items[i]
                verdicts[i] = self._held(
                    transaction,
                    f"UPDATE messages SET visible_at = ?, leased = 0 {_IF_HELD}",
                    delivery,
                    now + round(delay * 1e6),
                )
                if isinstance(verdicts[i], Done):
                    transaction.counters[f"leased:{self._name}"] -= 1
            return verdicts

        answered = await self._write(work)
        self._wake()
        return answered

    async def delete(self, deliveries: Sequence[Delivery]) -> list[QueueVerdict]:
        return await self._write(
            lambda t: [self._delete_held(t, delivery) for delivery in deliveries]
        )

    async def dead_letter(self, items: Sequence[DeadLettering]) -> list[QueueVerdict]:
        def work(transaction: Transaction) -> list[QueueVerdict]:
            verdicts: list[QueueVerdict] = []
            for item in items:
                verdict = self._delete_held(transaction, item.delivery)
                verdicts.append(verdict)
                if isinstance(verdict, Done):
                    transaction.execute(
                        "INSERT INTO dead_letters "
                        "(queue, task_id, task_type, reason, error, attempts, at) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (
                            self._name,
                            item.delivery.task_id,
                            item.task_type,
                            item.reason,
                            encode_or_none(item.error),
                            item.attempts,
                            to_us(item.at),
                        ),
                    )
                    transaction.counters[f"dead:{self._name}"] += 1
            return verdicts

        return await self._write(work)

    def _delete_held(self, transaction: Transaction, delivery: Delivery) -> QueueVerdict:
        verdict = self._held(transaction, f"DELETE FROM messages {_IF_HELD}", delivery)
        if isinstance(verdict, Done):
            transaction.counters[f"messages:{self._name}"] -= 1
            transaction.counters[f"leased:{self._name}"] -= 1
        return verdict

    def _held(
        self, transaction: Transaction, statement: str, delivery: Delivery, *first: int
    ) -> QueueVerdict:
        receipt = _RECEIPT.fullmatch(delivery.receipt)
        if receipt is None:
            return LeaseLost()
        message_id, count = int(receipt[1]), int(receipt[2])
        bindings = (*first, message_id, count, self._name)
        done = transaction.execute(statement, bindings).fetchone()
        return LeaseLost() if done is None else Done()

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
            lambda t: t.execute(
                f"SELECT {_LETTER} FROM dead_letters WHERE queue = ? AND id < ? "
                "ORDER BY id DESC LIMIT ?",
                (self._name, below, limit + 1),
            ).fetchall()
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
        def work(transaction: Transaction) -> list[QueueVerdict]:
            verdicts: list[QueueVerdict] = []
            for letter in letters:
                gone = (
                    _ID.fullmatch(letter.id)
                    and transaction.execute(
                        "DELETE FROM dead_letters WHERE id = ? AND queue = ? RETURNING 1",
                        (int(letter.id), self._name),
                    ).fetchone()
                )
                verdicts.append(Done() if gone else LeaseLost())
                transaction.counters[f"dead:{self._name}"] -= bool(gone)
            return verdicts

        return await self._write(work)

    async def purge_dead(self) -> int:
        def work(transaction: Transaction) -> int:
            gone = transaction.execute(
                "DELETE FROM dead_letters WHERE queue = ? RETURNING id", (self._name,)
            ).fetchall()
            transaction.counters[f"dead:{self._name}"] -= len(gone)
            return len(gone)

        return await self._write(work)

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

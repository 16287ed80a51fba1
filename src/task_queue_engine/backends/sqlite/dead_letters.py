"""The dead-letter queue: rows that keep why a message was dead-lettered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import trio

from task_queue_engine.backends.base import (
    DeadLetter,
    DeadLettering,
    DeadLetterPage,
    Done,
    LeaseLost,
    QueueVerdict,
)
from task_queue_engine.backends.cursors import Int64, check_limit, decode_cursor, encode_cursor
from task_queue_engine.backends.sqlite.batches import Batch, JsonRows
from task_queue_engine.backends.sqlite.database_file import DatabaseFile
from task_queue_engine.backends.sqlite.rows import encode, encode_or_none, from_us, to_us
from task_queue_engine.backends.sqlite.transaction import Transaction
from task_queue_engine.lifecycle import BrokerDeadLetter
from task_queue_engine.task import TaskError

# Dead letters deleted in one transaction, so that other writes get their turn.
_PURGE_AT_ONCE = 5_000

# Above every id: where a list without a cursor begins.
_BEYOND_ALL = 2**62

ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
"""Numbers within 64 bits, spelled as they are given out."""

_COLUMNS = "task_id, task_type, reason, error, attempts, at"
_INSERT = Batch(
    f"WITH new ({_COLUMNS}) AS (VALUES {{rows}}) INSERT INTO dead_letters (queue, {_COLUMNS}) "
    "SELECT ?, * FROM new WHERE task_id IS NOT NULL",
    width=6,
)
_PAGE = (
    f"SELECT id, {_COLUMNS} FROM dead_letters WHERE queue = ? AND id < ? ORDER BY id DESC LIMIT ?"
)
_TAKE = f"SELECT id, {_COLUMNS} FROM dead_letters WHERE queue = ? ORDER BY id LIMIT ?"
_TAKE_BY_ID = (
    f"SELECT id, {_COLUMNS} FROM dead_letters "
    "WHERE queue = ? AND id IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?"
)
_EXISTING = Batch(
    "SELECT json_group_array(id) FROM dead_letters WHERE id IN (VALUES {rows}) AND queue = ?",
    width=1,
)
_existing = JsonRows(int)
_DELETE = Batch("DELETE FROM dead_letters WHERE id IN (VALUES {rows})", width=1)
_PURGE = (
    "DELETE FROM dead_letters WHERE id IN "
    "(SELECT id FROM dead_letters WHERE queue = ? AND id <= ? ORDER BY id LIMIT ?)"
)
_decode_error = msgspec.json.Decoder(TaskError).decode


def to_row(item: DeadLettering) -> tuple[Any, ...]:
    """Its columns, as `insert` takes them."""
    return (
        item.delivery.task_id,
        item.task_type,
        item.reason,
        encode_or_none(item.error),
        item.attempts,
        to_us(item.at),
    )


def insert(transaction: Transaction, queue: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Within the transaction that deletes their messages: never gone from both queues."""
    _INSERT.run(transaction.execute, rows, after=(queue,))
    transaction.counters[f"dead:{queue}"] += len(rows)


class SqliteDeadLetters:
    """The dead letters of one queue in the file."""

    def __init__(self, queue: str, *, file: DatabaseFile) -> None:
        self._name = queue
        self._file = file

    async def page(self, *, limit: int, cursor: str | None = None) -> DeadLetterPage:
        check_limit(limit)
        (below,) = (_BEYOND_ALL,) if cursor is None else decode_cursor(cursor, "dead", tuple[Int64])
        rows = await self._file.read(
            lambda t: t.execute(_PAGE, (self._name, below, limit + 1)).fetchall()
        )
        found = tuple(_to_dead_letter(row) for row in rows[:limit])
        more = len(rows) > limit
        return DeadLetterPage(
            dead_letters=found,
            next_cursor=encode_cursor("dead", (int(found[-1].id),)) if more else None,
        )

    async def take(self, *, limit: int, ids: Sequence[str] | None = None) -> list[DeadLetter]:
        if ids is None:
            rows = await self._file.read(lambda t: t.execute(_TAKE, (self._name, limit)).fetchall())
        else:
            wanted = encode([int(text) for text in ids if ID.fullmatch(text)]).decode()
            rows = await self._file.read(
                lambda t: t.execute(_TAKE_BY_ID, (self._name, wanted, limit)).fetchall()
            )
        return [_to_dead_letter(row) for row in rows]

    async def delete(self, dead_letters: Sequence[DeadLetter]) -> list[QueueVerdict]:
        wanted = [int(each.id) if ID.fullmatch(each.id) else None for each in dead_letters]

        def work(transaction: Transaction) -> list[QueueVerdict]:
            ids = [(id_,) for id_ in wanted if id_ is not None]
            there = set(_existing.of(_EXISTING.run(transaction.execute, ids, after=(self._name,))))
            _DELETE.run(transaction.execute, [(id_,) for id_ in there])
            transaction.counters[f"dead:{self._name}"] -= len(there)
            verdicts: list[QueueVerdict] = []
            for id_ in wanted:
                verdicts.append(Done() if id_ in there else LeaseLost())
                there.discard(id_ or 0)
            return verdicts

        return await self._file.write(work)

    async def purge(self) -> int:
        """Those that come while it is under way stay."""
        ((last,),) = await self._file.read(
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
        while gone := await self._file.write(work):
            total += gone
        return total

    async def moved_by_broker(self) -> list[BrokerDeadLetter]:
        await trio.lowlevel.checkpoint()
        return []


def _to_dead_letter(row: tuple[Any, ...]) -> DeadLetter:
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

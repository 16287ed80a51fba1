"""The messages of one queue, within a transaction of the caller's."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from task_queue_engine.backends.base import (
    DeadLettering,
    Delivery,
    Done,
    LeaseLost,
    QueueVerdict,
    Rejected,
)
from task_queue_engine.backends.sqlite import dead_letters
from task_queue_engine.backends.sqlite.batches import Batch, JsonRows
from task_queue_engine.backends.sqlite.bells import topic_of_messages
from task_queue_engine.backends.sqlite.dead_letters import ID
from task_queue_engine.backends.sqlite.rows import LARGE_PAYLOAD
from task_queue_engine.backends.sqlite.transaction import Transaction

MAX_DELAY = 900.0
"""Seconds, as SQS: what is longer waits in the store, the same on every backend."""

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
_DELETE = Batch("DELETE FROM messages WHERE id IN (VALUES {rows})", width=1)

_DONE, _LOST = Done(), LeaseLost()


class Messages:
    """Times are in microseconds since the epoch."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._topic = topic_of_messages(queue)
        self._number, self._leased = f"messages:{queue}", f"leased:{queue}"

    def put(self, transaction: Transaction, rows: Sequence[tuple[str, int]], now: int) -> None:
        """Messages: task id, and when it becomes visible."""
        if rows:
            _SEND.run(transaction.execute, rows, after=(self._queue, now))
            transaction.tell_of_messages(self._topic, len(rows), at=now)
            transaction.counters[self._number] += len(rows)

    def take(self, transaction: Transaction, limit: int, now: int, until: int) -> list[Delivery]:
        found = _visible.of(transaction.execute(_VISIBLE, (self._queue, now, limit)).fetchall())
        newly = sum(not row[3] for row in found)
        self.lease(transaction, [row[0] for row in found], newly, now, until)
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

    def lease(
        self, transaction: Transaction, ids: Sequence[int], newly: int, now: int, until: int
    ) -> None:
        """`newly`: so many of them were not leased before."""
        _LEASE.run(transaction.execute, [(each,) for each in ids], before=(until, now))
        transaction.counters[self._leased] += newly

    def extend(
        self, transaction: Transaction, deliveries: Sequence[Delivery], now: int, until: int
    ) -> list[QueueVerdict]:
        held = self._held(transaction, deliveries)
        ids = {message_id for message_id in held if message_id is not None}
        _EXTEND.run(transaction.execute, [(each,) for each in ids], before=(until, now))
        return [_LOST if message_id is None else _DONE for message_id in held]

    def release(
        self, transaction: Transaction, items: Sequence[tuple[Delivery, float]], now: int
    ) -> list[QueueVerdict]:
        verdicts, good = refuse_bad_delays([delay for _, delay in items])
        held = self._held_once(transaction, [items[i][0] for i in good])
        given_back = []
        for i, message_id in zip(good, held, strict=True):
            if message_id is None:
                verdicts[i] = _LOST
            else:
                given_back.append((message_id, now + round(items[i][1] * 1e6)))
        _RELEASE.run(transaction.execute, given_back, after=(now,))
        transaction.tell_of_messages(self._topic, len(given_back), at=now)
        transaction.counters[self._leased] -= len(given_back)
        return verdicts

    def delete(
        self, transaction: Transaction, deliveries: Sequence[Delivery]
    ) -> list[QueueVerdict]:
        held = self._held_once(transaction, deliveries)
        self._delete(transaction, held)
        return [_LOST if message_id is None else _DONE for message_id in held]

    def dead_letter(
        self, transaction: Transaction, items: Sequence[DeadLettering]
    ) -> list[QueueVerdict]:
        held = self._held_once(transaction, [item.delivery for item in items])
        self._delete(transaction, held)
        moved = [
            dead_letters.to_row(item)
            for item, message_id in zip(items, held, strict=True)
            if message_id is not None
        ]
        dead_letters.insert(transaction, self._queue, moved)
        return [_LOST if message_id is None else _DONE for message_id in held]

    def _delete(self, transaction: Transaction, held: Sequence[int | None]) -> None:
        ids = [(message_id,) for message_id in held if message_id is not None]
        _DELETE.run(transaction.execute, ids)
        transaction.counters[self._number] -= len(ids)
        transaction.counters[self._leased] -= len(ids)

    def _held(self, transaction: Transaction, deliveries: Sequence[Delivery]) -> list[int | None]:
        """The message's id where the receipt is its latest and it is still leased, else None."""
        receipts = [_parse(delivery.receipt) for delivery in deliveries]
        ids = [(receipt[0],) for receipt in receipts if receipt is not None]
        current = set(_leased.of(_LEASED.run(transaction.execute, ids, after=(self._queue,))))
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


def _parse(receipt: str) -> tuple[int, int] | None:
    """(message id, receive count), or None for what was never given out."""
    found = _RECEIPT.fullmatch(receipt)
    return None if found is None else (int(found[1]), int(found[2]))


def refuse_bad_delays(delays: Sequence[float]) -> tuple[list[QueueVerdict], list[int]]:
    """A verdict for each, Done for now where the delay is fine, and the indexes of those."""
    verdicts: list[QueueVerdict] = [
        Done()
        if 0 <= delay <= MAX_DELAY
        else Rejected(f"the delay must be 0 to {MAX_DELAY:g} seconds, not {delay!r}")
        for delay in delays
    ]
    return verdicts, [i for i, verdict in enumerate(verdicts) if isinstance(verdict, Done)]

"""What a piece of work gets, and how it is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw

from task_queue_engine.backends.sqlite.batches import Batch

_MOVE_COUNTERS = Batch(
    "WITH moved (name, n) AS (VALUES {rows}) "
    "INSERT INTO counters SELECT name, n FROM moved WHERE name IS NOT NULL "
    "ON CONFLICT (name) DO UPDATE SET n = n + excluded.n",
    width=2,
)


class Transaction:
    """The connection, and counters to move: they are collected and written once."""

    __slots__ = (
        "at",
        "changes",
        "committing",
        "connection",
        "counters",
        "execute",
        "news",
        "still_there",
    )

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        # Any: what a column holds is known from the schema, not from apsw's types.
        self.execute: Callable[..., Any] = connection.execute
        self.changes: Callable[[], int] = connection.total_changes
        self.counters: Counter[str] = Counter()
        self.committing = False
        """The work is done; what fails now fails for all of it."""
        self.news: dict[str, list[str]] = {}
        """What others are told of once it is committed: by topic, the tasks' ids."""
        self.still_there: dict[str, int] = {}
        """By topic of messages: so many of those told of were not taken again at once."""
        self.at = 0
        """The latest time that it was told at, as it is kept."""

    def tell(self, topic: str, task_ids: Iterable[str] = ()) -> None:
        """Have those who listen for `topic` told, in other processes and in this one."""
        self.news.setdefault(topic, []).extend(task_ids)

    def tell_of_messages(self, topic: str, number: int, *, at: int) -> None:
        """The same, unless this transaction itself takes as many."""
        self.tell(topic)
        self.still_there[topic] = self.still_there.get(topic, 0) + number
        self.at = max(self.at, at)

    def takes_messages(self, topic: str, number: int) -> None:
        if topic in self.still_there:
            self.still_there[topic] -= number

    @property
    def news_left(self) -> dict[str, list[str]]:
        """What is left to tell of when all is done."""
        if not any(number <= 0 for number in self.still_there.values()):
            return self.news
        return {t: ids for t, ids in self.news.items() if self.still_there.get(t, 1) > 0}


Work = Callable[[Transaction], Any]
"""May be called again after a rollback: it must leave nothing behind but what it returns."""


def begin(connection: apsw.Connection) -> None:
    """Wait for the file's lock, so that nothing has begun while that takes."""
    if connection.in_transaction:  # a rollback failed
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")


def commit(
    transaction: Transaction, work: Sequence[Work], waiting: Callable[[Transaction], Sequence[Work]]
) -> list[Any]:
    """Do the work, and what waits for the changes that it made, and commit. What it returns, for
    both in their order, counts only then."""
    connection = transaction.connection
    try:
        values = [each(transaction) for each in work]
        values += [each(transaction) for each in waiting(transaction)]
        transaction.committing = True
        moved = [(name, n) for name, n in transaction.counters.items() if n]
        _MOVE_COUNTERS.run(connection.execute, moved)
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has done it by itself after some errors (a full disk, for one).
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return values

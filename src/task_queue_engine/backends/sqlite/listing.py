"""Looking through many tasks, a bounded piece at a time.

There is one index, by (status, type, created_at, id), since each more of them would cost every
write. What asks for several statuses or types merges their ranges of it, so that a page costs the
same wherever it is and however rare what it looks for.
"""

from __future__ import annotations

import heapq
from datetime import datetime
from functools import partial
from itertools import islice

from task_queue_engine.backends.base import (
    ListQuery,
    Stranded,
    StrandedKind,
    StrandedPage,
    TaskPage,
)
from task_queue_engine.backends.cursors import Int64, check_limit, decode_cursor, encode_cursor
from task_queue_engine.backends.sqlite.batches import Execute, JsonRows
from task_queue_engine.backends.sqlite.clock_watch import TOLERANCE
from task_queue_engine.backends.sqlite.rows import NUMBER_OF, load, to_us
from task_queue_engine.backends.sqlite.transaction import Transaction, Work
from task_queue_engine.task import TaskStatus

SortKey = tuple[int, str]

# Above every stored time: where a list without a cursor begins.
_BEYOND_ALL: SortKey = (2**63 - 1, "")

# Jumps from type to type instead of reading all rows ("loose index scan").
_TYPES_OF_STATUS = """
WITH RECURSIVE types (type) AS (
    SELECT min(type) FROM tasks WHERE status = :status
    UNION ALL
    SELECT (SELECT min(type) FROM tasks WHERE status = :status AND type > types.type)
    FROM types WHERE type IS NOT NULL
)
SELECT json_group_array(type) FROM types WHERE type IS NOT NULL
"""
_RANGE = """
SELECT json_group_array(json_array(created_at, id) ORDER BY created_at DESC, id DESC) FROM (
    SELECT created_at, id FROM tasks
    WHERE status = ? AND type = ? AND (created_at, id) < (?, ?)
    ORDER BY created_at DESC, id DESC LIMIT ?
)
"""
_types = JsonRows(str)
_sort_keys = JsonRows(SortKey)


class TaskSearch:
    """One page of `TaskStore.list_tasks`. Raises InvalidQuery when it is made."""

    def __init__(self, query: ListQuery) -> None:
        check_limit(query.limit)
        self._query = query
        self._below = (
            _BEYOND_ALL
            if query.cursor is None
            else decode_cursor(query.cursor, "tasks", tuple[Int64, str])
        )

    def run(self, transaction: Transaction) -> TaskPage:
        limit = self._query.limit
        with transaction.connection:  # one snapshot
            found = self._sort_keys(transaction.execute)
            rows = load(transaction.execute, [task_id for _, task_id in found[:limit]])
        return TaskPage(
            tasks=tuple(rows[task_id].task for _, task_id in found[:limit]),
            next_cursor=encode_cursor("tasks", found[limit - 1]) if len(found) > limit else None,
        )

    def _sort_keys(self, execute: Execute) -> list[SortKey]:
        """Of one task more than the page holds."""
        query, wanted = self._query, self._query.limit + 1
        statuses = list(TaskStatus) if query.status is None else [query.status]
        ranges: list[list[SortKey]] = []
        for status in map(NUMBER_OF.__getitem__, statuses):
            types = (
                _types.of(execute(_TYPES_OF_STATUS, {"status": status}).fetchall())
                if query.type is None
                else [query.type]
            )
            ranges += [
                _sort_keys.of(execute(_RANGE, (status, type_, *self._below, wanted)).fetchall())
                for type_ in types
            ]
        return list(islice(heapq.merge(*ranges, reverse=True), wanted))


# --- stranded -------------------------------------------------------------------------------

_PENDING = NUMBER_OF[TaskStatus.PENDING]
_PROCESSING = NUMBER_OF[TaskStatus.PROCESSING]

# PENDING and PROCESSING have the lowest numbers, and so are one range of the index. Each row is one
# look into the index of messages: by task for those that wait, by id for those that run, which only
# their own message can bring back.
_UNFINISHED = f"""
SELECT json_group_array(json_array(status, type, created_at, id, stranded)) FROM (
    SELECT status, type, created_at, id,
        queue = ? AND NOT updated_at BETWEEN ? AND ? AND CASE status
            WHEN {_PROCESSING} THEN NOT EXISTS (
                SELECT 1 FROM messages WHERE messages.id = CAST(tasks.message_id AS INTEGER))
            ELSE due_at IS NULL AND NOT EXISTS (
                SELECT 1 FROM messages WHERE messages.task_id = tasks.id)
            END AS stranded
    FROM tasks
    WHERE (status, type, created_at, id) > (?, ?, ?, ?) AND status <= {_PROCESSING}
    ORDER BY status, type, created_at, id LIMIT ?
)
"""
_unfinished = JsonRows(tuple[int, str, int, str, int])

_AT_ROW = "SELECT type, created_at, id FROM tasks WHERE rowid = ?"
_NOTE = "INSERT OR REPLACE INTO counters SELECT ?, rowid * 2 + ? FROM tasks WHERE id = ?"

_Place = tuple[int, str, int, str]
"""Of a row in `tasks_listed`."""


class StrandedSearch:
    """One piece of `Backend.stranded`. Raises InvalidQuery when it is made.

    How far the walk has come is noted in `counters`, as the number of a row and whether it was
    running. A process that begins goes on from there: those that live shorter than a walk takes
    get to its end together. A walk of one piece notes nothing.
    """

    def __init__(
        self, queue: str, *, now: datetime, before: datetime, limit: int, cursor: str | None
    ) -> None:
        check_limit(limit)
        # Changed as far ahead as before that is long ago too: the clock has been set back since.
        ahead = max(2 * to_us(now) - to_us(before), to_us(now) + TOLERANCE)
        self._which = (queue, to_us(before), ahead)
        self._limit = limit
        self._noted_as = f"stranded:{queue}"
        self._after: _Place | None = (
            None
            if cursor is None
            else decode_cursor(cursor, "stranded", tuple[Int64, str, Int64, str])
        )

    def run(self, transaction: Transaction) -> tuple[StrandedPage, Work | None]:
        """The piece, and what is to be written about where it ended."""
        with transaction.connection:  # one snapshot
            after = self._after or self._noted(transaction)
            seen = _unfinished.of(
                transaction.execute(
                    _UNFINISHED, (*self._which, *(after or (-1, "", 0, "")), self._limit)
                ).fetchall()
            )
            rows = load(transaction.execute, [row[3] for row in seen if row[4]])
        found = (
            Stranded(
                row.task,
                StrandedKind.ORPHANED
                if row.task.status is TaskStatus.PROCESSING
                else StrandedKind.UNSENT,
            )
            for row in rows.values()
        )
        place = None if len(seen) < self._limit else seen[-1][:4]
        page = StrandedPage(
            found=tuple(found),
            next_cursor=None if place is None else encode_cursor("stranded", place),
        )
        is_short = place is None and after is None
        return page, None if is_short else partial(self._note, place)

    def _noted(self, transaction: Transaction) -> _Place | None:
        """None: at the start, also where the row is gone since."""
        found = transaction.execute(
            "SELECT n FROM counters WHERE name = ?", (self._noted_as,)
        ).fetchone()
        if found is None:
            return None
        row, status = divmod(found[0], 2)
        at = transaction.execute(_AT_ROW, (row,)).fetchone()
        return None if at is None else (status, *at)

    def _note(self, place: _Place | None, transaction: Transaction) -> None:
        """Of several engines the last one counts: all walk to the end by themselves."""
        if place is None:
            transaction.execute("DELETE FROM counters WHERE name = ?", (self._noted_as,))
        else:
            transaction.execute(_NOTE, (self._noted_as, place[0], place[3]))

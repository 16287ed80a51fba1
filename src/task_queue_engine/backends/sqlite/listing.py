"""Looking through many tasks, a bounded piece at a time.

There is one index, by (status, type, created_at, id), since each more of them would cost every
write. What asks for several statuses or types merges their ranges of it, so that a page costs the
same wherever it is and however rare what it looks for. What no index says (the queue, the error) is
looked up row by row, for `MOST_LOOKED_AT` tasks at most: then the page is short, and the next one
goes on there.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from datetime import datetime
from functools import partial

from task_queue_engine.backends.base import (
    ListQuery,
    Stranded,
    StrandedKind,
    StrandedPage,
    TaskCount,
    TaskPage,
)
from task_queue_engine.backends.cursors import Int64, check_limit, decode_cursor, encode_cursor
from task_queue_engine.backends.sqlite.batches import Execute, JsonRows
from task_queue_engine.backends.sqlite.clock_watch import TOLERANCE
from task_queue_engine.backends.sqlite.rows import NUMBER_OF, encode, load, to_us
from task_queue_engine.backends.sqlite.transaction import Transaction, Work
from task_queue_engine.task import TaskStatus
from task_queue_engine.task_filter import error_text

SortKey = tuple[int, str]

# Above every stored time: where a list without a cursor begins.
_BEYOND_ALL: SortKey = (2**63 - 1, "")
_BEFORE_ALL = -(2**63)
# Above every character of an id.
_BEYOND_IDS = "\U0010ffff"

# Tasks looked at for one page where the rows have to be: hardly any may pass the filter. Measured
# among a million, where all looked at have a traceback: 80 ms, on a busy machine three times that.
MOST_LOOKED_AT = 2_000
# Of them, read together of one range: at first, and at most.
_FIRST_READ, _MOST_READ = 100, 1_000

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
# `seen`: NULL for what does not pass, else the error in which the filter's text is looked for; ''
# where it has none.
_RANGE = """
SELECT json_group_array(
    json_array(created_at, id, {seen}) ORDER BY created_at DESC, id DESC
) FROM (
    SELECT * FROM tasks
    WHERE status = ? AND type = ? AND (created_at, id) < (?, ?) AND created_at >= ?
    ORDER BY created_at DESC, id DESC LIMIT ?
)
"""
# Of the index alone: 60 ns a task.
_IN_RANGE = """
FROM tasks WHERE status = ? AND type = ? AND (created_at, id) < (?, ?) AND created_at >= ?
ORDER BY created_at DESC, id DESC
"""
_COUNT = f"SELECT count(*) FROM (SELECT 1 {_IN_RANGE} LIMIT ?)"
_PLACE = f"SELECT created_at, id {_IN_RANGE} LIMIT 1 OFFSET ?"
_BY_ID = """
SELECT json_group_array(json_array(created_at, id, {seen}) ORDER BY id DESC) FROM (
    SELECT * FROM tasks WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT ?
)
"""
# A BLOB is taken for SQLite's own binary JSON where its first bytes look like that.
_ERROR = "json_extract(CAST(error AS TEXT), '$.type', '$.message')"
_types = JsonRows(str)
Candidate = tuple[int, str, list[str] | str | None]
"""created_at, id, and what is to be seen of it."""
_candidates = JsonRows(Candidate)


class TaskSearch:
    """One page of `TaskStore.list_tasks`. Raises InvalidQuery when it is made."""

    def __init__(self, query: ListQuery) -> None:
        check_limit(query.limit)
        query.check()
        self._query = query
        self._wanted_text = query.folded_error
        self._kind = "tasks" if query.id is None else "task-ids"
        self._above = _BEFORE_ALL if query.created_after is None else to_us(query.created_after)
        self._below = _BEYOND_ALL
        if query.created_before is not None:
            self._below = (to_us(query.created_before), "")
        if query.cursor is not None:
            self._go_on(query.cursor)

    _below_id: str | None = None

    def _go_on(self, cursor: str) -> None:
        if self._query.id is None:
            self._below = min(self._below, decode_cursor(cursor, self._kind, tuple[Int64, str]))
        else:
            (self._below_id,) = decode_cursor(cursor, self._kind, tuple[str])

    def run(self, transaction: Transaction) -> TaskPage:
        with transaction.connection:  # one snapshot
            found, cursor = self._look(transaction.execute)
            rows = load(transaction.execute, found)
        return TaskPage(tasks=tuple(rows[task_id].task for task_id in found), next_cursor=cursor)

    def _look(self, execute: Execute) -> tuple[list[str], str | None]:
        """The ids of those on the page, and where the next one begins."""
        query = self._query
        found: list[str] = []
        left = MOST_LOOKED_AT if self._looks_at_rows else math.inf
        last: Candidate | None = None
        for candidate in self._in_order(execute):
            if len(found) == query.limit or not left:
                position = last[:2] if query.id is None else (last[1],)  # type: ignore[index]  # a limit is at least 1
                return found, encode_cursor(self._kind, position)
            left -= 1
            last = candidate
            if self._passes(candidate[2]):
                found.append(candidate[1])
        return found, None

    def _passes(self, seen: list[str] | str | None) -> bool:
        return seen == "" or (isinstance(seen, list) and self._wanted_text in error_text(*seen))

    @property
    def _looks_at_rows(self) -> bool:
        query = self._query
        return query.queue is not None or query.error is not None or query.id is not None

    def _in_order(self, execute: Execute) -> Iterator[Candidate]:
        query = self._query
        if query.id is not None:
            return self._by_id(execute, query.id)
        statuses = [NUMBER_OF[status] for status in query.statuses]
        if query.error is not None:  # which a task that is COMPLETED has none of
            statuses = [each for each in statuses if each != NUMBER_OF[TaskStatus.COMPLETED]]
        ranges = [
            self._range(execute, status, type_)
            for status in statuses
            for type_ in self._types_in(execute, status)
        ]
        return heapq.merge(*ranges, reverse=True)

    def _types_in(self, execute: Execute, status: int) -> list[str]:
        if self._query.type is not None:
            return [self._query.type]
        return _types.of(execute(_TYPES_OF_STATUS, {"status": status}).fetchall())

    def _range(self, execute: Execute, status: int, type_: str) -> Iterator[Candidate]:
        """Of the index, from its newest end; read on as it is asked for more."""
        seen, bound = self._seen()
        statement = _RANGE.format(seen=seen)
        below: SortKey = self._below
        size = _FIRST_READ if self._looks_at_rows else min(self._query.limit + 1, _MOST_READ)
        while True:
            read = _candidates.of(
                execute(statement, (*bound, status, type_, *below, self._above, size)).fetchall()
            )
            yield from read
            if len(read) < size:
                return
            below = read[-1][:2]
            size = min(2 * size, _MOST_READ)

    def _by_id(self, execute: Execute, beginning: str) -> Iterator[Candidate]:
        query = self._query
        seen, bound = self._seen()
        conditions = ["status IN (SELECT value FROM json_each(?))", "created_at BETWEEN ? AND ?"]
        more = [encode([NUMBER_OF[each] for each in query.statuses]).decode(), self._above]
        more.append(self._below[0] - (query.created_before is not None))
        if query.type is not None:
            conditions.append("type = ?")
            more.append(query.type)
        seen = f"CASE WHEN {' AND '.join(conditions)} THEN {seen} END"
        below, size = self._below_id or beginning + _BEYOND_IDS, _FIRST_READ
        while True:
            read = _candidates.of(
                execute(
                    _BY_ID.format(seen=seen), (*more, *bound, beginning, below, size)
                ).fetchall()
            )
            yield from read
            if len(read) < size:
                return
            below = read[-1][1]

    def _seen(self) -> tuple[str, tuple[str, ...]]:
        """SQL for what is to be seen of a candidate, and what it is bound to."""
        seen = "''" if self._query.error is None else _ERROR
        if self._query.queue is None:
            return seen, ()
        return f"CASE WHEN queue = ? THEN {seen} END", (self._query.queue,)


class TaskCounting(TaskSearch):
    """One piece of `TaskStore.count_tasks`. What the index says is counted there, range by range:
    nothing is read and put in order."""

    _after: tuple[int, str, SortKey] | None = None
    """Of the range that the piece before has ended in, and where."""

    def _go_on(self, cursor: str) -> None:
        if self._looks_at_rows:
            super()._go_on(cursor)
        else:
            self._after = decode_cursor(cursor, "count", tuple[Int64, str, tuple[Int64, str]])

    def count(self, transaction: Transaction) -> TaskCount:
        with transaction.connection:  # one snapshot
            if not self._looks_at_rows:
                number, cursor = self._count_in_index(transaction.execute)
            else:
                found, cursor = self._look(transaction.execute)
                number = len(found)
        return TaskCount(number=number, next_cursor=cursor)

    def _count_in_index(self, execute: Execute) -> tuple[int, str | None]:
        most = left = self._query.limit
        first = self._after or (-1, "", self._below)
        for status in (NUMBER_OF[each] for each in self._query.statuses):
            if status < first[0]:
                continue
            for type_ in self._types_in(execute, status):
                if (status, type_) < first[:2]:
                    continue
                is_first = (status, type_) == first[:2]
                below = min(first[2], self._below) if is_first else self._below
                bound = (status, type_, *below, self._above)
                ((number,),) = execute(_COUNT, (*bound, left)).fetchall()
                left -= number
                if not left:
                    ((*place,),) = execute(_PLACE, (*bound, number - 1)).fetchall()
                    return most, encode_cursor("count", (status, type_, place))
        return most - left, None


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

"""The engine's own tasks as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from task_queue_engine.backends.base import ListQuery, TaskPage
from task_queue_engine.handlers.export.payload import TaskFilter
from task_queue_engine.handlers.export.rows import RowSource
from task_queue_engine.task import Task

PAGE = 100
"""Tasks asked of the store at a time: they are in memory together."""

# Which trace a task is of is no column: most tasks are of none, and have no such member.
COLUMNS = tuple(name for name in Task.__struct_fields__ if name != "trace_context")


def task_rows(wanted: TaskFilter, list_tasks: Callable[[ListQuery], TaskPage]) -> RowSource:
    """Newest first, a page at a time; tasks created after the first page are not among them.

    Args:
        list_tasks: `TaskStore.list_tasks` as a plain function, for use in a thread.
    """
    return RowSource(COLUMNS, _rows(wanted, list_tasks))


def _rows(
    wanted: TaskFilter, list_tasks: Callable[[ListQuery], TaskPage]
) -> Iterator[tuple[Any, ...]]:
    left = wanted.limit
    cursor: str | None = None
    while left is None or left > 0:
        page = list_tasks(
            ListQuery(status=wanted.status, type=wanted.type, limit=PAGE, cursor=cursor)
        )
        for task in page.tasks:
            if wanted.since is not None and task.created_at < wanted.since:
                return
            if wanted.until is not None and task.created_at >= wanted.until:
                continue
            yield _row(task)
            if left is not None:
                left -= 1
                if left == 0:
                    return
        cursor = page.next_cursor
        if cursor is None:
            return


def _row(task: Task) -> tuple[Any, ...]:
    plain = msgspec.to_builtins(task)
    return tuple(plain[name] for name in COLUMNS)

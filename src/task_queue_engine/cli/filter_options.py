"""Options that say which tasks are meant."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from task_queue_engine.task import TaskStatus
from task_queue_engine.task_filter import TaskFilter

Command = Callable[..., Any]


def time_of(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    """A click callback. A time without a zone is one of this machine's."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is not a time like 2030-01-01T12:00:00Z") from None


def filtering(command: Command) -> Command:
    """A command that gets a TaskFilter, `which`, in place of these options."""

    @click.option(
        "--status",
        type=click.Choice([status.value for status in TaskStatus], case_sensitive=False),
        help="Only tasks in this status.",
    )
    @click.option("--type", "task_type", metavar="TYPE", help="Only tasks of this type.")
    @click.option("--queue", metavar="QUEUE", help="Only tasks of this queue.")
    @click.option(
        "--after", callback=time_of, metavar="TIME", help="Only tasks created then or later."
    )
    @click.option(
        "--before", callback=time_of, metavar="TIME", help="Only tasks created before then."
    )
    @click.option(
        "--id", "task_id", metavar="ID", help="Only the task with this id, or ids that begin so."
    )
    @click.option(
        "--error", metavar="TEXT", help="Only tasks with this text in the error's type or message."
    )
    @functools.wraps(command)
    def with_filter(
        *args: Any,
        status: str | None,
        task_type: str | None,
        queue: str | None,
        after: datetime | None,
        before: datetime | None,
        task_id: str | None,
        error: str | None,
        **options: Any,
    ) -> Any:
        which = TaskFilter(
            status=None if status is None else TaskStatus(status.upper()),
            type=task_type,
            queue=queue,
            created_after=after,
            created_before=before,
            id=None if task_id is None else task_id.lower(),
            error=error,
        )
        which.check()
        return command(*args, which=which, **options)

    return with_filter

"""Which tasks are meant: what a list is narrowed by, and what an action on many is for."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from task_queue_engine.codec import is_unicode
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.task import Task, TaskError, TaskStatus, is_task_id

MAX_ERROR_TEXT = 200
"""Characters to look for in an error: a line of it."""

MAX_NAME = 128
"""Characters of a type or a queue: those of the longest that can be registered."""

_PART_OF_ID = re.compile("[0-9a-f-]{1,36}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """A task passes where it passes all that is given; without any, all tasks do."""

    status: TaskStatus | None = None
    type: str | None = None
    queue: str | None = None
    created_after: datetime | None = None
    """Created at this time or later."""
    created_before: datetime | None = None
    """Created before this time."""
    id: str | None = None
    """The task's id; or its beginning, where the store finds tasks by it (not on DynamoDB)."""
    error: str | None = None
    """Text in the type or the message of the task's error, in upper or lower case."""

    @property
    def is_empty(self) -> bool:
        return all(getattr(self, field.name) is None for field in fields(TaskFilter))

    @property
    def id_is_whole(self) -> bool:
        return self.id is not None and is_task_id(self.id)

    @property
    def folded_error(self) -> str:
        """To be looked for in what `error_text` says."""
        return (self.error or "").casefold()

    def passes(self, task: Task) -> bool:
        """Whether the task is one of those meant, as it is now."""
        return (
            self.status in (None, task.status)
            and self.type in (None, task.type)
            and self.queue in (None, task.queue)
            and (self.created_after is None or task.created_at >= self.created_after)
            and (self.created_before is None or task.created_at < self.created_before)
            and (self.id is None or task.id.startswith(self.id))
            and (self.error is None or self.has_error(task.error))
        )

    def has_error(self, error: TaskError | None) -> bool:
        return error is not None and self.folded_error in error_text(error.type, error.message)

    def check(self) -> None:
        """Raises InvalidQuery, naming the member that no task could pass or no store be asked."""
        for name in ("type", "queue", "error"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not is_unicode(value)):
                raise InvalidQuery(
                    "contains a lone surrogate, which is not Unicode text", field=name
                )
        for name, of in (("type", "task type"), ("queue", "queue")):
            value = getattr(self, name)
            if value is not None and not 1 <= len(value) <= MAX_NAME:
                raise InvalidQuery(f"must be the name of a {of}", field=name)
        for name in ("created_after", "created_before"):
            moment = getattr(self, name)
            if moment is not None and moment.utcoffset() is None:
                raise InvalidQuery("needs a time zone, e.g. 2030-01-01T12:00:00Z", field=name)
        if self.id is not None and not _PART_OF_ID.fullmatch(self.id):
            raise InvalidQuery("must be a task's id, or its beginning", field="id")
        if self.error is not None and not 1 <= len(self.error) <= MAX_ERROR_TEXT:
            raise InvalidQuery(f"must be 1 to {MAX_ERROR_TEXT} characters", field="error")

    def members(self) -> dict[str, Any]:
        """What is given, by name."""
        said = {field.name: getattr(self, field.name) for field in fields(TaskFilter)}
        return {name: value for name, value in said.items() if value is not None}


def error_text(error_type: str, message: str) -> str:
    """What a filter's text is looked for in."""
    return f"{error_type}: {message}".casefold()

"""What tasks can be filtered by, and what can be done to those that are selected: a row here is a
field of the filter's form, or a button with its confirmation, its checks and its undo."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from task_queue_engine.backends.base import ListQuery
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.limits import DEFAULT_PAGE
from task_queue_engine.task import Task, TaskStatus

PAGE_SIZE = DEFAULT_PAGE


# --- filters --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One thing to filter by: a member of the URL's query and of `ListQuery`, under one name."""

    name: str
    label: str
    read: Callable[[str], Any]
    """From what the query says. Raises InvalidQuery."""
    kind: str = "text"
    """Of the form's field: "text"; "type", which suggests the registered types; "tabs": not in the
    form, but the row of links above it."""
    hint: str = ""


def _status(text: str) -> TaskStatus:
    try:
        return TaskStatus(text.upper())
    except ValueError:
        raise InvalidQuery(f"must be one of {', '.join(TaskStatus)}", field="status") from None


def _type(text: str) -> str:
    if len(text) > 128:
        raise InvalidQuery("must be the name of a task type", field="type")
    return text


FIELDS = (
    Field(name="status", label="Status", read=_status, kind="tabs"),
    Field(name="type", label="Type", read=_type, kind="type", hint="any"),
)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a URL asks for: of each field that it names the text and the value."""

    given: Mapping[str, str]
    values: Mapping[str, Any]

    def with_type(self, task_type: str) -> Filters:
        """For a key that is for one type only."""
        return Filters({**self.given, "type": task_type}, {**self.values, "type": task_type})

    def query(self, *, cursor: str | None) -> ListQuery:
        return ListQuery(**self.values, limit=PAGE_SIZE, cursor=cursor)

    def url(self, path: str, **changed: str | None) -> str:
        """The same filters in a link; None leaves one out."""
        members = {**self.given, **changed}
        query = urlencode({name: text for name, text in members.items() if text})
        return f"{path}?{query}" if query else path


def read_filters(args: Mapping[str, str]) -> Filters:
    """Raises InvalidQuery, naming the field. An empty member is none: a form sends all of them."""
    given = {field.name: text for field in FIELDS if (text := args.get(field.name, "").strip())}
    values = {field.name: field.read(given[field.name]) for field in FIELDS if field.name in given}
    return Filters(given, values)


# --- actions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What can be done to a task."""

    name: str
    """Also of its path, and with `page_` before it in `access.RULES`."""
    label: str
    statuses: frozenset[TaskStatus]
    """In which a task has the button. The engine decides: it may have changed since."""
    run: Callable[[TaskApi, str], Awaitable[Task | None]]
    """Gives the task as it is then; None where there is none any more."""
    done: str
    """The key of `texts.NOTICES` for it."""
    question: str
    """Asked before it is done to several; `{n}` is how many."""
    question_for_one: str | None = None
    """None: it is done to one without asking, since it harms nothing."""
    undo: str | None = None
    """The action that undoes it, for tasks that are then as they were."""
    can_undo: Callable[[Task, Task], bool] = lambda before, after: False
    dangerous: bool = False


def _never_started(before: Task, after: Task) -> bool:
    """A cancelled task that is put back begins a new round at once: for one that had neither
    started nor waited for its time, that is what it was."""
    is_due = before.run_at is None or before.run_at <= datetime.now(UTC)
    return after.status is TaskStatus.CANCELLED and before.attempt == 0 and is_due


CANCEL = Action(
    name="cancel",
    label="Cancel",
    statuses=frozenset({TaskStatus.PENDING, TaskStatus.PROCESSING}),
    run=lambda engine, task_id: engine.cancel(task_id),
    done="cancelled",
    question="Cancel the {n} selected tasks? Those that run are stopped.",
    question_for_one="Cancel this task? If it runs it is stopped.",
    undo="retry",
    can_undo=_never_started,
    dangerous=True,
)
RETRY = Action(
    name="retry",
    label="Retry",
    statuses=frozenset({TaskStatus.FAILED, TaskStatus.CANCELLED}),
    run=lambda engine, task_id: engine.retry(task_id),
    done="retried",
    question="Run the {n} selected tasks again, with all their attempts?",
)
ACTIONS = {action.name: action for action in (RETRY, CANCEL)}

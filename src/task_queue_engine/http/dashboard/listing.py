"""What tasks can be filtered by, and what can be done to those that are selected: a row here is a
field of the filter's form, or a button with its confirmation, its checks and its undo."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from task_queue_engine.backends.base import ListQuery
from task_queue_engine.engine.api import TaskApi
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.limits import DEFAULT_PAGE
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_actions import APPLIES_TO, TaskAction
from task_queue_engine.task_filter import TaskFilter

PAGE_SIZE = DEFAULT_PAGE


# --- filters --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One thing to filter by: a member of the URL's query and of `TaskFilter`, under one name."""

    name: str
    label: str
    read: Callable[[str], Any]
    """From what the query says. Raises InvalidQuery."""
    kind: str = "text"
    """Of the form's field: "text"; "type", which suggests the registered types; "moment"; "tabs":
    not in the form, but the row of links above it."""
    hint: str = ""
    is_rare: bool = False
    """Folded away until it is asked for."""


def _status(text: str) -> TaskStatus:
    try:
        return TaskStatus(text.upper())
    except ValueError:
        raise InvalidQuery(f"must be one of {', '.join(TaskStatus)}", field="status") from None


def _name_of(what: str, member: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if len(text) > 128:
            raise InvalidQuery(f"must be the name of a {what}", field=member)
        return text

    return read


def _moment(member: str) -> Callable[[str], datetime]:
    """As the browser's own field writes it, in UTC; a link may name another zone."""

    def read(text: str) -> datetime:
        try:
            moment = datetime.fromisoformat(text)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            raise InvalidQuery(
                f"{text[:40]!r} is no time: write it as 2030-12-31T18:30, in UTC", field=member
            ) from None

    return read


FIELDS = (
    Field(name="status", label="Status", read=_status, kind="tabs"),
    Field(name="type", label="Type", read=_name_of("task type", "type"), kind="type", hint="any"),
    Field(name="error", label="Error", read=str, hint="text in it"),
    Field(name="queue", label="Queue", read=_name_of("queue", "queue"), hint="any", is_rare=True),
    Field(name="id", label="Id", read=str.lower, hint="or its beginning", is_rare=True),
    Field(
        name="created_after",
        label="Created from (UTC)",
        read=_moment("created_after"),
        kind="moment",
        is_rare=True,
    ),
    Field(
        name="created_before",
        label="Created before (UTC)",
        read=_moment("created_before"),
        kind="moment",
        is_rare=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a URL asks for: of each field that it names the text, and the value or why it is none.
    A filter with something wrong in it lists what passes the rest, and is no filter to act by."""

    given: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    wrong: Mapping[str, str] = field(default_factory=dict)

    @property
    def which(self) -> TaskFilter:
        return TaskFilter(**self.values)

    def with_type(self, task_type: str) -> Filters:
        """For a key that is for one type only."""
        return Filters(
            {**self.given, "type": task_type}, {**self.values, "type": task_type}, self.wrong
        )

    def without(self, name: str, reason: str) -> Filters:
        """The store cannot be asked for it."""
        values = {each: value for each, value in self.values.items() if each != name}
        return Filters(self.given, values, {**self.wrong, name: reason})

    def query(self, *, cursor: str | None) -> ListQuery:
        return ListQuery(**self.values, limit=PAGE_SIZE, cursor=cursor)

    def members(self) -> dict[str, str]:
        """What is right in it, as a link or a form says it."""
        return {name: text for name, text in self.given.items() if name in self.values}

    def url(self, path: str, **changed: str | None) -> str:
        """The same filters in a link; None leaves one out."""
        members = {**self.members(), **changed}
        query = urlencode({name: text for name, text in members.items() if text})
        return f"{path}?{query}" if query else path

    def shown(self, name: str) -> str:
        """What the form's field says. (One for a time takes nothing else.)"""
        value = self.values.get(name)
        if isinstance(value, datetime):
            is_whole = not (value.second or value.microsecond)
            return value.replace(tzinfo=None).isoformat(
                timespec="minutes" if is_whole else "seconds"
            )
        is_no_time = name in self.wrong and name.startswith("created_")
        return "" if is_no_time else self.given.get(name, "")

    @property
    def asks_for_rare(self) -> bool:
        return any(each.name in self.given for each in FIELDS if each.is_rare)


def read_filters(args: Mapping[str, str]) -> Filters:
    """An empty member is none: a form sends all of them."""
    given = {each.name: text for each in FIELDS if (text := args.get(each.name, "").strip())}
    values, wrong = {}, {}
    for each in FIELDS:
        if each.name in given:
            try:
                value = each.read(given[each.name])
                TaskFilter(**{each.name: value}).check()
                values[each.name] = value
            except InvalidQuery as error:
                wrong[each.name] = error.reason
    return Filters(given, values, wrong)


# --- actions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What can be done to a task."""

    name: str
    """Also of its path, and of the `TaskAction` that does it to many."""
    label: str
    run: Callable[[TaskApi, str], Awaitable[Task | None]] | None
    """Gives the task as it is then; None where there is none any more. No such function: it is only
    done as a task of its own."""
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
    hint: str = ""
    """Where the label alone might be taken for another one's."""

    @property
    def statuses(self) -> frozenset[TaskStatus]:
        """In which a task has the button. The engine decides: it may have changed since."""
        return APPLIES_TO[TaskAction(self.name)]

    def yes(self, number: int | None = None) -> str:
        """Of the button that answers the question; without a number `{n}` stands for it."""
        if number == 1:
            return f"{self.label} the task"
        return f"{self.label} {'{n}' if number is None else number} tasks"

    def number_of(self, counts: Mapping[str, int] | None, status: str = "") -> int | None:
        """Of tasks by status, those that it applies to; None: it is not known."""
        if counts is None:
            return None
        number = sum(counts[each] for each in self.statuses if status in ("", each))
        return None if number and self is REDRIVE else number  # not all that failed have one

    def is_for(self, task: Task) -> bool:
        is_being_stopped = task.cancel_requested and task.status is TaskStatus.PROCESSING
        return task.status in self.statuses and not is_being_stopped


def _never_started(before: Task, after: Task) -> bool:
    """A cancelled task that is put back begins a new round at once: for one that had neither
    started nor waited for its time, that is what it was."""
    is_due = before.run_at is None or before.run_at <= datetime.now(UTC)
    return after.status is TaskStatus.CANCELLED and before.attempt == 0 and is_due


async def _delete(engine: TaskApi, task_id: str) -> None:
    await engine.delete(task_id)


CANCEL = Action(
    name="cancel",
    label="Cancel",
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
    run=lambda engine, task_id: engine.retry(task_id),
    done="retried",
    question="Run the {n} selected tasks again, with all their attempts?",
)
REDRIVE = Action(
    name="redrive",
    label="Redrive",
    run=None,
    done="redriven",
    question="Put the dead letters of the {n} selected tasks back to work?",
    hint="Puts the dead letter back to work: as a retry, and the dead letter is gone.",
)
DELETE = Action(
    name="delete",
    label="Delete",
    run=_delete,
    done="deleted",
    question="Delete the {n} selected tasks, with their history? This cannot be undone.",
    question_for_one="Delete this task, with its history? This cannot be undone.",
    dangerous=True,
)
ACTIONS = {action.name: action for action in (RETRY, REDRIVE, CANCEL, DELETE)}


def actions_for(filters: Filters) -> list[Action]:
    """Those that may apply to a task that passes."""
    status = filters.values.get("status")
    return [each for each in ACTIONS.values() if status is None or status in each.statuses]

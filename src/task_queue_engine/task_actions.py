"""Actions on many tasks: what can be asked for, and what is said of it. An action is a task itself,
of the type ACTION_TYPE; docs/adr/0047 says why and over which set it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from task_queue_engine.errors import InvalidQuery
from task_queue_engine.limits import MAX_BATCH
from task_queue_engine.task import Task, TaskStatus, is_task_id
from task_queue_engine.task_filter import TaskFilter

ACTION_TYPE = "tqe.bulk"
"""The task type of an action on many tasks."""

MAX_KEPT_IDS = MAX_BATCH
"""Of tasks that a cancel has cancelled, for its undo: as many as one action can be given by id.
They lie in its progress, which is written with every piece, 40 bytes each."""
MAX_REFUSALS = 20
"""Reasons kept, the first ones: more say the same."""


class TaskAction(StrEnum):
    """What is done to each task of the set."""

    CANCEL = "cancel"
    RETRY = "retry"
    REDRIVE = "redrive"
    """Put its dead letters back to work."""
    DELETE = "delete"
    """For good."""


_ENDED = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})
APPLIES_TO = {
    TaskAction.CANCEL: frozenset(TaskStatus) - _ENDED,
    TaskAction.RETRY: frozenset({TaskStatus.FAILED, TaskStatus.CANCELLED}),
    TaskAction.REDRIVE: frozenset({TaskStatus.FAILED}),
    TaskAction.DELETE: _ENDED,
}
"""Tasks in another status are no part of the action's set."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing was done to a task."""

    task_id: str
    reason: str


class ActionProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far an action is: the progress of its task, and its result."""

    done: int = 0
    failed: int = 0
    """Tasks that it could not be done to, though it applies to them."""
    skipped: int = 0
    """Tasks that have changed meanwhile, or are gone: by another action, say."""
    of: int = 0
    """Tasks in the set, as they were counted at the start."""
    refusals: tuple[Refusal, ...] = ()
    """The first of the failed and the skipped."""
    ids: tuple[str, ...] = ()
    """What a cancel has cancelled, for its undo: whole up to MAX_KEPT_IDS, else the first."""
    cursor: str | None = None
    """Where its next attempt would go on."""
    piece: tuple[str, ...] = ()
    """What may have been done since this was written."""
    piece_at: datetime | None = None
    """When it was written: a task of the piece that has ended since then was done."""

    def encode(self) -> dict[str, Any]:
        """As JSON; the numbers are there at 0 too."""
        numbers = {name: getattr(self, name) for name in ("done", "failed", "skipped", "of")}
        said: dict[str, Any] = msgspec.to_builtins(self)
        return numbers | said


class Matching(msgspec.Struct, frozen=True, kw_only=True):
    """How many tasks an action would be for now."""

    matching: int
    at_least: bool = False
    """There are more than could be counted in time."""


class ActionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An action, and for which tasks: by filter or by id."""

    action: TaskAction
    which: TaskFilter = TaskFilter()  # frozen
    ids: tuple[str, ...] | None = None
    types: tuple[str, ...] | None = None
    """Those of other types are left alone, whatever filter or ids say; None: all may be meant."""

    def check(self) -> None:
        """Raises InvalidQuery, naming the member."""
        self.which.check()
        if self.ids is None:
            return
        if not self.which.is_empty:
            raise InvalidQuery("give a filter or ids, not both", field="ids")
        if not 1 <= len(self.ids) <= MAX_BATCH:
            raise InvalidQuery(f"must be 1 to {MAX_BATCH} ids; or use a filter", field="ids")
        for number, each in enumerate(self.ids):
            if not isinstance(each, str) or not is_task_id(each):
                raise InvalidQuery("must be a task's id", field=f"ids[{number}]")

    def encode(self) -> dict[str, Any]:
        """The payload of its task."""
        said: dict[str, Any] = {"action": self.action.value}
        if self.ids is None:
            said["filter"] = msgspec.to_builtins(self.which.members())
        else:
            said["ids"] = list(self.ids)
        if self.types is not None:
            said["types"] = list(self.types)
        return said

    @classmethod
    def decode(cls, payload: Any) -> ActionRequest:
        """Raises InvalidQuery, naming the member."""
        if not isinstance(payload, Mapping):
            raise InvalidQuery("must be an object", field="body")
        _refuse_unknown(payload, ("action", "filter", "ids", "types"), within="")
        types, ids = payload.get("types"), payload.get("ids")
        if ids is None and payload.get("filter") is None:
            raise InvalidQuery('is missing: {} for all tasks, or give "ids"', field="filter")
        request = cls(
            action=decode_action(payload.get("action")),
            which=decode_filter(payload.get("filter")),
            ids=None if ids is None else tuple(_texts(ids, "ids")),
            types=None if types is None else tuple(_texts(types, "types")),
        )
        request.check()
        return request

    def is_within(self, task: Task) -> bool:
        return self.types is None or task.type in self.types


def decode_action(value: Any) -> TaskAction:
    """Raises InvalidQuery."""
    try:
        return TaskAction(value)
    except ValueError:
        raise InvalidQuery(f"must be one of {', '.join(TaskAction)}", field="action") from None


def decode_filter(value: Any) -> TaskFilter:
    """Of JSON. Raises InvalidQuery: a misspelt member must not mean all tasks."""
    if value is None:
        return TaskFilter()
    if not isinstance(value, Mapping):
        raise InvalidQuery("must be an object", field="filter")
    _refuse_unknown(value, [field.name for field in fields(TaskFilter)], within="filter.")
    for name, said in value.items():
        try:
            msgspec.convert({name: said}, TaskFilter)
        except msgspec.ValidationError as error:
            what = str(error).partition(" - at ")[0]
            raise InvalidQuery(f"cannot be this: {what}", field=f"filter.{name}") from None
    which = msgspec.convert(dict(value), TaskFilter)
    try:
        which.check()
    except InvalidQuery as error:
        raise InvalidQuery(error.reason, field=f"filter.{error.field}") from None
    return which


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str], *, within: str) -> None:
    for name in given:
        if name not in known:
            raise InvalidQuery(
                f"is not known; there are: {', '.join(known)}", field=f"{within}{str(name)[:100]}"
            )


def _texts(value: Any, field: str) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise InvalidQuery("must be a list of texts", field=field)
    return list(value)


def undo_of(task: Task) -> ActionRequest:
    """What takes an action back: a retry of exactly what a cancel has cancelled.

    Raises:
        InvalidQuery: for field "undo_of", where nothing can.
    """
    if task.type != ACTION_TYPE:
        raise InvalidQuery("is not the id of an action's task", field="undo_of")
    was = ActionRequest.decode(task.payload)
    if was.action is not TaskAction.CANCEL:
        raise InvalidQuery(f"a {was.action} cannot be undone", field="undo_of")
    if not task.status.is_terminal:
        raise InvalidQuery(f"is still {task.status}: cancel it first", field="undo_of")
    said = msgspec.convert(task.result or task.progress or {}, ActionProgress)
    # A piece that it had begun when it was cancelled itself.
    ids = (*said.ids, *said.piece)
    if not ids:
        raise InvalidQuery("has cancelled nothing", field="undo_of")
    if len(said.ids) < said.done or len(ids) > MAX_KEPT_IDS:
        raise InvalidQuery(
            f"has cancelled {said.done} tasks, and the ids of {MAX_KEPT_IDS} are kept at most: "
            "retry by a filter",
            field="undo_of",
        )
    return ActionRequest(action=TaskAction.RETRY, ids=ids, types=was.types)

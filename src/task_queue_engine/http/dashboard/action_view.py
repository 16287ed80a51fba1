"""An action on many tasks, as people see it: what it does to which tasks, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.errors import InvalidQuery
from task_queue_engine.http.dashboard import texts
from task_queue_engine.http.middleware import PAGES
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_actions import (
    ACTION_TYPE,
    APPLIES_TO,
    MAX_KEPT_IDS,
    ActionProgress,
    ActionRequest,
    TaskAction,
    undo_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionView:
    request: ActionRequest
    said: ActionProgress
    has_begun: bool
    """Its set has been counted."""
    undo: int
    """Of how many tasks it can be undone now."""
    too_many_to_undo: bool

    @property
    def words(self) -> texts.ActionWords:
        return texts.ACTIONS[self.request.action]

    @property
    def tasks(self) -> str:
        """Which ones, in words."""
        return tasks_of(self.request)

    @property
    def passed(self) -> int:
        """Of its set, what needs no more doing."""
        return self.said.done + self.said.failed + self.said.skipped

    @property
    def total(self) -> int:
        """Tasks may be put back meanwhile that were not counted at its start."""
        return max(self.said.of, self.passed)

    @property
    def percent(self) -> float:
        return 100 * self.passed / self.total if self.total else 0.0

    @property
    def reasons(self) -> Mapping[str, list[str]]:
        """Why nothing was done, of those whose reason is kept: with the tasks' ids."""
        found: dict[str, list[str]] = {}
        for one in self.said.refusals:
            found.setdefault(one.reason, []).append(one.task_id)
        return found

    def url_of(self, action: str, status: str) -> str:
        """Of the page that asks about another action on all that pass the same filter."""
        which = msgspec.to_builtins(self.request.which.members()) | {"status": status}
        return f"{PAGES}actions/{action}?{urlencode(which)}"


def tasks_of(request: ActionRequest) -> str:
    if request.ids is not None:
        number = len(request.ids)
        return "1 task, by its id" if number == 1 else f"{number:,} tasks, by their ids"
    which = request.which
    statuses = APPLIES_TO[request.action]
    return texts.tasks_that_pass(which, statuses if which.status is None else {which.status})


def view_of(task: Task, history: AttemptHistory | None = None) -> ActionView | None:
    """None for what is no action; or was written by a newer version, in a way not known here."""
    if task.type != ACTION_TYPE:
        return None
    try:
        request = ActionRequest.decode(task.payload)
        said = _said(task, history)
    except (InvalidQuery, msgspec.ValidationError):
        return None
    number = 0
    with suppress(InvalidQuery):
        number = len(undo_of(task).ids or ())
    is_cancel = request.action is TaskAction.CANCEL and task.status.is_terminal
    return ActionView(
        request=request,
        said=said or ActionProgress(),
        has_begun=said is not None,
        undo=number,
        too_many_to_undo=is_cancel and (said or ActionProgress()).done > MAX_KEPT_IDS,
    )


def _said(task: Task, history: AttemptHistory | None) -> ActionProgress | None:
    """Each attempt begins without a progress: the one before has it."""
    given = task.result if task.status is TaskStatus.COMPLETED else task.progress
    for attempt in reversed(history.attempts if history is not None else ()):
        if given is not None:
            break
        given = attempt.progress
    return None if given is None else msgspec.convert(given, ActionProgress)


def progress_of(value: object) -> ActionProgress | None:
    """Of an attempt at an action."""
    try:
        return msgspec.convert(value, ActionProgress)
    except msgspec.ValidationError:
        return None

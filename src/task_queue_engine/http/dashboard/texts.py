"""What code says to people who look at the pages. All else that they read is in `templates/`: a
sentence is where its place on the page is, and here only where code chooses among several."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import NamedTuple

from task_queue_engine.attempt_record import AttemptOutcome
from task_queue_engine.task import TaskStatus
from task_queue_engine.task_actions import TaskAction
from task_queue_engine.task_filter import TaskFilter

STATUSES: dict[str, str] = {
    TaskStatus.PENDING: "Pending",
    TaskStatus.PROCESSING: "Processing",
    TaskStatus.COMPLETED: "Completed",
    TaskStatus.FAILED: "Failed",
    TaskStatus.CANCELLED: "Cancelled",
}
OUTCOMES: dict[str, str] = {
    AttemptOutcome.RUNNING: "Running",
    AttemptOutcome.SUCCEEDED: "Succeeded",
    AttemptOutcome.FAILED: "Failed",
    AttemptOutcome.RETRIED: "Failed, retried",
    AttemptOutcome.SNOOZED: "Snoozed",
    AttemptOutcome.INTERRUPTED: "Given back by its worker",
    AttemptOutcome.LOST_LEASE: "Lost its lease",
    AttemptOutcome.CRASHED: "Crashed",
    AttemptOutcome.CANCELLED: "Cancelled",
}


class ActionWords(NamedTuple):
    """Of an action on many tasks."""

    title: str
    will: str
    """Before "12,431 tasks"."""
    note: str
    """What to know before it begins."""
    done: str
    """After "12,431 tasks"."""
    no_undo: str
    """Why it has none."""


ACTIONS: dict[TaskAction, ActionWords] = {
    TaskAction.CANCEL: ActionWords(
        title="Cancel many tasks",
        will="cancel",
        note="Those that run are stopped. It can be undone, for 1,000 tasks at most.",
        done="cancelled",
        no_undo="",
    ),
    TaskAction.RETRY: ActionWords(
        title="Retry many tasks",
        will="retry",
        note="Each begins a new round, with all its attempts.",
        done="put back to work",
        no_undo="A retry cannot be undone; what has not ended can be cancelled.",
    ),
    TaskAction.REDRIVE: ActionWords(
        title="Redrive dead letters",
        will="put back to work the dead letters of",
        note="Each begins a new round, with all its attempts, and its dead letter is gone.",
        done="put back to work",
        no_undo="A redrive cannot be undone; what has not ended can be cancelled.",
    ),
    TaskAction.DELETE: ActionWords(
        title="Delete many tasks",
        will="delete",
        note="They are gone for good, with their history. This cannot be undone.",
        done="deleted",
        no_undo="What is deleted is gone for good.",
    ),
}

NOTICES = {
    "cancelled": "{done} cancelled.",
    "retried": "{done} put back to work.",
    "deleted": "{done} deleted.",
    "nothing": "Nothing was done.",
    "nothing-chosen": "Nothing was selected.",
    "nothing-matches": "Nothing was done: no task matches any more that it could be done to.",
    "no-dead-letter": "Nothing was done: there is no dead letter. Retry does the same.",
    "no-undo": "Nothing was done: there is nothing to undo here.",
    "action-started": "It has begun. This page says how far it is, and may be left.",
    "undo-started": "The undo has begun: what was cancelled is put back to work.",
    "redriven": "{redriven} put back to work.",
    "purged": "{purged} deleted. Tasks stay as they are.",
    "submitted": "Submitted.",
    "logged-out": "Logged out.",
}
"""After a change; numbers come with them, as words: "1 task", "3 tasks"."""

NUMBERED = {
    "done": ("1 task", "{} tasks"),
    "redriven": ("1 dead letter", "{} dead letters"),
    "purged": ("1 dead letter", "{} dead letters"),
}
ADDITIONS = {
    "stopping": (
        "1 task was running and is being stopped.",
        "{} tasks were running and are being stopped.",
    ),
    "changed": (
        "1 was left alone: it has another status by now. Another person or a worker was faster.",
        "{} were left alone: they have another status by now. Other people or workers were faster.",
    ),
    "unended": (
        "1 was left alone: only what has ended can be deleted.",
        "{} were left alone: only what has ended can be deleted.",
    ),
    "kept": (
        "1 was left alone: cancelled lately, its message may be in the queue yet. See its page.",
        "{} were left alone: cancelled lately, their messages may be in the queue yet. See there.",
    ),
    "barred": (
        "1 stays FAILED: the queue refuses its message for good.",
        "{} stay FAILED: the queue refuses their messages for good.",
    ),
    "elsewhere": (
        "1 was left alone: its dead letter is in another queue. Redrive it on its own page.",
        "{} were left alone: their dead letters are in other queues. Filter by these queues.",
    ),
    "gone": ("1 is not there any more.", "{} are not there any more."),
    "skipped": (
        "1 was skipped: its task runs, is done or is gone, or another redrive was faster.",
        "{} were skipped: their tasks run, are done or are gone, or another redrive was faster.",
    ),
    "refused": (
        "1 stays: the queue refuses its message for good.",
        "{} stay: the queue refuses their messages for good.",
    ),
    "not_found": (
        "1 was not there any more: another redrive was faster.",
        "{} were not there any more: another redrive was faster.",
    ),
    "remaining": ("1 is left: press again.", "{} are left: press again."),
}
"""What is said besides where the number is not 0."""

FORM_IS_OLD = (
    "this form is out of date: the server or your session has begun anew since. Go back, reload "
    "the page and send it again."
)
NO_SUCH_PAGE = "there is no such page"
NO_SUCH_TASK = "There is no task with this id. It may have been deleted after its retention."
KEY_UNKNOWN = "This API key is not known, or has expired."
TOO_MANY_TRIES = "Too many tries from this address. Wait {seconds} s and try again."
NO_TYPE_CHOSEN = "Your key is for some task types only: choose one of them."
NOT_JSON = "is not JSON: {error}"


def tasks_that_pass(which: TaskFilter, statuses: Collection[TaskStatus]) -> str:
    """A filter in words: "all failed tasks of the type “email”"."""
    if which.id_is_whole:
        named = [f"the task {which.id}"]
    else:
        wanted = [STATUSES[each].lower() for each in TaskStatus if each in statuses]
        kinds = [] if len(wanted) == len(TaskStatus) else [_listed(wanted)]
        named = [" ".join(["all", *kinds, "tasks"])]
    if which.type is not None:
        named.append(f"of the type “{which.type}”")
    if which.queue is not None:
        named.append(f"in the queue “{which.queue}”")
    if which.id is not None and not which.id_is_whole:
        named.append(f"whose id begins with {which.id}")
    if which.error is not None:
        named.append(f"with “{which.error}” in their error")
    if which.created_after is not None:
        named.append(f"created from {_clock(which.created_after)} on")
    if which.created_before is not None:
        named.append(f"created before {_clock(which.created_before)}")
    return " ".join(named)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def counted(name: str, number: int) -> str:
    """ "1 task", "3 tasks"; a bare number where there is no word for it."""
    singular, plural = NUMBERED.get(name, ("1", "{}"))
    return singular if number == 1 else plural.format(f"{number:,}")


def notice_text(key: str, numbers: dict[str, int]) -> str:
    words = {name: counted(name, number) for name, number in numbers.items()}
    sentences = [] if numbers.get("done") == 0 else [NOTICES[key].format_map(_Known(words))]
    for name, (singular, plural) in ADDITIONS.items():
        if number := numbers.get(name, 0):
            sentences.append(singular if number == 1 else plural.format(f"{number:,}"))
    return " ".join(sentences) or NOTICES["nothing"]


class _Known(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "0"

"""What code says to people who look at the pages. All else that they read is in `templates/`: a
sentence is where its place on the page is, and here only where code chooses among several."""

from __future__ import annotations

from task_queue_engine.attempt_record import AttemptOutcome
from task_queue_engine.task import TaskStatus

STATUSES: dict[str, str] = {
    TaskStatus.PENDING: "Pending",
    TaskStatus.PROCESSING: "Running",
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
    AttemptOutcome.INTERRUPTED: "Interrupted by a shutdown",
    AttemptOutcome.LOST_LEASE: "Lost its lease",
    AttemptOutcome.CRASHED: "Crashed",
    AttemptOutcome.CANCELLED: "Cancelled",
}

NOTICES = {
    "cancelled": "{done} cancelled.",
    "stopping": "{done} cancelled; {stopping} running, being stopped now.",
    "retried": "{done} put back to work.",
    "nothing": "Nothing was done.",
    "nothing-chosen": "Nothing was selected.",
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
    "stopping": ("1 is", "{} are"),
}
ADDITIONS = {
    "changed": (
        "1 was left alone: it has another status by now. Another person or a worker was faster.",
        "{} were left alone: they have another status by now. Other people or workers were faster.",
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

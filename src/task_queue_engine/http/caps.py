"""How much a submission over HTTP may ask for beyond what its type was made for."""

from __future__ import annotations

from task_queue_engine.config import Settings
from task_queue_engine.errors import InvalidTask, UnknownTaskType
from task_queue_engine.http.schemas import TaskSubmission
from task_queue_engine.registry import TaskRegistry


def check_caps(submission: TaskSubmission, registry: TaskRegistry, settings: Settings) -> None:
    """A submitter may ask for as many attempts and as long a timeout as the type's own, and for
    more where the deployment says so: a thousand attempts of a day would hold a worker for years.
    The program that runs the engine may ask for what it likes.

    Raises:
        InvalidTask: naming the member, and the setting that allows more.
    """
    if submission.max_attempts is None and submission.timeout_seconds is None:
        return
    try:
        definition = registry.get(submission.type)
    except UnknownTaskType:
        return  # refused for that, with what else is wrong
    attempts = definition.max_attempts or settings.max_attempts
    timeout = definition.timeout or settings.task_timeout
    for field, wanted, own, more, variable in (
        (
            "max_attempts",
            submission.max_attempts,
            attempts,
            settings.submit_max_attempts,
            "TQE_SUBMIT_MAX_ATTEMPTS",
        ),
        (
            "timeout_seconds",
            submission.timeout_seconds,
            timeout,
            settings.submit_max_timeout,
            "TQE_SUBMIT_MAX_TIMEOUT",
        ),
    ):
        most = max(own, more or 0)
        if wanted is not None and wanted > most:
            raise InvalidTask(
                f"must be at most {most:g} for {definition.name!r}; {variable} allows more",
                field=field,
            )

"""Which backend the settings ask for."""

from __future__ import annotations

from task_queue_engine.backends.base import Backend
from task_queue_engine.clock import Clock
from task_queue_engine.config import Settings
from task_queue_engine.errors import ConfigurationError


def create_backend(settings: Settings, clock: Clock, *, runs_tasks: bool = False) -> Backend:
    """
    Args:
        runs_tasks: and does not only look, or submit.

    Raises:
        ConfigurationError.
    """
    if settings.uses_aws:
        return _aws_backend(settings, clock, runs_tasks)
    _refuse_half_of_aws(settings)
    # Only here: an engine on AWS has no use for it.
    from task_queue_engine.backends.sqlite import SqliteBackend

    return SqliteBackend(settings.database, clock=clock)


def _refuse_half_of_aws(settings: Settings) -> None:
    """A dead-letter queue or a table that is set means AWS: tasks must not go into a file instead,
    unless that is set too."""
    if "database" in settings.model_fields_set:
        return
    for variable, value in (
        ("SQS_DLQ_URL", settings.sqs_dlq_url),
        ("DYNAMODB_TABLE", settings.dynamodb_table),
    ):
        if value is not None:
            raise ConfigurationError(
                f"is not set, but {variable} is: set the queue's URL too, or unset {variable} (or "
                "set TQE_DATABASE) to keep tasks in an SQLite file",
                variable="SQS_QUEUE_URL",
            )


def _aws_backend(settings: Settings, clock: Clock, runs_tasks: bool) -> Backend:
    try:
        # Its libraries are an extra, and take a while to load.
        from task_queue_engine.backends.aws.backend import AwsBackend
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"is set, but SQS and DynamoDB need {error.name}: install this package with its extra "
            "'aws'",
            variable="SQS_QUEUE_URL",
        ) from error
    return AwsBackend.from_settings(settings, clock=clock, runs_tasks=runs_tasks)

"""Which backend the settings ask for."""

from __future__ import annotations

from task_queue_engine.backends.base import Backend
from task_queue_engine.backends.sqlite import SqliteBackend
from task_queue_engine.clock import Clock
from task_queue_engine.config import Settings
from task_queue_engine.errors import ConfigurationError


def create_backend(settings: Settings, clock: Clock) -> Backend:
    """Raises ConfigurationError."""
    if settings.uses_aws:
        return _aws_backend(settings, clock)
    return SqliteBackend(settings.database, clock=clock)


def _aws_backend(settings: Settings, clock: Clock) -> Backend:
    try:
        # Its libraries are an extra, and take a while to load.
        from task_queue_engine.backends.aws.backend import AwsBackend
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"is set, but SQS and DynamoDB need {error.name}: pip install 'task-queue-engine[aws]'",
            variable="SQS_QUEUE_URL",
        ) from error
    return AwsBackend.from_settings(settings, clock=clock)

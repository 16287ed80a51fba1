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
        raise ConfigurationError(
            "the SQS and DynamoDB backend is not part of this version; unset it to use SQLite",
            variable="SQS_QUEUE_URL",
        )
    return SqliteBackend(settings.database, clock=clock)

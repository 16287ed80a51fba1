"""What only the command line reads from the environment and `.env`."""

from __future__ import annotations

from pydantic import Field, SecretStr

from task_queue_engine.config import EnvironmentSettings

DEFAULT_APP = "task_queue_engine.handlers:registry"


class CommandSettings(EnvironmentSettings):
    """An option on the command line wins over its variable here."""

    app: str = Field(DEFAULT_APP, validation_alias="TQE_APP")
    url: str | None = Field(None, validation_alias="TQE_URL")
    """Of a server to talk to; None: straight to the backend."""
    api_key: SecretStr | None = Field(None, validation_alias="TQE_API_KEY")

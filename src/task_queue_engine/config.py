"""Settings from the environment and a `.env` file.

The names without a prefix are those of the Go service this engine succeeds; everything new is
`TQE_*`. An empty variable counts as unset.
"""

from __future__ import annotations

import os
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from task_queue_engine.errors import ConfigurationError
from task_queue_engine.limits import MAX_ATTEMPTS, MAX_TIMEOUT
from task_queue_engine.retry import MAX_SECONDS

MAX_SERVICE_PROCESSES = 1000
"""More than any machine has cores."""

Count = Annotated[int, Field(ge=1, le=10_000)]
Rate = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
"""A second; 0: without limit."""
Network = IPv4Network | IPv6Network
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


def _env(name: str, default: Any, **constraints: Any) -> Any:
    return Field(default, validation_alias=AliasChoices(name), **constraints)


@cache
def _names_of(settings: type[BaseSettings]) -> frozenset[str]:
    """All that a value is looked for by."""
    names = set(settings.model_fields)
    for field in settings.model_fields.values():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names.update(choice for choice in choices if isinstance(choice, str))
    return frozenset(names)


def _auto_is_none(value: Any) -> Any:
    return None if value == "auto" else value


class EnvironmentSettings(BaseSettings):
    """Base of all settings, the engine's and those of single handlers.

    Raises:
        ConfigurationError: naming the variable and what was expected.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        case_sensitive=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = self.variable_of(str(first["loc"][0])) if first["loc"] else None
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigurationError(message[:1].lower() + message[1:], variable=name) from None
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"is not UTF-8: {error}", variable=".env") from None

    @classmethod
    def variable_of(cls, name: str) -> str:
        """The environment variable behind a field's name; an error about a default has that."""
        field = cls.model_fields.get(name)
        alias = field.validation_alias if field is not None else None
        if isinstance(alias, AliasChoices):
            alias = alias.choices[0]
        return alias if isinstance(alias, str) else name


class Settings(EnvironmentSettings):
    """How the engine runs. Field names are for Python (`Settings(worker_count=10)`), the
    variables in the tables of docs/settings.md for the environment.
    """

    # Kept from the Go service.
    aws_region: str | None = _env("AWS_REGION", None)
    sqs_queue_url: str | None = _env("SQS_QUEUE_URL", None)
    sqs_dlq_url: str | None = _env("SQS_DLQ_URL", None)
    dynamodb_table: str | None = _env("DYNAMODB_TABLE", None)
    worker_count: Count = _env("WORKER_COUNT", 5)
    port: Annotated[int, Field(ge=0, le=65_535)] = _env("PORT", 8080)

    # Where things live.
    database: str = _env("TQE_DATABASE", "tasks.db")
    queue: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")] = _env("TQE_QUEUE", "default")
    dynamodb_writes: Literal["batch", "single"] = _env("TQE_DYNAMODB_WRITES", "batch")

    # HTTP.
    host: str = _env("TQE_HOST", "127.0.0.1")
    # Of `tqe worker`, which has no use for PORT and may share its environment with `tqe api`.
    worker_port: Annotated[int, Field(ge=0, le=65_535)] | None = _env("TQE_WORKER_PORT", None)
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = _env("TQE_API_KEYS", ())
    allow_public_without_keys: bool = _env("TQE_ALLOW_PUBLIC_WITHOUT_KEYS", False)
    max_body_bytes: Annotated[int, Field(ge=1024, le=64 * 2**20)] = _env(
        "TQE_MAX_BODY_BYTES", 256 * 1024
    )
    request_timeout: Seconds = _env("TQE_REQUEST_TIMEOUT", 30.0)
    max_connections: Count = _env("TQE_MAX_CONNECTIONS", 1000)
    keys_file: str | None = _env("TQE_KEYS_FILE", None)
    audit_log: Annotated[bool | None, BeforeValidator(_auto_is_none)] = _env("TQE_AUDIT_LOG", None)
    # None: made at the start, and known to all processes of this server alone.
    session_secret: SecretStr | None = _env("TQE_SESSION_SECRET", None)
    redact: Annotated[tuple[str, ...], NoDecode] = _env("TQE_REDACT", ())
    # Off: a key's requests are a team's own work, and a proxy's address is that of all clients.
    rate_limit_per_key: Rate = _env("TQE_RATE_LIMIT_PER_KEY", 0.0)
    rate_limit_per_address: Rate = _env("TQE_RATE_LIMIT_PER_ADDRESS", 0.0)
    max_connections_per_address: Annotated[int, Field(ge=0, le=10_000)] = _env(
        "TQE_MAX_CONNECTIONS_PER_ADDRESS", 0
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = _env("TQE_TRUSTED_PROXIES", ())

    # Running tasks.
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = _env("TQE_MAX_ATTEMPTS", 3)
    task_timeout: Seconds = _env("TQE_TASK_TIMEOUT", 300.0)
    # What a submission over HTTP may ask for at most, where that is more than its type's own.
    submit_max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] | None = _env(
        "TQE_SUBMIT_MAX_ATTEMPTS", None
    )
    submit_max_timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT)] | None = _env(
        "TQE_SUBMIT_MAX_TIMEOUT", None
    )
    max_result_bytes: Annotated[int, Field(ge=1024, le=64 * 2**20)] = _env(
        "TQE_MAX_RESULT_BYTES", 256 * 1024
    )
    threads: Count = _env("TQE_THREADS", 40)
    # As long as a task may take by default: a handler that takes less than twice its time never
    # runs beside itself.
    overlap_wait: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = _env(
        "TQE_OVERLAP_WAIT", 300.0
    )
    processes: Count = _env("TQE_PROCESSES", max(1, os.cpu_count() or 1))
    process_env: Annotated[tuple[str, ...], NoDecode] = _env("TQE_PROCESS_ENV", ())
    # 0: for as long as they last.
    max_tasks_per_process: Annotated[int, Field(ge=0)] = _env("TQE_MAX_TASKS_PER_PROCESS", 0)
    max_process_mib: Annotated[int, Field(ge=0)] = _env("TQE_MAX_PROCESS_MIB", 0)
    # Of `tqe serve`, `api` and `worker`; an engine inside another program is in that one process.
    service_processes: Annotated[int, Field(ge=0, le=MAX_SERVICE_PROCESSES)] = _env(
        "TQE_SERVICE_PROCESSES", 1
    )
    prefetch: Annotated[
        Annotated[int, Field(ge=0, le=10_000)] | None, BeforeValidator(_auto_is_none)
    ] = _env("TQE_PREFETCH", None)
    unknown_type_after: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = _env(
        "TQE_UNKNOWN_TYPE_AFTER", 86_400.0
    )

    # 0: none, and nothing is captured. A thousand is more than is kept in bytes anyway.
    task_log_lines: Annotated[int, Field(ge=0, le=1000)] = _env("TQE_TASK_LOG_LINES", 100)

    batch_linger: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = _env(
        "TQE_BATCH_LINGER", 0.0
    )

    # Leases, polling, shutdown.
    visibility_timeout: Annotated[float, Field(ge=1, le=43_200, allow_inf_nan=False)] = _env(
        "TQE_VISIBILITY_TIMEOUT", 30.0
    )
    # Not 0: an idle poller would never rest.
    poll_wait: Annotated[float, Field(ge=0.1, le=20, allow_inf_nan=False)] = _env(
        "TQE_POLL_WAIT", 20.0
    )
    cancel_poll: Seconds = _env("TQE_CANCEL_POLL", 1.0)
    shutdown_grace: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = _env(
        "TQE_SHUTDOWN_GRACE", 25.0
    )
    shutdown_flush: Seconds = _env("TQE_SHUTDOWN_FLUSH", 5.0)

    # Housekeeping.
    reconcile_interval: Seconds = _env("TQE_RECONCILE_INTERVAL", 30.0)
    retention: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = _env("TQE_RETENTION", 0.0)
    metrics_interval: Seconds = _env("TQE_METRICS_INTERVAL", 5.0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _env("TQE_LOG_LEVEL", "INFO")
    log_format: Literal["text", "json"] = _env("TQE_LOG_FORMAT", "text")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Those that have something: one takes a millisecond to find that it has nothing."""
        names = _names_of(settings_cls)
        return init_settings, *(
            source
            for source in (env_settings, dotenv_settings)
            if not isinstance(source, EnvSettingsSource) or not names.isdisjoint(source.env_vars)
        )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [key.strip() for key in value.split(",") if key.strip()]
        keys = [key.get_secret_value() if isinstance(key, SecretStr) else key for key in value]
        if any(len(key) < 16 for key in keys):
            raise ValueError("each key must have at least 16 characters")
        if any("\ud800" <= char <= "\udfff" for key in keys for char in key):
            # Bytes of the environment that are not UTF-8 (PEP 383): no request could be compared.
            raise ValueError("each key must be UTF-8 text")
        return tuple(keys)

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _split_networks(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [entry.strip() for entry in value.split(",") if entry.strip()]
        try:
            return tuple(ip_network(entry) for entry in value)
        except ValueError as error:
            raise ValueError(
                f"must be addresses or networks such as 10.1.0.0/16, separated by commas: {error}"
            ) from None

    @field_validator("process_env", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("session_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("must have at least 32 characters")
        return value

    @field_validator("redact", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [path.strip() for path in value.split(",") if path.strip()]
        for path in value:
            first, *members = path.split(".")
            if first not in ("payload", "result", "progress") or not all(members):
                raise ValueError(
                    f"{path!r} must be payload, result or progress and the names of members with "
                    "dots between them, such as payload.card.number"
                )
        return tuple(value)

    @property
    def asks_for_keys(self) -> bool:
        """Whether the HTTP API is for those with a key only."""
        return bool(self.api_keys) or self.keys_file is not None

    @property
    def keeps_audit_log(self) -> bool:
        """By default where keys have names."""
        return self.keys_file is not None if self.audit_log is None else self.audit_log

    @property
    def uses_aws(self) -> bool:
        """With `SQS_QUEUE_URL` set the backend is AWS, without it the SQLite file."""
        return self.sqs_queue_url is not None

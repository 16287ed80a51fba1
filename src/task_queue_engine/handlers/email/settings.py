"""Settings of the `email` task type, read when a task runs."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from task_queue_engine.config import EnvironmentSettings, Seconds
from task_queue_engine.handlers.email.addresses import parse_address
from task_queue_engine.handlers.folder_limits import FolderLimits
from task_queue_engine.retry import MAX_SECONDS

# Submission, implicit TLS (RFC 8314) and relay (RFC 5321).
_DEFAULT_PORTS = {"starttls": 587, "tls": 465, "none": 25}

_DEFAULT_SENDER = "Task Queue Engine <task-queue-engine@localhost>"


class EmailSettings(EnvironmentSettings):
    """Where mail goes: to an SMTP server, or into a folder while `SMTP_HOST` is not set."""

    host: str | None = Field(None, validation_alias="SMTP_HOST")
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", validation_alias="SMTP_SECURITY"
    )
    """Certificates are always verified, against the system's authorities or `SSL_CERT_FILE`."""
    port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(None, validation_alias="SMTP_PORT")
    username: str | None = Field(None, validation_alias="SMTP_USERNAME")
    password: SecretStr | None = Field(
        None, validation_alias="SMTP_PASSWORD", validate_default=True
    )
    sender: str = Field("", validation_alias="SMTP_FROM", validate_default=True)
    """An address, `Name <address>` or bare: the From header, and where bounces go."""
    timeout: Seconds = Field(30.0, validation_alias="SMTP_TIMEOUT")
    """Seconds to wait for the server at each step of the conversation."""
    outbox: Path = Field(Path("outbox"), validation_alias="TQE_OUTBOX")
    """A maildir-style folder; made when the first mail is written."""
    max_total_bytes: Annotated[int, Field(ge=0)] = Field(
        2**30, validation_alias="TQE_OUTBOX_MAX_TOTAL_BYTES"
    )
    """Of all mails in the outbox; 0: no limit."""
    retention: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = Field(
        0.0, validation_alias="TQE_OUTBOX_RETENTION"
    )
    """Seconds for which a mail is kept in the outbox; 0: for ever."""

    @field_validator("host")
    @classmethod
    def _host_is_a_name(cls, host: str | None) -> str | None:
        try:
            # As the resolver will; what it raises there is no trouble that passes.
            (host or "").encode("idna")
        except UnicodeError:
            raise ValueError("is not a host name or an address") from None
        return host

    @field_validator("username")
    @classmethod
    def _username_is_safe(cls, username: str | None, info: ValidationInfo) -> str | None:
        if username is None:
            return None
        if not username.isascii():
            raise ValueError("must be ASCII")
        if info.data.get("security") == "none" and not _is_loopback(info.data.get("host")):
            raise ValueError(
                "would cross the network in the clear with SMTP_SECURITY=none; "
                "use starttls or tls, or no SMTP_USERNAME"
            )
        return username

    @field_validator("password")
    @classmethod
    def _password_and_username_go_together(
        cls, password: SecretStr | None, info: ValidationInfo
    ) -> SecretStr | None:
        if (password is None) is not (info.data.get("username") is None):
            raise ValueError("goes together with SMTP_USERNAME: set both or neither")
        if password is not None and not password.get_secret_value().isascii():
            raise ValueError("must be ASCII")
        return password

    @field_validator("sender")
    @classmethod
    def _sender_is_an_address(cls, sender: str, info: ValidationInfo) -> str:
        if not sender and info.data.get("host") is not None:
            raise ValueError("is needed with SMTP_HOST: the address that mail is sent from")
        if sender:
            parse_address(sender)
        return sender or _DEFAULT_SENDER

    def folder_limits(self) -> FolderLimits:
        """Of the outbox."""
        return FolderLimits(
            max_bytes=self.max_total_bytes,
            variable="TQE_OUTBOX_MAX_TOTAL_BYTES",
            retention=self.retention,
        )

    @property
    def smtp_port(self) -> int:
        return self.port or _DEFAULT_PORTS[self.security]


def _is_loopback(host: str | None) -> bool:
    if host is None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

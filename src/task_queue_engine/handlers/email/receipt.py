"""What an `email` task returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A recipient the server did not take, and what it said."""

    address: str
    code: int
    """SMTP reply code: 4xx for now, 5xx for good."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailReceipt:
    """What became of the mail."""

    message_id: str
    """The mail's Message-ID, made of the task's id."""
    transport: Literal["smtp", "outbox"]
    accepted: list[str]
    """Addresses the server, or the outbox, has taken the mail for."""
    refused: list[Refusal] = field(default_factory=list)
    """Addresses the server did not take; the others have got the mail."""
    response: str | None = None
    """The server's answer to the mail."""
    path: str | None = None
    """The file in the outbox."""
    duplicate: bool = False
    """An earlier attempt had written the mail to the outbox; it was not written again."""

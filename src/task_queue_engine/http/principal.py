"""Who asks, whatever proved it: an API key, or a session that one has begun."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from task_queue_engine.http.audit import Change


class Role(StrEnum):
    """What a key may do. None includes another one, but `admin` includes all."""

    SUBMIT = "submit"
    READ = "read"
    OPERATE = "operate"
    """Cancel, retry, redrive, delete."""
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """On whose behalf a request is made."""

    name: str
    """For the audit log and rate limits: ``[A-Za-z0-9_-]`` and brackets, never a secret."""
    roles: frozenset[Role]
    types: frozenset[str] | None = None
    """The only task types it submits, sees and changes tasks of; None: all there are."""
    rate_limit: float | None = None
    """Requests a second; 0: without limit; None: as many as the server allows a key."""

    def may(self, role: Role) -> bool:
        return role in self.roles or Role.ADMIN in self.roles


ANYONE = Principal(name="anyone", roles=frozenset({Role.ADMIN}))
"""All that reach a server which asks for no key."""

NO_ONE = Principal(name="no-one", roles=frozenset())
"""A browser without a session: it may see the login page."""

_MEMBER = "tqe.asker"


class Asker:
    """Of one request: who asks, and what is to be written down of it."""

    __slots__ = ("change", "principal")

    def __init__(self, principal: Principal, change: Change | None) -> None:
        self.principal = principal
        self.change = change
        """None: no audit log is kept."""

    @staticmethod
    def of(scope: Mapping[str, Any]) -> Asker:
        """As the middleware has put it into a request's ASGI scope."""
        return cast("Asker", scope[_MEMBER])

    def remember(self, scope: Mapping[str, Any]) -> None:
        cast("dict[str, Any]", scope)[_MEMBER] = self

    def note(
        self, *, task_ids: Iterable[str] = (), task_types: Iterable[str] = (), **details: int
    ) -> None:
        """What a change is about, as soon as it is known, and numbers that say what came of it."""
        if self.change is not None:
            self.change.task_ids.extend(task_ids)
            self.change.task_types.update(task_types)
            self.change.details |= details


UNKNOWN_ASKER = Asker(ANYONE, None)
"""Where a server neither asks for keys nor keeps an audit log."""

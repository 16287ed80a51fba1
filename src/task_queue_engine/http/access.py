"""Which route needs which role: the one table. A route that is not in it is for `admin` alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from quart.wrappers import Request

from task_queue_engine.http.principal import Asker, Principal, Role
from task_queue_engine.http.problems import ProblemError
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.task import Task
from task_queue_engine.task_actions import ACTION_TYPE
from task_queue_engine.task_filter import TaskFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    role: Role
    change: str | None = None
    """What the audit log calls it; None: it changes nothing."""
    by_type: bool = False
    """The handler keeps a key that is for some task types to those (`check_type`). Others are not
    for such a key at all."""


RULES = {
    "submit_task": Rule(role=Role.SUBMIT, change="submit", by_type=True),
    "submit_batch": Rule(role=Role.SUBMIT, change="submit", by_type=True),
    "list_tasks": Rule(role=Role.READ, by_type=True),
    "get_task": Rule(role=Role.READ, by_type=True),
    "get_attempts": Rule(role=Role.READ, by_type=True),
    "cancel_task": Rule(role=Role.OPERATE, change="cancel", by_type=True),
    "delete_task": Rule(role=Role.OPERATE, change="delete", by_type=True),
    "act_on_tasks": Rule(role=Role.OPERATE, change="act", by_type=True),
    "retry_task": Rule(role=Role.OPERATE, change="retry", by_type=True),
    "list_dead_letters": Rule(role=Role.READ, by_type=True),
    "redrive_dead_letters": Rule(role=Role.OPERATE, change="redrive", by_type=True),
    "purge_dead_letters": Rule(role=Role.OPERATE, change="purge"),
    "get_metrics": Rule(role=Role.READ),
    "get_scale": Rule(role=Role.READ),
    "list_workers": Rule(role=Role.READ),
    "stream_events": Rule(role=Role.READ, by_type=True),
    "stream_task_events": Rule(role=Role.READ, by_type=True),
    # The pages; what they ask for is as above.
    "page_tasks": Rule(role=Role.READ, by_type=True),
    "page_task": Rule(role=Role.READ, by_type=True),
    "page_workers": Rule(role=Role.READ),
    "page_dead_letters": Rule(role=Role.READ, by_type=True),
    "page_submit": Rule(role=Role.SUBMIT, by_type=True),
    "page_submit_task": Rule(role=Role.SUBMIT, change="submit", by_type=True),
    "page_cancel": Rule(role=Role.OPERATE, change="cancel", by_type=True),
    "page_retry": Rule(role=Role.OPERATE, change="retry", by_type=True),
    "page_redrive_tasks": Rule(role=Role.OPERATE, change="redrive", by_type=True),
    "page_delete": Rule(role=Role.OPERATE, change="delete", by_type=True),
    "page_action": Rule(role=Role.OPERATE, by_type=True),
    "page_start_action": Rule(role=Role.OPERATE, change="act", by_type=True),
    "page_undo_action": Rule(role=Role.OPERATE, change="act", by_type=True),
    "page_redrive": Rule(role=Role.OPERATE, change="redrive", by_type=True),
    "page_purge": Rule(role=Role.OPERATE, change="purge"),
}
"""By the name of the route's handler, which is the `operationId` in the OpenAPI document."""

OPEN_ROUTES = frozenset(
    {
        *("get_health", "get_ready", "get_root", "get_docs", "get_openapi"),
        *("page_login", "page_log_in", "page_log_out", "page_theme", "page_static"),
    }
)
"""For all, key or not: those at OPEN_PATHS and PUBLIC_PATHS, and what leads to a session. The page
at / looks itself."""

_FOR_ADMIN = Rule(role=Role.ADMIN, change="request")
_READS = frozenset({"GET", "HEAD"})


def admit(request: Request) -> None:
    """Called for each request that has found its route, before its handler.

    Raises:
        ProblemError: 403, naming the role that is missing.
    """
    rule = request.url_rule
    if rule is None or rule.endpoint in OPEN_ROUTES or request.method == "OPTIONS":
        return
    needed = RULES.get(rule.endpoint, _FOR_ADMIN)
    asker = Asker.of(request.scope)
    change, principal = asker.change, asker.principal
    if change is not None and needed.change is not None and request.method not in _READS:
        change.action = needed.change
        change.path = request.scope["raw_path"].decode("latin-1")
    if not principal.may(needed.role):
        raise ProblemError(
            "missing-role",
            f"this needs the role {needed.role}, which the key {principal.name!r} does not have",
            headers=(
                (
                    "WWW-Authenticate",
                    f'Bearer error="insufficient_scope", scope="{needed.role}"',
                ),
            ),
            missing_role=needed.role,
        )
    if not needed.by_type:
        check_all_types(principal)


def check_all_types(principal: Principal, *, field: str | None = None) -> None:
    """Raises ProblemError (403) for a key that is for some task types only."""
    if principal.types is not None:
        raise ProblemError(
            "type-not-allowed",
            f"this concerns all task types, and the key {principal.name!r} is for tasks of "
            f"{_listed(principal)} only",
            field=field,
        )


class TypeScope:
    """Keeps a key that is for some task types to those, under all their names."""

    def __init__(self, registry: TaskRegistry) -> None:
        self._canonical: Callable[[str], str] = registry.canonical
        self._names = registry.runs_in

    def has(self, principal: Principal, task_type: str) -> bool:
        if principal.types is None:
            return True
        wanted = self._canonical(task_type)
        return any(self._canonical(each) == wanted for each in principal.types)

    def names(self, principal: Principal) -> tuple[str, ...] | None:
        """Of the types that the key is for, aliases too; None: all."""
        if principal.types is None:
            return None
        known = (name for name in self._names() if self.has(principal, name))
        return tuple(sorted({*principal.types, *known}))

    def check_task(self, principal: Principal, task: Task) -> None:
        """Raises ProblemError (403). An action is for those who may do it to all types that it may
        be for."""
        if principal.types is not None and task.type == ACTION_TYPE:
            said = task.payload if isinstance(task.payload, dict) else {}
            types = said.get("types")
            if types and all(self.has(principal, name) for name in types):
                return
        self.check(principal, task.type)

    def narrow(self, principal: Principal, wanted: TaskFilter) -> TaskFilter:
        """For a key of one type that type, where none is named. Raises ProblemError (403) for one
        of some types that names none of them."""
        if principal.types is None:
            return wanted
        if wanted.type is None and len(principal.types) == 1:
            wanted = replace(wanted, type=next(iter(principal.types)))
        self.check(principal, wanted.type or "")
        return wanted

    def check(self, principal: Principal, task_type: str) -> None:
        """Raises ProblemError (403)."""
        if not self.has(principal, task_type):
            raise ProblemError(
                "type-not-allowed",
                f"the key {principal.name!r} is for tasks of {_listed(principal)} only",
                field="type",
            )


def _listed(principal: Principal) -> str:
    return ", ".join(map(repr, sorted(principal.types or ())))

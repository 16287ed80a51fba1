"""Which pages there are. What makes them is imported with the first one that is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio
from quart import Quart, Response
from quart_schema import hide

from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.middleware import PAGES

if TYPE_CHECKING:
    from task_queue_engine.http.dashboard.pages import Dashboard

ROUTES = (
    ("GET", "tasks", "page_tasks"),
    ("GET", "tasks/<task_id>", "page_task"),
    ("POST", "tasks/cancel", "page_cancel"),
    ("POST", "tasks/retry", "page_retry"),
    ("POST", "tasks/redrive", "page_redrive_tasks"),
    ("POST", "tasks/delete", "page_delete"),
    ("GET", "actions/<action>", "page_action"),
    ("POST", "actions/<action>", "page_start_action"),
    ("POST", "actions/undo", "page_undo_action"),
    ("GET", "workers", "page_workers"),
    ("GET", "dead-letters", "page_dead_letters"),
    ("POST", "dead-letters/redrive", "page_redrive"),
    ("POST", "dead-letters/purge", "page_purge"),
    ("GET", "submit", "page_submit"),
    ("POST", "submit", "page_submit_task"),
    ("GET", "login", "page_login"),
    ("POST", "login", "page_log_in"),
    ("POST", "logout", "page_log_out"),
    ("POST", "theme", "page_theme"),
    ("GET", "static/<name>", "page_static"),
)
"""Method, path below `PAGES`, and the name that `access.RULES` has for it."""


class DashboardRoutes:
    def __init__(self, state: AppState, app: Quart) -> None:
        self._state = state
        self._app = app
        self._dashboard: Dashboard | None = None

    def register(self, app: Quart) -> None:
        for method, path, name in ROUTES:
            app.add_url_rule(PAGES + path, name, self._handler(name), methods=[method])

    def _handler(self, name: str) -> Callable[..., Awaitable[Response]]:
        @hide
        async def handle(**arguments: Any) -> Response:
            return await (await self._loaded()).handlers[name](**arguments)

        return handle

    async def overview(self) -> Response:
        """The page at /."""
        return await (await self._loaded()).overview()

    async def answer_error(self, error: Exception) -> Response:
        """A page that says what went wrong, or the way to the login."""
        return await (await self._loaded()).answer_error(error)

    async def _loaded(self) -> Dashboard:
        if self._dashboard is None:
            self._dashboard = await trio.to_thread.run_sync(self._load)
        return self._dashboard

    def _load(self) -> Dashboard:
        # Only here: a server whose pages are not looked at does without them.
        from task_queue_engine.http.dashboard.pages import Dashboard

        return Dashboard(self._state, has_events=self._has("/events"))

    def _has(self, path: str) -> bool:
        return any(rule.rule == path for rule in self._app.url_map.iter_rules())

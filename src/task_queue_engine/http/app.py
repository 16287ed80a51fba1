"""The Quart-Trio app: routes, error handlers, limits."""

from __future__ import annotations

import logging
from functools import partial

from quart import Response, request
from quart_trio import QuartTrio

from task_queue_engine.config import Settings
from task_queue_engine.engine.api import EngineApi
from task_queue_engine.http import access, audit, problems
from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.dashboard.routes import DashboardRoutes
from task_queue_engine.http.middleware import PAGES, Middleware
from task_queue_engine.http.quart_app import ApiApp
from task_queue_engine.http.responses import respond
from task_queue_engine.http.routes.actions import ActionRoutes
from task_queue_engine.http.routes.dead_letters import DeadLetterRoutes
from task_queue_engine.http.routes.documents import DocumentRoutes, wants_page
from task_queue_engine.http.routes.events import EventRoutes
from task_queue_engine.http.routes.observe import ObserveRoutes
from task_queue_engine.http.routes.tasks import TaskRoutes
from task_queue_engine.http.routes.workers import WorkerRoutes

EXTENSION = "task_queue_engine"

logger = logging.getLogger("task_queue_engine.http")


def create_app(
    engine: EngineApi, settings: Settings, *, only_monitoring: bool = False
) -> QuartTrio:
    """An ASGI app in front of `engine`. Until it is served (see `serve_http`) it does no I/O but to
    read `keys_file`.

    Args:
        only_monitoring: it has /health, /ready and /metrics, and all else is refused.

    It uses of `settings`: api_keys, keys_file, audit_log, rate_limit_per_key and _per_address,
    trusted_proxies, host (to know whether it is on loopback), max_body_bytes and request_timeout.

    Raises:
        ConfigurationError: naming TQE_KEYS_FILE, where that cannot be used.
    """
    state = AppState(engine, settings, only_monitoring=only_monitoring)
    app = ApiApp("task_queue_engine.http", static_folder=None, template_folder=None)
    app.extensions[EXTENSION] = state
    if settings.keeps_audit_log and audit.logger.level == logging.NOTSET:
        # What TQE_LOG_LEVEL says about lines for the operator is not said about these.
        audit.logger.setLevel(logging.INFO)
    if state.is_guarded:
        app.admit = access.admit
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    # The server keeps time for each connection as a whole; see connection.py.
    app.config["BODY_TIMEOUT"] = None
    app.config["RESPONSE_TIMEOUT"] = None
    # A path is what it is: no redirects to a nicer spelling, which would not be problem+json.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True

    dashboard = DashboardRoutes(state, app)
    ObserveRoutes(state).register(app)
    if not only_monitoring:
        TaskRoutes(state).register(app)
        ActionRoutes(state).register(app)
        EventRoutes(state).register(app)
        DeadLetterRoutes(state).register(app)
        WorkerRoutes(state).register(app)
        DocumentRoutes(app, dashboard).register(app)
        dashboard.register(app)

    app.register_error_handler(Exception, partial(_answer_error, state, dashboard))
    app.asgi_app = Middleware(app.asgi_app, state)  # type: ignore[method-assign] # Quart's way to wrap
    return app


def state_of(app: QuartTrio) -> AppState | None:
    """The AppState of an app made by `create_app`."""
    state = app.extensions.get(EXTENSION)
    return state if isinstance(state, AppState) else None


async def _answer_error(state: AppState, dashboard: DashboardRoutes, error: Exception) -> Response:
    is_page = request.path.startswith(PAGES) or wants_page(request)
    if is_page and not state.only_monitoring:
        return await dashboard.answer_error(error)
    problem, headers = problems.of_error(error)
    if problem.status == 404 and state.only_monitoring:
        problem = problems.make("not-found", problems.ONLY_MONITORING)
    if problem.status == 500:
        request_id = request.scope.get("tqe.request_id")
        logger.error("request %s failed", request_id, exc_info=error)
        problem = problems.with_request_id(problem, str(request_id))
    response = respond(problem, problem.status, content_type=problems.CONTENT_TYPE)
    response.headers.extend(headers)
    return response

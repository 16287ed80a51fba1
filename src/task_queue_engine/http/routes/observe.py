"""/metrics, /scale, /health and /ready: for monitoring."""

from __future__ import annotations

from datetime import UTC, datetime

import trio
from msgspec import UNSET
from quart import Quart, Response, request
from quart_schema import document_response, tag

from task_queue_engine.engine.api import Readiness
from task_queue_engine.engine.metrics import Scale
from task_queue_engine.engine.views import MetricsView
from task_queue_engine.http import problems, prometheus
from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.negotiation import choose
from task_queue_engine.http.responses import JSON, respond
from task_queue_engine.http.schemas import Health, Ready

TAG = "monitoring"

READY_TIMEOUT = 5.0
"""Seconds: a probe should hear "not ready" before it gives up by itself."""

# Seconds: the next probe of a load balancer, not a tight loop.
_RETRY_AFTER = "5"


class ObserveRoutes:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._engine = state.engine

    def register(self, app: Quart) -> None:
        app.add_url_rule("/metrics", "get_metrics", self.get_metrics, methods=["GET"])
        app.add_url_rule("/scale", "get_scale", self.get_scale, methods=["GET"])
        app.add_url_rule("/health", "get_health", self.get_health, methods=["GET"])
        app.add_url_rule("/ready", "get_ready", self.get_ready, methods=["GET"])

    @tag([TAG])
    @document_response(MetricsView)
    async def get_metrics(self) -> Response:
        """Counts and gauges.

        JSON, or what Prometheus reads where the Accept header prefers that: OpenMetrics 1.0.0, or
        the text format 0.0.4.
        """
        with self._state.request_deadline():
            metrics = await self._engine.metrics()
        offers = (JSON, prometheus.TEXT, prometheus.OPENMETRICS)
        chosen = choose(request.accept_mimetypes, offers)
        if chosen == JSON:
            return respond(MetricsView.of(metrics), Vary="Accept")
        text = await trio.to_thread.run_sync(prometheus.render, metrics, chosen)
        return respond(text, content_type=chosen, Vary="Accept")

    @tag([TAG])
    @document_response(Scale)
    async def get_scale(self) -> Response:
        """For autoscalers: how many slots are wanted.

        A second old at most, and nothing is written for it. 503 while the backend does not answer:
        an autoscaler that gets no number keeps what it has.
        """
        with self._state.request_deadline():
            return respond(await self._engine.scale())

    @tag([TAG])
    @document_response(Health)
    async def get_health(self) -> Response:
        """Alive? Asks no backend."""
        return respond(Health(status="healthy", timestamp=datetime.now(UTC)))

    @tag([TAG])
    @document_response(Ready)
    async def get_ready(self) -> Response:
        """Fit to serve? 503 with `reasons` when not."""
        readiness = Readiness(ready=False, reasons=("the engine did not answer in time",))
        with trio.move_on_after(READY_TIMEOUT):
            readiness = await self._engine.ready()
        reasons = readiness.reasons
        if self._state.draining:
            reasons = (*reasons, "shutting down")
        if readiness.ready and not reasons:
            notes = readiness.notes
            if (trouble := self._state.authenticator.trouble) is not None:
                notes = (*notes, trouble)
            ready = Ready(
                status="ready",
                notes=notes or UNSET,
                abandoned_threads=readiness.abandoned_threads,
            )
            return respond(ready)
        detail = "not fit to serve: " + ("; ".join(reasons) or "no reason was given")
        problem = problems.make("not-ready", detail, reasons=reasons)
        return respond(problem, 503, content_type=problems.CONTENT_TYPE, Retry_After=_RETRY_AFTER)

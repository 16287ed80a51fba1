"""/workers: who runs, and what."""

from __future__ import annotations

from quart import Quart, Response, request
from quart_schema import document_response, tag

from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.requests import Query
from task_queue_engine.http.responses import respond
from task_queue_engine.http.routes.observe import TAG
from task_queue_engine.worker import WorkerList


class WorkerRoutes:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._engine = state.engine

    def register(self, app: Quart) -> None:
        app.add_url_rule("/workers", "list_workers", self.list_workers, methods=["GET"])

    @tag([TAG])
    @document_response(WorkerList)
    async def list_workers(self) -> Response:
        """List the processes that live, and what each runs.

        Of all hosts that share the backend, as each said within the last 15 s or so; processes
        that only serve the API have no slots. `lost` counts workers that died without a word in
        the last hour.
        """
        Query(request, ())
        with self._state.request_deadline():
            return respond(await self._engine.workers())

"""/events and /tasks/{id}/events: what happens, as it happens."""

from __future__ import annotations

from functools import partial
from typing import cast

from hypercorn.typing import HTTPScope
from quart import Quart, Response, request
from quart_schema import document_headers, document_querystring, document_response, tag

from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.event_stream import EventResponses
from task_queue_engine.http.requests import Query, canonical_id
from task_queue_engine.http.routes.tasks import TAG
from task_queue_engine.http.schemas import EventHeaders, EventParameters
from task_queue_engine.http.streamed_response import StreamedResponse
from task_queue_engine.task_events import StateEvent

# Characters; far more than any that is given out.
_LONGEST_ID = 100


class EventRoutes:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._engine = state.engine
        self._responses = EventResponses(state)

    def register(self, app: Quart) -> None:
        app.add_url_rule("/events", "stream_events", self.stream_events, methods=["GET"])
        one = "/tasks/<task_id:task_id>/events"
        app.add_url_rule(one, "stream_task_events", self.stream_task_events, methods=["GET"])

    @tag([TAG])
    @document_querystring(EventParameters)
    @document_headers(EventHeaders)
    @document_response(StateEvent)
    async def stream_events(self) -> Response:
        """Follow all tasks, as server-sent events.

        Messages are `state`, `progress`, `log` and `gap` (something was missed, look again), each
        with a line of JSON. It never ends by itself; a comment comes every 15 s. A key that is for
        some task types sees those.
        """
        query = Query(request, ("type", "queue"))
        task_type, queue = query.type(), query.queue()
        principal, types = self._state.asker.principal, self._state.types
        of_type = None
        if principal.types is not None:
            if task_type is not None:
                types.check(principal, task_type)
            of_type = partial(types.has, principal)
        scope = cast("HTTPScope", request.scope)
        self._responses.check_room(scope)
        events = self._engine.events(
            type=task_type, queue=queue, after=_last_event_id(), of_type=of_type
        )
        return self._responses.of(scope, events, None)

    @tag([TAG])
    @document_headers(EventHeaders)
    @document_response(StateEvent)
    async def stream_task_events(self, task_id: str) -> Response:
        """Follow one task, as server-sent events.

        From its present state, with the lines and the progress so far, to its end, which is the
        message `end`.
        """
        wanted = canonical_id(task_id)
        Query(request, ())
        scope = cast("HTTPScope", request.scope)
        with self._state.request_deadline():
            if self._state.is_guarded:
                principal = self._state.asker.principal
                if principal.types is not None:
                    self._state.types.check_task(principal, await self._engine.get(wanted))
            if request.method == "HEAD":
                await self._engine.get(wanted)
                return StreamedResponse(_nothing)
            self._responses.check_room(scope)
            events = self._engine.events(wanted, after=_last_event_id())
            return self._responses.of(scope, events, await anext(events))


async def _nothing(_: object) -> None: ...


def _last_event_id() -> str | None:
    """What a client that comes back sends by itself."""
    given = request.headers.get("Last-Event-ID")
    return given[:_LONGEST_ID] if given else None

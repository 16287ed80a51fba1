"""Server-sent events (HTML, section 9.2): a response that goes on for as long as there is something
to say and the client listens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import trio
from hypercorn.typing import HTTPScope
from quart import Response

from task_queue_engine.engine.api import EngineApi
from task_queue_engine.errors import BackendUnavailable, EngineNotRunning
from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.principal import Principal
from task_queue_engine.http.problems import ProblemError
from task_queue_engine.http.session import cookie_of
from task_queue_engine.http.streamed_response import StreamedResponse
from task_queue_engine.task_events import EventStream, TaskEvent, name_of

HEARTBEAT = 15.0
"""Seconds without an event until a comment is sent: what stands between closes what is silent for
30 or 60. A key that is no longer good is noticed as often."""

# Milliseconds until a client that was sent away comes back: another process is there by then.
_COME_BACK_AFTER = 1000

_GOING_AWAY = b": the server goes away\nretry: %d\n\n" % _COME_BACK_AFTER
_BEATS = b":\n\n"
# Something at once, so that a client and what stands between see that it has begun.
_BEGINS = b": events\n\n"

_encode = msgspec.json.Encoder().encode


class EventResponses:
    """Makes streams of what an engine tells."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._engine: EngineApi = state.engine

    def check_room(self, scope: HTTPScope) -> None:
        """Raises ProblemError (503): too many wait already, or the server goes away."""
        if not self._state.waiting.has_room(scope):
            raise ProblemError(
                "unavailable",
                "too many requests wait already, or the server goes away; try again",
                headers=(("Retry-After", "1"),),
            )

    def of(self, scope: HTTPScope, events: EventStream, first: TaskEvent | None) -> Response:
        """Send `first` and what comes after it to the client that has sent this request."""
        principal = self._state.asker.principal

        async def stream(send: Callable[[bytes], Awaitable[None]]) -> None:
            try:
                with self._state.waiting.one(scope) as waiting:
                    await send(_BEGINS if first is None else message(first))
                    await self._pass_on(events, send, partial(self._may_still, scope, principal))
                if waiting.cancelled_caught:
                    await send(_GOING_AWAY)
            finally:
                with trio.CancelScope(shield=True):  # it waits for nothing
                    await events.aclose()

        return StreamedResponse(stream)

    async def _pass_on(
        self,
        events: EventStream,
        send: Callable[[bytes], Awaitable[None]],
        may_still: Callable[[], Awaitable[bool]],
    ) -> None:
        look_at = trio.current_time() + HEARTBEAT
        while True:
            data = _BEATS
            with trio.move_on_after(HEARTBEAT):
                try:
                    data = message(await anext(events))
                except StopAsyncIteration:
                    return
                except (EngineNotRunning, BackendUnavailable):
                    data = _GOING_AWAY
            await send(data)
            if data is _GOING_AWAY:
                return
            if trio.current_time() >= look_at:
                if not await may_still():
                    return
                look_at = trio.current_time() + HEARTBEAT

    async def _may_still(self, scope: HTTPScope, principal: Principal) -> bool:
        """Whether its key, or its session, is what it was when the stream began."""
        authenticator = self._state.authenticator
        if not authenticator.asks_for_keys:
            return True
        if authenticator.is_old:
            await authenticator.look_again()
        authorization = dict(scope["headers"]).get(b"authorization")
        if authorization is None:  # a page's script: its session may have ended
            return authenticator.who_has(cookie_of(scope["headers"])) == principal
        try:
            return authenticator.who(authorization) == principal
        except ProblemError:
            return False


def message(event: TaskEvent) -> bytes:
    """As it goes over the wire. JSON has no line ends in it, so `data` is one line."""
    id_ = b"id: %b\n" % event.id.encode() if event.id else b""
    data = _encode(msgspec.structs.replace(event, id=""))
    return b"%bevent: %b\ndata: %b\n\n" % (id_, name_of(event).encode(), data)

"""What all parts of the HTTP front end share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

import trio
from quart import request

from task_queue_engine.config import Settings
from task_queue_engine.engine.api import EngineApi
from task_queue_engine.http.access import TypeScope
from task_queue_engine.http.auth import Authenticator
from task_queue_engine.http.principal import UNKNOWN_ASKER, Asker
from task_queue_engine.http.redaction import redacting
from task_queue_engine.http.waiting_requests import WaitingRequests


class AppState:
    """One engine, behind one app: settings, and whether the server is going away."""

    def __init__(
        self, engine: EngineApi, settings: Settings, *, only_monitoring: bool = False
    ) -> None:
        self.engine = redacting(engine, settings.redact)
        self.settings = settings
        self.only_monitoring = only_monitoring
        self.authenticator = Authenticator(settings)
        self.is_guarded = settings.asks_for_keys or settings.keeps_audit_log
        """Who asks matters."""
        self.types = TypeScope(engine.registry)
        self.waiting = WaitingRequests(settings)
        self._draining = False

    @property
    def asker(self) -> Asker:
        """Of the request that is being handled."""
        return Asker.of(request.scope) if self.is_guarded else UNKNOWN_ASKER

    @property
    def draining(self) -> bool:
        return self._draining

    def drain(self) -> None:
        """The server is going away: answer clients that wait for a task, now and from now on."""
        self._draining = True
        self.waiting.drain()

    def request_deadline(self, extra: float = 0.0) -> AbstractContextManager[trio.CancelScope]:
        """Bounds what a request waits for: `TQE_REQUEST_TIMEOUT` and `extra` seconds, then
        TooSlowError, which is answered with 503."""
        return _Deadline(self.settings.request_timeout + extra)


class _Deadline:
    """`trio.fail_after` without its generator, which takes as long as the rest of it."""

    __slots__ = ("_scope", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> trio.CancelScope:
        self._scope = trio.CancelScope(deadline=trio.current_time() + self._seconds)
        return self._scope.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        swallowed = self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught:
            raise trio.TooSlowError
        return swallowed

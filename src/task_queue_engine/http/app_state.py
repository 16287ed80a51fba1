"""What all parts of the HTTP front end share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

import trio

from task_queue_engine.config import Settings
from task_queue_engine.engine.api import EngineApi

LONG_POLL_SHARE = 0.75
"""Of the connections. A quarter of them serves thousands of requests a second, which hold theirs
for milliseconds; more for those would only keep more waiters from waiting."""


class AppState:
    """One engine, behind one app: settings, and whether the server is going away."""

    def __init__(
        self, engine: EngineApi, settings: Settings, *, only_monitoring: bool = False
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.only_monitoring = only_monitoring
        self.connections = settings.max_connections
        """So many the server keeps at most."""
        self._draining = False
        self._long_polls: set[trio.CancelScope] = set()

    @property
    def draining(self) -> bool:
        return self._draining

    def drain(self) -> None:
        """The server is going away: answer clients that wait for a task, now and from now on."""
        self._draining = True
        for scope in self._long_polls:
            scope.cancel()

    @contextmanager
    def long_poll(self) -> Iterator[trio.CancelScope]:
        """A scope that is cancelled when the server starts to drain, and at once where long polls
        have their share of the connections: the rest is for those that submit and ask."""
        with trio.CancelScope() as scope:
            if self._draining or len(self._long_polls) >= self.connections * LONG_POLL_SHARE:
                scope.cancel()
            self._long_polls.add(scope)
            try:
                yield scope
            finally:
                self._long_polls.discard(scope)

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

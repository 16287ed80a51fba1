"""What all parts of the HTTP front end share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import trio

from task_queue_engine.config import Settings
from task_queue_engine.engine.api import EngineApi


class AppState:
    """One engine, behind one app: settings, and whether the server is going away."""

    def __init__(self, engine: EngineApi, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
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
        """A scope that is cancelled when the server starts to drain."""
        with trio.CancelScope() as scope:
            if self._draining:
                scope.cancel()
            self._long_polls.add(scope)
            try:
                yield scope
            finally:
                self._long_polls.discard(scope)

    def request_deadline(self, extra: float = 0.0) -> AbstractContextManager[trio.CancelScope]:
        """Bounds what a request waits for: `TQE_REQUEST_TIMEOUT` and `extra` seconds, then
        TooSlowError, which is answered with 503."""
        return trio.fail_after(self.settings.request_timeout + extra)

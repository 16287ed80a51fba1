"""Requests that wait for something to happen, and hold their connection meanwhile: long polls, and
whatever else only listens.

They have a share of the connections, all of them together, and never all: the rest is for those
that submit and ask, which hold theirs for milliseconds, and for probes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

SHARE = 0.75
"""Of the connections. A quarter of them serves thousands of requests a second; more for those would
only keep more waiters from waiting."""


class WaitingRequests:
    def __init__(self, connections: int) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._draining = False
        self.fit_into(connections)

    def fit_into(self, connections: int) -> None:
        """So many connections there are at most; of a single one there is nothing to wait with."""
        self.limit = int(connections * SHARE)

    @property
    def have_room(self) -> bool:
        """For another one. A long poll without is answered at once; what cannot be answered without
        waiting is refused."""
        return not self._draining and len(self._scopes) < self.limit

    def drain(self) -> None:
        """End them all, and those to come at once: the server goes away."""
        self._draining = True
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def one(self) -> Iterator[trio.CancelScope]:
        """A scope to wait in. It is cancelled when the server starts to drain, and from the start
        where there is no room."""
        with trio.CancelScope() as scope:
            if not self.have_room:
                scope.cancel()
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

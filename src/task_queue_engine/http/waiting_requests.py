"""Requests that wait for something to happen, and hold their connection meanwhile: long polls, and
whatever else only listens.

They have a share of the connections, all of them together, and never all: the rest is for those
that submit and ask, which hold theirs for milliseconds, and for probes. Where an address may have
so many connections, its waiting ones have that share of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from task_queue_engine.config import Settings
from task_queue_engine.http.client_address import ClientAddresses
from task_queue_engine.http.crowd import address_of

SHARE = 0.75
"""Of the connections. A quarter of them serves thousands of requests a second; more for those would
only keep more waiters from waiting."""


class WaitingRequests:
    def __init__(self, settings: Settings) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._draining = False
        self._limits_addresses = settings.max_connections_per_address > 0
        self._per_address = int(settings.max_connections_per_address * SHARE)
        self._addresses = ClientAddresses(settings.trusted_proxies)
        self._of_address: Counter[str] = Counter()
        self.fit_into(settings.max_connections)

    def fit_into(self, connections: int) -> None:
        """So many connections there are at most; of a single one there is nothing to wait with."""
        self.limit = int(connections * SHARE)

    def drain(self) -> None:
        """End them all, and those to come at once: the server goes away."""
        self._draining = True
        for scope in self._scopes:
            scope.cancel()

    def has_room(self, request: Mapping[str, Any]) -> bool:
        """Whether the request with this ASGI scope may wait: for one that cannot be answered
        without."""
        return self._may_wait(self._address(request))

    @contextmanager
    def one(self, request: Mapping[str, Any]) -> Iterator[trio.CancelScope]:
        """A scope for the request with this ASGI scope to wait in. It is cancelled when the server
        starts to drain, and from the start where there is no room: a long poll is answered at once
        then, and what cannot be answered without waiting is to be refused."""
        address = self._address(request)
        with trio.CancelScope() as scope:
            if not self._may_wait(address):
                scope.cancel()
            self._scopes.add(scope)
            if address is not None:
                self._of_address[address] += 1
            try:
                yield scope
            finally:
                self._scopes.discard(scope)
                if address is not None:
                    self._of_address[address] -= 1
                    if not self._of_address[address]:
                        del self._of_address[address]

    def _may_wait(self, address: str | None) -> bool:
        if self._draining or len(self._scopes) >= self.limit:
            return False
        return address is None or self._of_address[address] < self._per_address

    def _address(self, request: Mapping[str, Any]) -> str | None:
        """None: it has no limit of its own, as a proxy has none."""
        client = request.get("client") if self._limits_addresses else None
        return None if not client or self._addresses.is_proxy(client[0]) else address_of(client[0])

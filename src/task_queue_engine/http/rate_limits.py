"""How many requests a second a key and an address may make: token buckets in this process's memory.

A bucket holds what comes into it in BURST seconds, so that work which was gathered may come at once
and only the average counts. It is kept as one number, the time at which it is full again (the
generic cell rate algorithm), and one that is full need not be kept at all.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

import trio

from task_queue_engine.config import Settings
from task_queue_engine.http.principal import Principal
from task_queue_engine.http.problems import Headers, ProblemError

BURST = 10.0
"""Seconds."""
MOST_BUCKETS = 65_536
"""Kept at one time, some 20 MB. Beyond that the one that was used longest ago is forgotten, with
what had been taken from it: a client with that many addresses is limited by none of them."""


class Taken(NamedTuple):
    """What came of asking a bucket."""

    size: int
    """Requests that fit into it."""
    window: int
    """Seconds in which so many come into it."""
    left: int
    full_in: float
    """Seconds."""
    wait: float
    """Seconds until the next may come; 0: this one may."""


class Buckets:
    """One for each name."""

    def __init__(self, *, most: int = MOST_BUCKETS) -> None:
        self._most = most
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """On trio's clock, the one used last at the end."""

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, name: str, rate: float) -> Taken:
        """One request of `rate` a second."""
        now = trio.current_time()
        size = max(1, math.floor(rate * BURST))
        window = math.ceil(size / rate)
        full_at = max(now, self._full_at.get(name, now))
        wait = full_at - now - (size - 1) / rate
        if wait > 1e-9:  # what adding up in floating point leaves
            self._full_at.move_to_end(name)
            return Taken(size, window, 0, full_at - now, wait)
        full_at += 1 / rate
        self._full_at[name] = full_at
        self._full_at.move_to_end(name)
        self._forget(now)
        left = math.floor(size - (full_at - now) * rate + 1e-9)
        return Taken(size, window, left, full_at - now, 0.0)

    def _forget(self, now: float) -> None:
        """Those that are full, two with each that may come: so few are looked at, and all are."""
        for _ in range(2):
            name, full_at = next(iter(self._full_at.items()))
            if full_at > now and len(self._full_at) <= self._most:
                return
            del self._full_at[name]


class RateLimits:
    """Raises ProblemError (429) for a request that is one too many; else gives the headers that
    tell a client where it stands (draft-ietf-httpapi-ratelimit-headers-10)."""

    def __init__(self, settings: Settings) -> None:
        self._per_address = settings.rate_limit_per_address
        self._per_key = settings.rate_limit_per_key
        self._addresses = Buckets()
        self._keys = Buckets()

    @property
    def by_address(self) -> bool:
        return self._per_address > 0

    def check_address(self, address: str) -> Headers:
        return _judge("address", self._addresses.take(address, self._per_address))

    def check_key(self, principal: Principal) -> Headers:
        rate = self._per_key if principal.rate_limit is None else principal.rate_limit
        if not rate:
            return ()
        return _judge("key", self._keys.take(principal.name, rate))


def _judge(whose: str, taken: Taken) -> Headers:
    headers = (
        ("RateLimit-Policy", f'"{whose}";q={taken.size};w={taken.window}'),
        ("RateLimit", f'"{whose}";r={taken.left};t={math.ceil(taken.full_in)}'),
    )
    if not taken.wait:
        return headers
    seconds = max(1, math.ceil(taken.wait))
    raise ProblemError(
        "too-many-requests",
        f"too many requests of this {whose}: it may make {taken.size} in {taken.window} s; try "
        f"again in {seconds} s",
        headers=(("Retry-After", str(seconds)), *headers),
    )

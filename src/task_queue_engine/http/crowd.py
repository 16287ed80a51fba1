"""The connections that are open, and which of them makes room for another when there are too many.

Room is made by those that wait for their client and not for us: first of the address that has the
most of them, so that one client cannot shut the others out; and no address ever displaces one that
has less. There is no fixed share for an address unless one is set: behind a load balancer all
clients have the same.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import IntEnum, auto
from ipaddress import IPv6Address, ip_address
from typing import Generic, Protocol, TypeVar

# A subscriber is given at least this much of IPv6 (RFC 6177): what lies in it is one client.
_IPV6_PREFIX = 64


class Phase(IntEnum):  # a plain one hashes in Python, at every step of every request
    """What a connection waits for."""

    IDLE = auto()
    """The next request of a client that has been answered."""
    ASKING = auto()
    """The first byte, or the rest of a request's head."""
    SENDING = auto()
    """The rest of a request's body."""
    BUSY = auto()
    """Our own answer."""
    TAKING = auto()
    """That its client takes the answer."""


# In this order: closing an idle one costs its client a new connection, a head that takes long is
# more suspicious than a body that does, and an answer is work done. What is being handled is never
# dropped.
_MAKES_ROOM = (Phase.IDLE, Phase.ASKING, Phase.SENDING, Phase.TAKING)


class Member(Hashable, Protocol):
    def crowd_out(self) -> None:
        """Make room for another."""
        ...


M = TypeVar("M", bound=Member)


class Crowd(Generic[M]):
    """At most `limit` connections, kept by address and phase."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._where: dict[M, tuple[str, Phase]] = {}
        self._by_address: dict[str, dict[Phase, dict[M, None]]] = {}
        """In each phase in the order in which they came into it."""

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, member: object) -> bool:
        return member in self._where

    @property
    def members(self) -> tuple[M, ...]:
        return tuple(self._where)

    def add(self, member: M, address: str) -> None:
        """A new one, from which nothing has come yet."""
        phases = self._by_address.setdefault(address, {phase: {} for phase in Phase})
        phases[Phase.ASKING][member] = None
        self._where[member] = address, Phase.ASKING

    def move(self, member: M, phase: Phase) -> None:
        """It is in this phase now. One that is not here any more is let go."""
        place = self._where.get(member)
        if place is None or place[1] is phase:
            return
        address, before = place
        del self._by_address[address][before][member]
        self._by_address[address][phase][member] = None
        self._where[member] = address, phase

    def discard(self, member: M) -> None:
        place = self._where.pop(member, None)
        if place is None:
            return
        address, phase = place
        phases = self._by_address[address]
        del phases[phase][member]
        if not any(phases.values()):
            del self._by_address[address]

    def has_room_for(self, address: str, *, at_most: int | None = None) -> bool:
        """Whether one from this address may come in, after another has been dropped if need be: one
        of its own where it has `at_most` already."""
        if at_most is not None and self._size(address) >= at_most:
            victim = self._first_to_drop(address)
            if victim is not None:
                self.discard(victim)
                victim.crowd_out()
            return victim is not None
        if len(self._where) < self.limit:
            return True
        victim = self._one_to_drop(self._size(address))
        if victim is None:
            return False
        self.discard(victim)
        victim.crowd_out()
        return True

    def shed(self) -> bool:
        """Drop one; False where all are being answered."""
        victim = self._one_to_drop(0)
        if victim is not None:
            self.discard(victim)
            victim.crowd_out()
        return victim is not None

    def _one_to_drop(self, at_least: int) -> M | None:
        """Of the largest address that has one, among those of this size and more."""
        for address in sorted(self._by_address, key=self._size, reverse=True):
            if self._size(address) < at_least:
                break
            member = self._first_to_drop(address)
            if member is not None:
                return member
        return None

    def _first_to_drop(self, address: str) -> M | None:
        for phase in _MAKES_ROOM:
            for member in self._by_address[address][phase]:
                return member
        return None

    def _size(self, address: str) -> int:
        return sum(len(members) for members in self._by_address.get(address, {}).values())


def address_of(host: str) -> str:
    """What counts as one client: an IPv4 address, an IPv6 network of 64 bits."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return address.packed[: _IPV6_PREFIX // 8].hex(":", 2)
    return str(address)

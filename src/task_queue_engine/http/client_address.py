"""Which address a request comes from: the connection's, or what a trusted proxy says of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network

# Entries of X-Forwarded-For that are looked at, from its end: no chain of proxies is longer.
_HOPS = 32


class ClientAddresses:
    """
    Args:
        trusted: networks of proxies, `TQE_TRUSTED_PROXIES`. From anywhere else X-Forwarded-For is
            what the client likes to say, and is not looked at.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = trusted

    def is_proxy(self, host: str) -> bool:
        if not self._trusted:
            return False
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    def of(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The address, as text.

        Each proxy adds the address that it sees at the end of X-Forwarded-For. So it is read from
        there, for as long as proxies that are trusted say so: the first address that is none of
        theirs is the client's, and what stands before it was sent by the client.
        """
        if not self.is_proxy(peer):
            return peer
        given = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        address = peer
        for entry in reversed(given.decode("latin-1").rsplit(",", _HOPS)[-_HOPS:]):
            found = _parse(entry)
            if found is None:
                break
            address = found
            if not self.is_proxy(address):
                break
        return address


def _parse(entry: str) -> str | None:
    """Some proxies add a port."""
    text = entry.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text.partition("%")[0]))
    except ValueError:
        return None

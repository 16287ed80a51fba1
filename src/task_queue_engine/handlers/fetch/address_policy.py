"""Which internet addresses a fetch on a client's behalf may connect to. Pure.

The tables are IANA's special-purpose address registries (RFC 6890 and its successors) for IPv4
and IPv6, spelled out: `ipaddress.is_global` has changed its mind between Python releases, and
counts multicast and tunnel addresses as global.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network

_IPV4_REFUSED = tuple(
    (IPv4Network(cidr), kind)
    for cidr, kind in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared (carrier-grade NAT)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        # Looks public, but on every Azure machine it is the platform's own wire server.
        ("168.63.129.16/32", "cloud platform"),
    )
)

# Global unicast is 2000::/3; nothing outside of it is ever a public host. This also covers the
# IPv4-mapped, IPv4-compatible, NAT64, ULA, link-local, site-local and multicast blocks; those
# with a well-known name are listed for the sake of the message.
_IPV6_GLOBAL_UNICAST = IPv6Network("2000::/3")
_IPV6_REFUSED = tuple(
    (IPv6Network(cidr), kind)
    for cidr, kind in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPolicy:
    """Public addresses on `ports`, and any port in `allow_networks`."""

    allow_networks: tuple[Network, ...] = ()
    """Exceptions, taken as they are written: a tunnel prefix listed here opens what is behind."""
    ports: frozenset[int] = frozenset({80, 443})
    """Of public hosts; with others a client could scan the ports of third parties."""

    def refusal(self, address: str, port: int) -> str | None:
        """Why no connection to this numeric `address` and `port` may be made; None if it may."""
        parsed = ip_address(address)
        if any(parsed in network for network in self.allow_networks):
            return None
        kind = _special_kind(parsed)
        if kind is not None:
            article = "an" if kind[0] in "aeiouI" else "a"
            return f"{article} {kind} address"
        if port not in self.ports:
            allowed = ", ".join(str(number) for number in sorted(self.ports))
            return f"port {port}, and only {allowed} may be used"
        return None


def _special_kind(address: IPv4Address | IPv6Address) -> str | None:
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in _IPV4_REFUSED if address in network), None)
    for network, kind in _IPV6_REFUSED:
        if address in network:
            return kind
    return None if address in _IPV6_GLOBAL_UNICAST else "reserved"

"""Which proxy the environment names: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.

What urllib makes of them, but for NO_PROXY: there IPv6 addresses, with brackets and without, and
networks in CIDR notation are understood too, as curl does.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.request import getproxies


@dataclass(frozen=True, slots=True)
class ProxySetting:
    url: str
    """As it was given: nothing has been checked."""
    variable: str
    """Where it comes from, for messages about it."""


def proxy_for(host: str, port: int, *names: str) -> ProxySetting | None:
    """The proxy on the way to a host.

    Args:
        host: a name or an address, without brackets.
        names: "https", "http" or "all": whose proxy, the first that there is.
    """
    proxies = getproxies()
    if _bypasses(proxies.get("no", ""), host, port):
        return None
    for name in names:
        url = proxies.get(name)
        if url:
            return ProxySetting(url, _variable(name))
    return None


def _variable(name: str) -> str:
    """urllib prefers the one in lower case."""
    lower = f"{name}_proxy"
    return lower if os.environ.get(lower) else lower.upper()


def _bypasses(no_proxy: str, host: str, port: int) -> bool:
    host = host.lower().rstrip(".")
    entries = [entry for entry in re.split(r"[\s,]+", no_proxy.lower()) if entry]
    return any(entry == "*" or _names(entry, host, port) for entry in entries)


def _names(entry: str, host: str, port: int) -> bool:
    """Whether one entry of NO_PROXY means this host. What is no entry means none."""
    with_port = re.fullmatch(r"(\[[^\]]*\]|[^:]*):([0-9]+)", entry)
    if with_port is not None:
        if int(with_port[2]) != port:
            return False
        entry = with_port[1]
    entry = entry.strip("[]").rstrip(".")
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        suffix = entry.lstrip("*.")
        return bool(suffix) and (host == suffix or host.endswith(f".{suffix}"))
    try:
        return address in ip_network(entry.partition("%")[0], strict=False)
    except ValueError:
        return False

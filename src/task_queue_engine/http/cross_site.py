"""What web pages may not do to a server that asks for no key.

A page of any site can make its visitor's browser send requests to 127.0.0.1. With API keys that is
harmless, since a browser does not add a bearer token by itself. Without keys two things stand in
the way:

- **Cross-site requests.** Browsers say where a request comes from (`Origin`, `Sec-Fetch-Site`);
  one that comes from elsewhere is refused. Bodies have to be `application/json` besides, which no
  form can send.
- **DNS rebinding.** A page may point its own host name at 127.0.0.1 and so become same-origin. Then
  the `Host` header has that name: on loopback only loopback names are answered.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

from task_queue_engine.http.problems import ProblemError


def is_loopback_name(host: str) -> bool:
    """Whether `host` (a name or an address, without a port) means this machine itself."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class CrossSiteCheck:
    """For a server without keys, and for what the pages' forms send to any. `loopback` says that it
    is without keys and bound to loopback only."""

    def __init__(self, *, loopback: bool) -> None:
        self._loopback = loopback

    def check(self, host: bytes | None, origin: bytes | None, fetch_site: bytes | None) -> None:
        """Raises ProblemError (403, 421). The arguments are header values, None where absent."""
        if self._loopback and host is not None and not _is_ours(host):
            raise ProblemError(
                "misdirected-request",
                "without API keys this server answers only to localhost or a loopback address",
                field="Host",
            )
        if fetch_site == b"cross-site" or (origin is not None and not _same_origin(origin, host)):
            raise ProblemError(
                "forbidden",
                "requests from other sites' pages are not taken here",
                field="Origin",
            )


@lru_cache(maxsize=256)
def _is_ours(host: bytes) -> bool:
    return is_loopback_name(_without_port(host.decode("latin-1")))


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _same_origin(origin: bytes, host: bytes | None) -> bool:
    _, separator, authority = origin.lower().partition(b"://")
    return bool(separator) and host is not None and authority == host.lower()

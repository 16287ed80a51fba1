"""The host and the path a request is for, checked before anything relies on them."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from hypercorn.typing import HTTPScope

from task_queue_engine.http.problems import ProblemError

# RFC 3986, section 3.2.2, with the length of a label from RFC 1035. The router raises outside its
# own error handling for a host that cannot be a name.
_HOST = re.compile(
    rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,126}\.?)(:[0-9]{1,5})?"
)
# Valid hosts that are remembered; a client can send any number of different ones.
_REMEMBERED = 1000


class HostCheck:
    def __init__(self) -> None:
        self._known_hosts: set[bytes] = set()

    def check(self, scope: HTTPScope, host: bytes | None) -> bytes | None:
        """The host the request is for, as a Host header has it; None where it names none.

        A target in absolute form, which servers have to take (RFC 9112, section 3.2.2), is brought
        into origin form: its host replaces the Host header, its path the path.

        Raises:
            ProblemError: 400.
        """
        if not scope["path"].startswith("/"):
            host = _to_origin_form(scope)
        if host is not None and host not in self._known_hosts:
            if not _HOST.fullmatch(host):
                raise ProblemError("bad-request", "this cannot be a host", field="Host")
            if len(self._known_hosts) < _REMEMBERED:
                self._known_hosts.add(host)
        return host


def _to_origin_form(scope: HTTPScope) -> bytes:
    try:
        parts = urlsplit(scope["raw_path"].decode("latin-1"))
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ProblemError("bad-request", "the request's target must be a path")
    host = parts.netloc.encode("latin-1")
    path = parts.path or "/"
    scope["path"] = unquote(path)
    scope["raw_path"] = path.encode("latin-1")
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    scope["headers"] = [(b"host", host), *others]
    return host

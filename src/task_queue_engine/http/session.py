"""Sessions of the pages: a browser cannot send a bearer token by itself, so an API key is shown
once and a signed cookie stands for it from then on.

The cookie names the key and says until when; the signature covers the key's hash too. So nothing is
kept on the server, every process and machine with the same secret knows the session, and it ends
with the key: one that is taken out of the file, replaced or expired opens nothing any more.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple

from task_queue_engine.config import Settings
from task_queue_engine.http.key_file import NamedKey

COOKIE = "tqe_session"
_NAME = COOKIE.encode()
LASTS = 12 * 3600
"""Seconds: a working day, and not the next one."""

# Cookies are longer only where another program has set them.
_LONGEST = 512


class Session(NamedTuple):
    """What a cookie says whose signature is still to be checked."""

    name: str
    """The key's."""
    expires: int
    signed: str
    signature: str


class Signer:
    """Makes and checks sessions, and the tokens of forms.

    With `TQE_SESSION_SECRET` all servers that have it know each other's sessions; without it the
    secret is made at the start, and the supervisor of `--processes` makes one for all of them.
    """

    def __init__(self, settings: Settings) -> None:
        given = settings.session_secret
        text = secrets.token_hex(32) if given is None else given.get_secret_value()
        self._secret = text.encode()

    def begin(self, key: NamedKey) -> str:
        """The cookie's value."""
        expires = int(time.time()) + LASTS
        signed = f"{key.principal.name}.{expires}.{secrets.token_urlsafe(9)}"
        return f"{signed}.{self._sign('session', signed, key.digest)}"

    def is_valid(self, session: Session, key: NamedKey) -> bool:
        expected = self._sign("session", session.signed, key.digest)
        return session.expires > time.time() and hmac.compare_digest(expected, session.signature)

    def form_token(self, cookie: str) -> str:
        """What each form carries besides the session's cookie (empty: there is none), so that only
        a page of this server can have made it."""
        return self._sign("form", cookie)

    def is_form_token(self, token: str, cookie: str) -> bool:
        return hmac.compare_digest(self.form_token(cookie).encode(), token.encode())

    def _sign(self, purpose: str, text: str, digest: bytes = b"") -> str:
        message = f"{purpose}:{text}:".encode() + digest
        signature = hmac.digest(self._secret, message, "sha256")
        return base64.urlsafe_b64encode(signature).rstrip(b"=").decode()


def cookie_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The session's cookie among a request's headers; empty without one."""
    for header, cookies in headers:
        if header == b"cookie":
            for cookie in cookies.split(b";"):
                name, _, value = cookie.strip().partition(b"=")
                if name == _NAME:
                    return value.decode("latin-1")
    return ""


def read_session(cookie: str) -> Session | None:
    """None for what is no session's cookie. Nothing it says may be believed yet."""
    if not cookie or len(cookie) > _LONGEST or not cookie.isascii():
        return None
    signed, _, signature = cookie.rpartition(".")
    parts = signed.split(".")
    if len(parts) != 3 or not parts[1].isdecimal() or len(parts[1]) > 12:
        return None
    return Session(parts[0], int(parts[1]), signed, signature)

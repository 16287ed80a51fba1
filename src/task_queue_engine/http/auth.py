"""API keys as bearer tokens (RFC 6750)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

from pydantic import SecretStr

from task_queue_engine.http.problems import ProblemError

REALM = "task-queue-engine"


class ApiKeys:
    """Keeps only hashes of the keys. Comparing hashes of equal length, each with
    `hmac.compare_digest` and all of them every time, tells a caller nothing about how close a
    guess was or which key it came near to.
    """

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._hashes = [sha256(key.get_secret_value().encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def check(self, authorization: bytes | None) -> None:
        """Raises ProblemError (401) unless the header holds a known key. Without keys all may."""
        if not self._hashes:
            return
        if authorization is None:
            raise _refusal("this server wants an API key: Authorization: Bearer KEY")
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise _refusal("the Authorization header must be: Bearer KEY")
        given = sha256(token.strip()).digest()
        matches = [hmac.compare_digest(given, known) for known in self._hashes]
        if not any(matches):
            raise _refusal("this API key is not known", ', error="invalid_token"')


def _refusal(detail: str, parameters: str = "") -> ProblemError:
    challenge = f'Bearer realm="{REALM}"{parameters}'
    return ProblemError(
        "unauthorized", detail, field="Authorization", headers=(("WWW-Authenticate", challenge),)
    )

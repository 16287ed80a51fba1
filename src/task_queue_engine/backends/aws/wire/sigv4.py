"""AWS Signature Version 4, for requests that carry it in a header.

Source: "Create a signed AWS API request", AWS General Reference. Written here and not taken from
botocore, since it is a screenful of hashing and botocore's takes seven times as long (ADR 0012).
The tests hold it to AWS's published vectors and to botocore's signer.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

ALGORITHM = "AWS4-HMAC-SHA256"

Headers = Sequence[tuple[str, str]]

_Template = tuple[str, str, str]
"""Of a canonical request: what comes before the time, what between it and the body's hash, and the
list of the signed headers."""
# In place of time and hash; no header holds it.
_MARK = "\0"
# A dozen operations, and as many again for each renewal of temporary credentials.
_MOST_TEMPLATES = 64


@dataclass(frozen=True, slots=True)
class Credentials:
    """What requests are signed with. `token` only comes with temporary credentials."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


class Signer:
    """Signs for one service in one region."""

    def __init__(self, *, service: str, region: str) -> None:
        self._service = service
        self._region = region
        # The last key and the last second: both are worth keeping, neither is worth a real cache.
        self._key_for: tuple[Credentials, str] | None = None
        self._key = b""
        self._second = -1
        self._timestamp = ""
        self._templates: dict[tuple[str, str, Headers, str | None], _Template] = {}

    def sign(
        self,
        credentials: Credentials,
        *,
        at: float,
        method: str,
        path: str,
        headers: Headers,
        body: bytes,
    ) -> list[tuple[str, str]]:
        """The headers to add to the request: X-Amz-Date, Authorization and, with temporary
        credentials, X-Amz-Security-Token.

        Args:
            at: the time to sign for, in seconds since 1970; good for 5 minutes to either side.
            path: absolute, of characters that need no percent-encoding; there is no query, since
                the services take everything in the body.
            headers: all that shall be signed; `host` has to be among them.
        """
        timestamp = self._timestamp_of(at)
        added = [("X-Amz-Date", timestamp)]
        if credentials.token is not None:
            added.append(("X-Amz-Security-Token", credentials.token))
        template = self._template_of(method, path, tuple(headers), credentials.token)
        before, between, signed = template
        request = f"{before}{timestamp}{between}{sha256(body).hexdigest()}"
        day = timestamp[:8]
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        digest = sha256(request.encode()).hexdigest()
        to_sign = f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}"
        signature = hmac.digest(self._key_of(credentials, day), to_sign.encode(), "sha256").hex()
        authorization = (
            f"{ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )
        added.append(("Authorization", authorization))
        return added

    def _template_of(
        self, method: str, path: str, headers: Headers, token: str | None
    ) -> _Template:
        """An operation's requests differ in their time and their body alone."""
        key = (method, path, headers, token)
        found = self._templates.get(key)
        if found is None:
            dated = [*headers, ("X-Amz-Date", _MARK)]
            if token is not None:
                dated.append(("X-Amz-Security-Token", token))
            request, signed = canonical_request(method, path, dated, _MARK)
            before, between, _ = request.split(_MARK)
            if len(self._templates) >= _MOST_TEMPLATES:
                self._templates.clear()
            found = self._templates[key] = before, between, signed
        return found

    def _timestamp_of(self, at: float) -> str:
        second = int(at)
        if second != self._second:
            self._timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
            self._second = second
        return self._timestamp

    def _key_of(self, credentials: Credentials, day: str) -> bytes:
        if self._key_for != (credentials, day):
            key = f"AWS4{credentials.secret_key}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = key
            self._key_for = (credentials, day)
        return self._key


def canonical_request(
    method: str, path: str, headers: Headers, payload_hash: str
) -> tuple[str, str]:
    """The canonical form of a request, and the list of its signed headers."""
    values: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()
        value = " ".join(value.split())
        values[name] = f"{values[name]},{value}" if name in values else value
    names = sorted(values)
    lines = "\n".join([f"{name}:{values[name]}" for name in names])
    signed = ";".join(names)
    return f"{method}\n{path}\n\n{lines}\n\n{signed}\n{payload_hash}", signed

"""Fetch a URL that a client named: bounded in time, size and hops, and only from public addresses
(see `transport` and `address_policy`)."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus

import httpx

from task_queue_engine._version import __version__
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.handlers.fetch.address_policy import AddressPolicy
from task_queue_engine.handlers.fetch.transport import (
    Deadline,
    FetchFailed,
    FetchRefused,
    GuardedTransport,
    Resolver,
    resolve_by_system,
    url_fault,
)

__all__ = ["FetchFailed", "FetchPolicy", "FetchRefused", "check_url", "fetch"]

MAX_URL_LENGTH = 8000
"""What RFC 9110, section 4.1, asks every recipient to support at least."""

MAX_RETRY_AFTER = 3600.0
"""Seconds a server may ask to wait; one that asks for more is asked again after these."""

# Client errors that RFC 9110, RFC 8470 and RFC 6585 define as transient.
_TRANSIENT = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
_DIGITS = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """What one fetch may cost. Times are seconds."""

    max_bytes: int
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    connect_timeout: float = 5.0
    read_timeout: float = 10.0
    """The longest silence."""
    total_timeout: float = 60.0
    """From the start to the last byte, over all redirects."""
    max_redirects: int = 5


def check_url(url: str) -> None:
    """Whether `url` could be fetched at all, without any network. Raises ValueError, saying what
    is wrong with it."""
    if len(url) > MAX_URL_LENGTH:
        raise ValueError(f"is longer than {MAX_URL_LENGTH} characters")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"is not a URL: {error}") from None
    fault = url_fault(parsed)
    if fault is not None:
        raise ValueError(fault)


def fetch(
    url: str,
    policy: FetchPolicy,
    *,
    resolve: Resolver = resolve_by_system,
    ssl_context: ssl.SSLContext | None = None,
    clock: Clock | None = None,
) -> bytes:
    """GET `url` and return its body. Blocks; proxies and .netrc play no part.

    `ssl_context` defaults to certifi's authorities, or those of SSL_CERT_FILE or SSL_CERT_DIR.

    Raises:
        FetchRefused: trying again will not help: address, scheme, size, redirects, 4xx.
        FetchFailed: it may: timeouts, connections, 5xx, 408, 425, 429.
    """
    try:
        check_url(url)
    except ValueError as error:
        raise FetchRefused(f"the URL {error}") from None
    transport = GuardedTransport(
        policy=policy.addresses,
        deadline=Deadline.after(policy.total_timeout),
        ssl_context=ssl_context or _default_ssl_context(),
        resolve=resolve,
    )
    with httpx.Client(
        transport=transport,
        trust_env=False,
        timeout=httpx.Timeout(policy.read_timeout, connect=policy.connect_timeout),
        # A compressed body could unpack to anything; images are compressed already.
        headers={"User-Agent": f"task-queue-engine/{__version__}", "Accept-Encoding": "identity"},
    ) as client:
        request = client.build_request("GET", url, headers={"Accept": "image/*"})
        for _ in range(policy.max_redirects + 1):
            response = _send(client, request)
            try:
                if response.next_request is None:
                    _check_status(response, clock or SystemClock())
                    return _read(response, policy.max_bytes)
                request = response.next_request
            finally:
                # Never read a redirect's body: it has no bound.
                response.close()
    raise FetchRefused(f"{request.url.host}: more than {policy.max_redirects} redirects")


def _send(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    try:
        return client.send(request, stream=True, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # The transport has errors of its own; what httpx itself finds fault with is a Location.
        raise FetchRefused(f"{request.url.host}: bad redirect: {error}") from None


def _check_status(response: httpx.Response, clock: Clock) -> None:
    status = response.status_code
    if status == HTTPStatus.OK:
        return
    answered = f"{response.url.host} answered {status} {response.reason_phrase}".rstrip()
    if status >= 500 or status in _TRANSIENT:
        raise FetchFailed(answered, retry_after=_retry_after(response, clock))
    raise FetchRefused(answered)


def _retry_after(response: httpx.Response, clock: Clock) -> float | None:
    """Seconds, from either form of the header (RFC 9110, section 10.2.3)."""
    said = response.headers.get("Retry-After", "").strip()
    if _DIGITS.fullmatch(said):
        return min(float(said), MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(said)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    seconds = (at - clock.now()).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _read(response: httpx.Response, max_bytes: int) -> bytes:
    host = response.url.host
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise FetchRefused(f"{host} compressed the body ({encoding:.40}) although asked not to")
    too_large = FetchRefused(f"{host} sent more than the limit of {max_bytes} bytes")
    announced = response.headers.get("Content-Length", "")
    if _DIGITS.fullmatch(announced) and int(announced) > max_bytes:
        raise too_large
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


@cache
def _default_ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()

"""An httpx transport that looks at the address of every connection before it is made.

Checking a host name first and connecting by name later leaves a gap in which its DNS answer may
change (DNS rebinding). So the name is resolved here, once, every answer is checked, and the
connection goes to one of these very addresses; TLS still verifies the host name. Redirects and
retries are new connections and pass the same door. All waiting ends at one deadline, however
slowly the other side drips.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from task_queue_engine.errors import TaskQueueError
from task_queue_engine.handlers.fetch.address_policy import AddressPolicy

Resolver = Callable[[str, int], Sequence[str]]
"""(host name, port) -> numeric addresses, the preferred one first; raises OSError."""


class FetchRefused(TaskQueueError):
    """This fetch will never be made or never succeed: forbidden address, 404, too large, ..."""


class FetchFailed(TaskQueueError):
    """This fetch did not succeed now: timeout, connection trouble, 503, ... Trying again may
    help, after `retry_after` seconds where the server named a time."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# A name in ASCII (RFC 1123, and the underscores of the wild), or an IPv6 address.
_HOST = re.compile(rb"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def cap(self, timeout: float | None) -> float:
        """`timeout` seconds, or what is left where that is less. Raises FetchFailed at the end."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise FetchFailed("the fetch took longer than it may in total")
        return left if timeout is None else min(timeout, left)


def resolve_by_system(host: str, port: int) -> list[str]:
    """The system's answer, bounded in time by the system's own resolver settings."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def url_fault(url: httpx.URL) -> str | None:
    """What is wrong with `url`, looked at without any network; None if it may be tried.

    httpx parses leniently: a host with escapes or spaces and a port of any size pass.
    """
    if url.scheme not in ("http", "https"):
        return "must start with http:// or https://"
    if not url.host:
        return "has no host"
    if url.userinfo:
        return "must not have credentials in it"
    if not _HOST.fullmatch(url.raw_host):
        return "has a host that is no name and no address"
    if url.port is not None and not 1 <= url.port <= 65_535:
        return "has a port that is none"
    return None


class GuardedTransport(httpx.BaseTransport):
    """Plain and TLS HTTP/1.1, one connection per request, no proxy.

    Raises FetchRefused and FetchFailed instead of httpx's own errors.
    """

    def __init__(
        self,
        *,
        policy: AddressPolicy,
        deadline: Deadline,
        ssl_context: ssl.SSLContext,
        resolve: Resolver = resolve_by_system,
    ) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_keepalive_connections=0,
            network_backend=_GuardedBackend(policy, deadline, resolve),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        fault = url_fault(url)
        if fault is not None:
            raise FetchRefused(f"the URL {fault}")
        with _described(url.host):
            response = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=url.raw_scheme,
                        host=url.raw_host,
                        port=url.port,
                        target=url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.read(),
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response, url.host),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response, host: str) -> None:
        self._response = response
        self._host = host

    def __iter__(self) -> Iterator[bytes]:
        with _described(self._host):
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@contextmanager
def _described(host: str) -> Iterator[None]:
    try:
        yield
    except httpcore.TimeoutException as error:
        what = "connecting" if isinstance(error, httpcore.ConnectTimeout) else "waiting for data"
        raise FetchFailed(f"{host}: timed out {what}") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise FetchFailed(f"{host}: {error or 'the connection was closed'}") from error


class _GuardedBackend(httpcore.NetworkBackend):
    """Connects only where the policy lets it, to the address that was checked."""

    def __init__(self, policy: AddressPolicy, deadline: Deadline, resolve: Resolver) -> None:
        self._policy = policy
        self._deadline = deadline
        self._resolve = resolve
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._look_up(host, port)
        for address in addresses:
            # One bad answer among good ones is how a rebinding name looks: refuse the name.
            # The address itself stays unsaid: it would map the inner network for the asker.
            refusal = self._policy.refusal(address, port)
            if refusal is not None:
                raise FetchRefused(f"no connection is made to {host}: it is {refusal}")
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in addresses:
            try:
                stream = self._sockets.connect_tcp(
                    address,
                    port,
                    timeout=self._deadline.cap(timeout),
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream, self._deadline)
        raise failure or httpcore.ConnectError("the name has no address")

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        raise FetchRefused("unix sockets are not fetched from")

    def _look_up(self, host: str, port: int) -> Sequence[str]:
        try:
            return self._resolve(host, port)
        except UnicodeError:
            raise FetchRefused(f"{host:.80} is not a host name") from None
        except OSError as error:
            raise FetchFailed(
                f"{host}: the name lookup failed: {error.strerror or error}"
            ) from None


class _DeadlineStream(httpcore.NetworkStream):
    """A stream whose every wait also ends at the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.cap(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.cap(timeout))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.cap(timeout))
        return _DeadlineStream(secured, self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

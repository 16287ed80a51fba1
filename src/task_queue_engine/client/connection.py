"""What both clients are made of: where the server is, and what to say where it does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from task_queue_engine.client.calls import Calls
from task_queue_engine.client.connecting import http_options
from task_queue_engine.client.steps import Request
from task_queue_engine.errors import BackendUnavailable, ConfigurationError, ServerUnreachable
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Seconds


class Connection:
    """Of a client.

    Raises:
        ConfigurationError: see `Client`.
    """

    def __init__(
        self,
        url: str,
        *,
        tasks: TaskRegistry | None,
        api_key: str | None,
        timeout: Seconds,
        retries: int,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None,
        now: Callable[[], float],
    ) -> None:
        base = _parse_url(url)
        self.url = str(base.copy_with(userinfo=b"")).rstrip("/")
        headers = {"Accept": "application/json"}
        if api_key is not None:
            if not api_key or not api_key.isascii() or not api_key.isprintable():
                raise ConfigurationError("must be printable ASCII", variable="api_key")
            headers["Authorization"] = f"Bearer {api_key}"
        self.calls = Calls(tasks=tasks, timeout=timeout, retries=retries, now=now)
        self.http_options: dict[str, Any] = http_options(base, headers=headers, transport=transport)

    @contextmanager
    def sending(self, request: Request) -> Iterator[None]:
        """What goes wrong in this block is one of our errors.

        Raises:
            ServerUnreachable, BackendUnavailable: as `Request` says.
        """
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise ServerUnreachable(f"{self.url} cannot be reached: {_reason(error)}") from error
        except (httpx.TimeoutException, TimeoutError):
            raise BackendUnavailable(
                f"{self.url} did not answer within {request.timeout:g} s"
            ) from None
        except httpx.RequestError as error:
            raise BackendUnavailable(f"{self.url} gave no answer: {_reason(error)}") from error


def _reason(error: httpx.RequestError) -> str:
    return str(error) or type(error).__name__


def _parse_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError("must be like http://127.0.0.1:8080", variable="url")
    return parsed

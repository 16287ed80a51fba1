"""What happens to every request before and after the app proper, as ASGI middleware.

It works on the raw scope, so that it also covers what the framework answers by itself (404, 405,
OPTIONS) and costs next to nothing on the way of a submission.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any, cast

from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    HTTPScope,
    Scope,
)

from task_queue_engine.http import problems
from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.auth import ApiKeys
from task_queue_engine.http.connection import CROWDED
from task_queue_engine.http.cross_site import CrossSiteCheck, is_loopback_name
from task_queue_engine.http.host import HostCheck
from task_queue_engine.http.problems import ProblemError

OPEN_PATHS = frozenset({"/health", "/ready"})
"""For probes, which send neither an API key nor a host name of this server."""
PUBLIC_PATHS = frozenset({"/", "/docs", "/openapi.json"})
"""The same for every installation, so there is nothing to protect; and a browser that shows the
page could not send a key."""
PROBED_PATHS = OPEN_PATHS | {"/metrics", "/scale"}
"""Answered also where all connections are taken."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

logger = logging.getLogger("task_queue_engine.http")
access_logger = logging.getLogger("task_queue_engine.http.access")

# Header fields of which one request has one (RFC 9110): where there are two, what stands between us
# and the client may have looked at the other.
_SINGLE_HEADERS = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-type",
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"x-request-id",
    }
)


class Middleware:
    """Request id, API key, cross-site checks, declared body size, headers every response has,
    access log, and a last resort for errors."""

    def __init__(self, app: ASGIFramework, state: AppState) -> None:
        settings = state.settings
        self._app = app
        self._host = HostCheck()
        self._keys = ApiKeys(settings.api_keys)
        self._cross_site = CrossSiteCheck(loopback=is_loopback_name(settings.host))
        self._max_body = settings.max_body_bytes

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cycle = _RequestCycle(scope, send)
        try:
            cycle.check_headers()
            self._admit(cycle.scope, cycle.headers)
            await self._app(cycle.scope, receive, cycle.send)
        except ProblemError as error:
            problem, headers = problems.of_error(error)
            await cycle.answer(problem, headers)
        except Exception as error:  # the last resort: what the app itself did not answer
            logger.error("request %s failed", cycle.request_id, exc_info=error)
            if cycle.status is None:
                problem, headers = problems.of_error(error)
                await cycle.answer(problem, headers)
            # Else the response has begun; hypercorn sees it unfinished and closes the connection.
        finally:
            cycle.log()

    def _admit(self, scope: HTTPScope, headers: dict[bytes, bytes]) -> None:
        """Raises ProblemError for a request that is not to reach the app."""
        host = self._host.check(scope, headers.get(b"host"))
        path = scope["path"]
        if path.startswith("//"):  # the router would take it for the path without the first one
            raise ProblemError("not-found", problems.NO_SUCH_PATH)
        if path not in OPEN_PATHS:
            if self._keys:
                if path not in PUBLIC_PATHS:
                    self._keys.check(headers.get(b"authorization"))
            else:
                self._cross_site.check(host, headers.get(b"origin"), headers.get(b"sec-fetch-site"))
        if path not in PROBED_PATHS and scope.get("state", {}).get(CROWDED):
            raise ProblemError(
                "unavailable",
                "too many connections are open; try again",
                headers=(("Retry-After", "1"),),
            )
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._max_body:
            raise ProblemError("too-large", f"the body is over the limit of {self._max_body} bytes")


class _RequestCycle:
    """One request and its response, as far as the middleware has to know them."""

    def __init__(self, scope: HTTPScope, send: ASGISendCallable) -> None:
        self.scope = scope
        self.headers = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        accepted = given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex().encode()
        self.request_id = accepted.decode()
        cast("dict[str, Any]", scope)["tqe.request_id"] = self.request_id
        self.status: int | None = None
        self._send = send
        self._started = time.perf_counter()
        self._common = [
            (b"x-request-id", accepted),
            (b"x-content-type-options", b"nosniff"),
        ]

    def check_headers(self) -> None:
        """Raises ProblemError."""
        given = list(self.scope["headers"])
        if len(self.headers) == len(given):
            return  # none is there twice
        seen: set[bytes] = set()
        for name, _ in given:
            if name in _SINGLE_HEADERS:
                if name in seen:
                    field = name.decode().title()
                    raise ProblemError("bad-request", "is given more than once", field=field)
                seen.add(name)

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], *self._common]
            if b"cache-control" not in dict(headers):
                headers.append((b"cache-control", b"no-store"))
            message["headers"] = headers
        await self._send(message)

    async def answer(self, problem: problems.Problem, headers: problems.Headers) -> None:
        body = problems.encode(problem)
        await self.send(
            {
                "type": "http.response.start",
                "status": problem.status,
                "headers": [
                    (b"content-type", problems.CONTENT_TYPE.encode()),
                    (b"content-length", str(len(body)).encode()),
                    *((name.lower().encode(), value.encode()) for name, value in headers),
                ],
            }
        )
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def log(self) -> None:
        if access_logger.isEnabledFor(logging.DEBUG):
            client = self.scope.get("client")
            access_logger.debug(
                '%s "%s %s" %s %.1f ms %s',
                client[0] if client else "-",
                self.scope["method"],
                self.scope["raw_path"].decode("latin-1"),  # still quoted: one line stays one
                self.status if self.status is not None else "-",
                (time.perf_counter() - self._started) * 1000,
                self.request_id,
            )

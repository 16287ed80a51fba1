"""What happens to every request before and after the app proper, as ASGI middleware.

It works on the raw scope, so that it also covers what the framework answers by itself (404, 405,
OPTIONS) and costs next to nothing on the way of a submission.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any, cast

from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    HTTPScope,
    Scope,
)

from task_queue_engine.http import audit, problems
from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.client_address import ClientAddresses
from task_queue_engine.http.connection import CROWDED
from task_queue_engine.http.cross_site import CrossSiteCheck, is_loopback_name
from task_queue_engine.http.crowd import address_of
from task_queue_engine.http.host import HostCheck
from task_queue_engine.http.principal import ANYONE, NO_ONE, Asker, Principal
from task_queue_engine.http.problems import ProblemError
from task_queue_engine.http.rate_limits import RateLimits
from task_queue_engine.http.session import cookie_of

HEALTH_PATH = "/health"
"""Asks nothing that may be slow."""
OPEN_PATHS = frozenset({HEALTH_PATH, "/ready"})
"""For probes, which send neither an API key nor a host name of this server."""
PUBLIC_PATHS = frozenset({"/", "/docs", "/openapi.json"})
"""The same for every installation, so there is nothing to protect; and a browser that shows the
page could not send a key."""
PAGES = "/dashboard/"
"""Below it the pages are, and what belongs to them; the first of them is at /."""
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
    """Request id, rate limits, API key, cross-site checks, declared body size, headers every
    response has, access and audit log, and a last resort for errors."""

    def __init__(self, app: ASGIFramework, state: AppState) -> None:
        settings = state.settings
        self._app = app
        self._host = HostCheck()
        self._authenticator = state.authenticator
        self._watches_keys = settings.keys_file is not None
        self._addresses = ClientAddresses(settings.trusted_proxies)
        self._limits = RateLimits(settings)
        self._audits = settings.keeps_audit_log
        self._cross_site = CrossSiteCheck(
            loopback=not settings.asks_for_keys and is_loopback_name(settings.host)
        )
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
            if self._watches_keys and scope["path"] != HEALTH_PATH and self._authenticator.is_old:
                await self._authenticator.look_again()
            self._admit(cycle)
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
            if cycle.asker is not None and cycle.asker.change is not None:
                self._write_audit(cycle, cycle.asker.principal.name, cycle.asker.change)

    def _admit(self, cycle: _RequestCycle) -> None:
        """Raises ProblemError for a request that is not to reach the app."""
        scope, headers = cycle.scope, cycle.headers
        host = self._host.check(scope, headers.get(b"host"))
        path = scope["path"]
        if path.startswith("//"):  # the router would take it for the path without the first one
            raise ProblemError("not-found", problems.NO_SUCH_PATH)
        if path not in OPEN_PATHS:
            if self._limits.by_address:
                address = address_of(self._address(scope))
                cycle.add_headers(self._limits.check_address(address))
            is_page = path == "/" or path.startswith(PAGES)
            looks = scope["method"] in ("GET", "HEAD")
            if not self._authenticator.asks_for_keys or (is_page and not looks):
                # A link of another site to a page is one as any other: no page can be framed, and
                # none changes anything when it is only looked at.
                is_link = is_page and looks and headers.get(b"sec-fetch-dest") == b"document"
                fetch_site = None if is_link else headers.get(b"sec-fetch-site")
                self._cross_site.check(host, headers.get(b"origin"), fetch_site)
            if self._authenticator.asks_for_keys and (is_page or path not in PUBLIC_PATHS):
                principal = self._principal(scope, headers, is_page=is_page)
                if principal is not NO_ONE:
                    cycle.add_headers(self._limits.check_key(principal))
                cycle.ask_as(principal, audits=self._audits)
            if self._audits and cycle.asker is None:
                cycle.ask_as(ANYONE, audits=True)
        if path not in PROBED_PATHS and scope.get("state", {}).get(CROWDED):
            raise ProblemError(
                "unavailable",
                "too many connections are open; try again",
                headers=(("Retry-After", "1"),),
            )
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._max_body:
            raise ProblemError("too-large", f"the body is over the limit of {self._max_body} bytes")

    def _principal(
        self, scope: HTTPScope, headers: Mapping[bytes, bytes], *, is_page: bool
    ) -> Principal:
        """Raises ProblemError (401).

        A session opens the pages, and of the API what only reads, which their script asks for: a
        change takes a page's form, with its token, or a key.
        """
        authorization = headers.get(b"authorization")
        if is_page or (authorization is None and b"cookie" in headers and scope["method"] == "GET"):
            principal = self._authenticator.who_has(cookie_of(scope["headers"]))
            if principal is not None:
                return principal
            if is_page:
                return NO_ONE
        return self._authenticator.who(authorization)

    def _address(self, scope: HTTPScope) -> str:
        client = scope.get("client")
        return self._addresses.of(client[0] if client else "-", scope["headers"])

    def _write_audit(self, cycle: _RequestCycle, key: str, change: audit.Change) -> None:
        audit.write(
            change,
            key=key,
            address=self._address(cycle.scope),
            status=cycle.status,
            request_id=cycle.request_id,
        )


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
        self.asker: Asker | None = None
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

    def ask_as(self, principal: Principal, *, audits: bool) -> None:
        self.asker = Asker(principal, audit.Change() if audits else None)
        self.asker.remember(self.scope)

    def add_headers(self, headers: problems.Headers) -> None:
        """To the response, whatever it will be."""
        self._common += [(name.lower().encode(), value.encode()) for name, value in headers]

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

"""Quart-Trio without what it does anew for every request and this API has no use for.

What is registered with the app (routes, hooks, error handlers, signals) applies as in any other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from quart.ctx import RequestContext
from quart.routing import QuartRule
from quart.sessions import NullSession, SecureCookieSessionInterface
from quart.typing import ResponseReturnValue
from quart.wrappers import BaseRequestWebsocket, Request
from quart_trio import QuartTrio
from werkzeug.routing import MapAdapter

from task_queue_engine.http.exchange import ApiRequest, Exchange

# Bound routers that are kept; a client can send any number of different hosts.
_REMEMBERED = 100

_NO_SESSION = NullSession()


class ApiRule(QuartRule):
    """What makes a URL of a rule is compiled when one is asked for; for all rules it is most of the
    time that an app takes to be made, and this API makes none."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        compiled = cache(super()._compile_builder)

        def build(*arguments: Any, **values: Any) -> tuple[str, str]:
            return compiled(append_unknown)(*arguments, **values)

        return build


class ApiApp(QuartTrio):
    asgi_http_class = Exchange
    url_rule_class = ApiRule  # type: ignore[assignment] # as Quart has its own
    request_class = ApiRequest

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.admit: Callable[[Request], None] | None = None
        """Called for each request before its handler; it may raise."""
        self._bound: dict[tuple[str, str | None, str], MapAdapter] = {}

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """As Quart's. What it makes of a host (IDNA and all) is kept, since clients keep theirs."""
        if request is None:
            return super().create_url_adapter(request)
        key = request.scheme, request.headers.get("Host"), request.root_path
        bound = self._bound.get(key)
        if bound is None:
            bound = super().create_url_adapter(request)
            if bound is not None and len(self._bound) < _REMEMBERED:
                self._bound[key] = bound
            return bound
        return MapAdapter(
            bound.map,
            bound.server_name,
            bound.script_name,
            bound.subdomain,
            bound.url_scheme,
            request.path,
            request.method,
            request.query_string.decode(),
        )

    async def dispatch_request(
        self, request_context: RequestContext | None = None
    ) -> ResponseReturnValue:
        if self.admit is not None and request_context is not None:
            self.admit(request_context.request)
        return await super().dispatch_request(request_context)

    def request_context(self, request: Request) -> RequestContext:
        """As Quart's. There is a session to be opened only where there is a key to sign it with."""
        if self.secret_key is None and type(self.session_interface) is SecureCookieSessionInterface:
            return RequestContext(self, request, _NO_SESSION)
        return super().request_context(request)

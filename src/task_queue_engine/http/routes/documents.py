"""/openapi.json, /docs and the way there from /."""

from __future__ import annotations

from functools import cached_property

import trio
from quart import Quart, Request, Response, request
from quart_schema import hide

from task_queue_engine.http import problems
from task_queue_engine.http.dashboard.routes import DashboardRoutes
from task_queue_engine.http.docs_page import CONTENT_SECURITY_POLICY, render
from task_queue_engine.http.negotiation import choose
from task_queue_engine.http.openapi import Json, build_document
from task_queue_engine.http.responses import JSON, encode, respond

_CACHE = "public, max-age=300"


class DocumentRoutes:
    """The document is made once, at the first request for it; by a thread, as the page is: either
    would hold the loop for tens of milliseconds."""

    def __init__(self, app: Quart, dashboard: DashboardRoutes) -> None:
        self._app = app
        self._dashboard = dashboard

    def register(self, app: Quart) -> None:
        app.add_url_rule("/", "get_root", self.get_root, methods=["GET"])
        app.add_url_rule("/openapi.json", "get_openapi", self.get_openapi, methods=["GET"])
        app.add_url_rule("/docs", "get_docs", self.get_docs, methods=["GET"])

    @cached_property
    def _document(self) -> Json:
        return build_document(self._app)

    @cached_property
    def _openapi(self) -> bytes:
        return encode(self._document)

    @hide
    async def get_root(self) -> Response:
        """For a browser the first of the pages; for all others the way to what there is."""
        if wants_page(request):
            return await self._dashboard.overview()
        return respond(
            b"", 302, content_type="text/plain", Location=problems.DOCS_PATH, Vary="Accept"
        )

    @hide
    async def get_openapi(self) -> Response:
        """The OpenAPI 3.1 document."""
        document = await trio.to_thread.run_sync(lambda: self._openapi)
        return respond(document, content_type=JSON, Cache_Control=_CACHE)

    @hide
    async def get_docs(self) -> Response:
        """The documentation page."""
        url = _url_of_reader()
        page = await trio.to_thread.run_sync(lambda: render(self._document, url))
        return respond(
            page.encode(),
            content_type="text/html; charset=utf-8",
            Cache_Control=_CACHE,
            Content_Security_Policy=CONTENT_SECURITY_POLICY,
            Referrer_Policy="no-referrer",
            X_Frame_Options="DENY",
        )


def wants_page(request: Request) -> bool:
    """Whether this is a browser that asks for /: HTML before anything else."""
    offers = (JSON, "text/html")
    return request.path == "/" and choose(request.accept_mimetypes, offers) == "text/html"


def _url_of_reader() -> str:
    """Where the page was asked for; behind a proxy that may be another port than ours."""
    host = request.headers.get("Host")
    if not host:  # HTTP/1.0
        address, port = request.scope.get("server") or ("localhost", None)
        host = address if port is None else f"{address}:{port}"
    return f"{request.scheme}://{host}"

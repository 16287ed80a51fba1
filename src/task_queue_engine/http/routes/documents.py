"""/openapi.json and /docs."""

from __future__ import annotations

from functools import cached_property

from quart import Quart, Response
from quart_schema import hide

from task_queue_engine.http.docs_page import CONTENT_SECURITY_POLICY, render
from task_queue_engine.http.openapi import Json, build_document
from task_queue_engine.http.responses import JSON, respond
from task_queue_engine.http.schemas import encode

_CACHE = "public, max-age=300"


class DocumentRoutes:
    """Both are made once, at the first request for them."""

    def __init__(self, app: Quart) -> None:
        self._app = app

    def register(self, app: Quart) -> None:
        app.add_url_rule("/openapi.json", "get_openapi", self.get_openapi, methods=["GET"])
        app.add_url_rule("/docs", "get_docs", self.get_docs, methods=["GET"])

    @cached_property
    def _document(self) -> Json:
        return build_document(self._app)

    @cached_property
    def _openapi(self) -> bytes:
        return encode(self._document)

    @cached_property
    def _page(self) -> bytes:
        return render(self._document).encode()

    @hide
    async def get_openapi(self) -> Response:
        """The OpenAPI 3.1 document."""
        return respond(self._openapi, content_type=JSON, Cache_Control=_CACHE)

    @hide
    async def get_docs(self) -> Response:
        """The documentation page."""
        return respond(
            self._page,
            content_type="text/html; charset=utf-8",
            Cache_Control=_CACHE,
            Content_Security_Policy=CONTENT_SECURITY_POLICY,
            Referrer_Policy="no-referrer",
            X_Frame_Options="DENY",
        )

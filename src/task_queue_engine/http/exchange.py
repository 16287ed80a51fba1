"""One request and its response inside Quart-Trio, and what a client's disconnect does to it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart.typing import ResponseTypes
from quart.utils import encode_headers
from quart.wrappers import Request, Response
from quart.wrappers.response import DataBody
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge

from task_queue_engine.http.connection import GO_ON
from task_queue_engine.http.plain_exchange import WholeRequest
from task_queue_engine.http.streamed_response import StreamedResponse


class ApiRequest(TrioRequest):
    """Tells a client that waits for it (Expect: 100-continue) to send its body once that is wanted:
    a refusal that the head is enough for comes without."""

    whole: bytes | None = None
    """The body, where all of it was there from the start."""

    async def get_data(self, *args: Any, **options: Any) -> Any:  # Quart's, which is overloaded
        go_on = self.scope.get("state", {}).get(GO_ON)
        if go_on is not None:
            await go_on()
        return await super().get_data(*args, **options)

    async def read(self) -> bytes:
        """The body, to be asked for once. Raises RequestEntityTooLarge."""
        if self.whole is None:
            body: bytes = await self.get_data(cache=False, as_text=False, parse_form_data=False)
            return body
        limit = self.max_content_length
        if limit is not None and len(self.whole) > limit:
            raise RequestEntityTooLarge
        return self.whole

    @property
    def content_length(self) -> int | None:
        """As werkzeug's: None for a body that comes by chunks."""
        for name, value in self.scope["headers"]:
            if name == b"content-length":
                return int(value)
        return None

    @property
    def blueprints(self) -> list[str]:
        """As Quart's, which looks for them even where a route is the app's own."""
        endpoint = self.endpoint
        return super().blueprints if endpoint is not None and "." in endpoint else []


class RequestHeaders(Headers):
    """Those of a request, put in as they came: a parser has checked them, and werkzeug would look
    at each for line ends once more."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]], remote: str) -> None:
        super().__init__()
        self._list = [("Remote-Addr", remote)]
        self._list += [(_title(name), value.decode("latin-1")) for name, value in raw]


@lru_cache(maxsize=256)
def _title(name: bytes) -> str:
    return name.decode("latin-1").title()


_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Exchange(TrioASGIHTTPConnection):
    """Quart-Trio cancels the handler as soon as the client disconnects. That is right where the
    request only reads (a long poll), and while the body is incomplete: nothing is stored of half a
    request. But a request to change something that has arrived whole is carried out, whether or not
    the client is there to receive the answer; its handler's own time limit bounds it.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if not isinstance(receive, WholeRequest):
            await super().__call__(receive, send)
            return
        # All of it is here: there is nothing to wait for beside the handler.
        request = self._create_request_from_scope(send)
        request.body.set_result(receive.body)
        if isinstance(request, ApiRequest):
            request.whole = receive.body
        if request.method in _SAFE_METHODS:
            with receive.until_disconnect():
                await self._answer(request, send)
        else:
            await self._answer(request, send)

    def _create_request_from_scope(self, send: ASGISendCallable) -> Request:
        """As Quart's, for what this server gives: HTTP/1.1 at the root, by a path."""
        scope = self.scope
        if scope["http_version"] < "1.1" or scope.get("root_path") or scope["path"][:1] != "/":
            return super()._create_request_from_scope(send)
        client = scope.get("client")
        config = self.app.config
        return self.app.request_class(
            scope["method"],
            scope["scheme"],
            scope["path"],
            scope["query_string"],
            RequestHeaders(scope["headers"], client[0] if client else "<local>"),
            "",
            scope["http_version"],
            max_content_length=config["MAX_CONTENT_LENGTH"],
            body_timeout=config["BODY_TIMEOUT"],
            send_push_promise=partial(self._send_push_promise, send),
            scope=scope,
        )

    async def _answer(self, request: Request, send: ASGISendCallable) -> None:
        response = await self.app.handle_request(request)
        timeout = self.app.config["RESPONSE_TIMEOUT"]
        if isinstance(response, Response) and response.timeout != Ellipsis:
            timeout = response.timeout
        with nullcontext() if timeout is None else trio.move_on_after(timeout):
            await self._send_response(send, response)

    async def handle_messages(  # type: ignore[override] # as Quart-Trio does: one argument more
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        complete = False
        while True:
            message = await receive()
            if message["type"] == "http.request":
                request.body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    request.body.set_complete()
                    complete = True
            elif message["type"] == "http.disconnect":
                break
        if not complete or request.method in _SAFE_METHODS:
            nursery.cancel_scope.cancel()

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        if isinstance(response, StreamedResponse):
            await response.send(self.scope["method"], send)
            return
        body = response.response
        if not isinstance(body, DataBody):
            await super()._send_response(send, response)
            return
        # All of the body is at hand: two messages in place of Quart's three, and no iterator.
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": encode_headers(response.headers),
            }
        )
        await send(
            {
                "type": "http.response.body",
                "body": body.data[body.begin : body.end],
                "more_body": False,
            }
        )

"""One request and its response inside Quart-Trio, and what a client's disconnect does to it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart.typing import ResponseTypes
from quart.utils import encode_headers
from quart.wrappers import Request, Response
from quart.wrappers.response import DataBody
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest

from task_queue_engine.http.connection import GO_ON
from task_queue_engine.http.plain_exchange import WholeRequest


class ApiRequest(TrioRequest):
    """Tells a client that waits for it (Expect: 100-continue) to send its body once that is wanted:
    a refusal that the head is enough for comes without."""

    async def get_data(self, *args: Any, **options: Any) -> Any:  # Quart's, which is overloaded
        go_on = self.scope.get("state", {}).get(GO_ON)
        if go_on is not None:
            await go_on()
        return await super().get_data(*args, **options)


    @property
    def content_length(self) -> int | None:  # type: ignore[override] # kept by werkzeug: asked once
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
        if request.method in _SAFE_METHODS:
            with receive.until_disconnect():
                await self._answer(request, send)
        else:
            await self._answer(request, send)

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

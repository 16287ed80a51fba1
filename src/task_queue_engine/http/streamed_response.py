"""A response whose body is sent as it comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hypercorn.typing import ASGISendCallable
from quart import Response
from quart.utils import encode_headers

CONTENT_TYPE = "text/event-stream"


class StreamedResponse(Response):
    """Its body is sent by `stream`, as one task: what is sent and what is waited for end together.

    Args:
        stream: given what sends a piece of the body.
    """

    def __init__(
        self, stream: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]
    ) -> None:
        super().__init__(b"", content_type=CONTENT_TYPE)
        self._stream = stream
        # `no-store` is on every response; a proxy that would gather it is told not to (nginx).
        self.headers["X-Accel-Buffering"] = "no"
        self.headers["Cache-Control"] = "no-store"
        self.headers.pop("Content-Length", None)

    async def send(self, method: str, send: ASGISendCallable) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": encode_headers(self.headers),
            }
        )

        async def send_piece(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        if method != "HEAD":
            await self._stream(send_piece)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

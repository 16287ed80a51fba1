"""hypercorn's HTTP/1.1, narrowed to what this API needs.

- No HTTP/2 and no WebSockets: hypercorn has no setting for that over plain TCP, and every protocol
  spoken is one to defend. Both are simply not offered; a request that asks for an upgrade is
  answered in HTTP/1.1, as RFC 9110 (section 7.8) allows.
- Errors found by the protocol itself are problem+json too.
- A response's head and the first of its body leave in one packet, not in two.
- A response says `Connection: close` where the connection will indeed be closed after it.
"""

from __future__ import annotations

import h11
from hypercorn.events import RawData
from hypercorn.protocol.events import Event, Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import H11SendableEvent

from task_queue_engine.http import problems

# Status code -> the problem's detail.
_DETAILS = {
    400: "this is not an HTTP/1.1 request",
    408: "the request did not arrive completely in time",
    431: "the head of the request is over the limit",
    501: "this transfer coding is not supported",
}


class HttpProtocol(H11Protocol):
    """One connection's protocol. Bytes come in by `handle`, leave by the `send` given to it."""

    _held_head = b""

    @property
    def between_requests(self) -> bool:
        """Nothing of a next request has come in yet."""
        return self._h11.their_state is h11.IDLE and not self._h11.trailing_data[0]

    @property
    def receiving(self) -> bool:
        """A request has come in in part."""
        return self._h11.their_state in (h11.IDLE, h11.SEND_BODY) and not self.between_requests

    @property
    def has_head(self) -> bool:
        """A request's head has come in, and its answer is not out yet."""
        return self._h11.their_state is not h11.IDLE

    @property
    def has_unread_input(self) -> bool:
        """The client has sent, or is still sending, what will not be read."""
        return self._h11.their_state in (h11.SEND_BODY, h11.ERROR) or bool(
            self._h11.trailing_data[0]
        )

    @property
    def _h11(self) -> h11.Connection:
        assert isinstance(self.connection, h11.Connection)  # noqa: S101 - no WebSockets, see above
        return self.connection

    async def give_up(self, status: int) -> None:
        """Answer with an error where no answer has begun yet."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send_error_response(status)

    async def stream_send(self, event: Event) -> None:
        if isinstance(event, Response) and (
            self.context.terminated.is_set() or self._h11.their_state is h11.SEND_BODY
        ):
            # The server is going away, or the rest of this request's body will not be read.
            headers = [*event.headers, (b"connection", b"close")]
            event = Response(
                stream_id=event.stream_id, headers=headers, status_code=event.status_code
            )
        await super().stream_send(event)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self._h11.send(event) or b""
        except h11.LocalProtocolError:
            if self._h11.their_state is not h11.ERROR:
                raise
            data = b""
        else:
            if isinstance(event, h11.Response) and _has_length(event):
                self._held_head = data
                return
        data = self._held_head + data
        self._held_head = b""
        if data:
            await self.send(RawData(data=data))

    async def _send_error_response(self, status_code: int) -> None:
        detail = _DETAILS.get(status_code, _DETAILS[400])
        body = problems.encode(problems.of_status(status_code, detail))
        headers = [
            (b"content-type", problems.CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _check_protocol(self, event: h11.Request) -> None:
        """Would switch to HTTP/2, by `Upgrade: h2c` or prior knowledge."""

    async def _create_stream(self, request: h11.Request) -> None:
        if any(name == b"upgrade" for name, _ in request.headers):
            headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
            request = h11.Request(
                method=request.method,
                target=request.target,
                headers=headers,
                http_version=request.http_version,
            )
        await super()._create_stream(request)


def _has_length(response: h11.Response) -> bool:
    return any(name == b"content-length" for name, _ in response.headers)

"""hypercorn's HTTP/1.1, narrowed to what this API needs.

- No HTTP/2 and no WebSockets: hypercorn has no setting for that over plain TCP, and every protocol
  spoken is one to defend. Both are simply not offered; a request that asks for an upgrade is
  answered in HTTP/1.1, as RFC 9110 (section 7.8) allows.
- Errors found by the protocol itself are problem+json too.
- A response's head and the first of its body leave in one packet, not in two.
- A response says `Connection: close` where the connection will indeed be closed after it.
- What RFC 9112 wants refused or ignored is: methods and versions that are none, bytes after the
  last request of a connection, both of Content-Length and Transfer-Encoding.
- `100 Continue` is sent when the body is about to be read, and not before a refusal.
- A pipelined request waits without the reader waiting with it, so that the client's end is noticed.

A request in the plain form that almost all have (`plain_request.py`) goes past h11 and hypercorn's
stream, which take ten times as long for the same: ADR 0035.
"""

from __future__ import annotations

import logging
from typing import Any

import h11
import trio
from hypercorn.events import Closed, RawData, Updated
from hypercorn.events import Event as ConnectionEvent
from hypercorn.protocol.events import Body, EndBody, Event, Response
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.typing import H11SendableEvent

from task_queue_engine.http import problems
from task_queue_engine.http.plain_exchange import PlainAnswer, WholeRequest, scope_of
from task_queue_engine.http.plain_request import PlainRequest, recognise

logger = logging.getLogger("task_queue_engine.http")

# Status code -> the problem's detail.
_DETAILS = {
    400: "this is not an HTTP/1.1 request",
    408: "the request did not arrive completely in time",
    431: "the head of the request is over the limit",
    501: "this method or transfer coding is not supported",
    503: "too many connections are open; try again",
    505: "this server speaks HTTP/1.1",
}

# RFC 9110, section 9, and RFC 5789: the methods there are. (They are case-sensitive.)
_METHODS = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"}
)

# Bytes of pipelined requests that are taken in while an earlier one is being answered.
_MAX_PIPELINED = 64 * 1024

# Bytes of a chunked body's framing beyond its data: 32 a chunk for its size, line ends and a small
# extension, and some to spare. Nothing here reads extensions, and without a bound a body of a few
# bytes may come in any number of them.
_FRAMING_OF_CHUNK = 32
_FRAMING_TO_SPARE = 16 * 1024


class HttpProtocol(H11Protocol):
    """One connection's protocol. Bytes come in by `handle`, leave by the `send` given to it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        assert isinstance(self.connection, h11.Connection)  # noqa: S101 - no WebSockets, see above
        self._h11 = self.connection

    keep_alive = True
    """False: the connection is closed after the next answer."""
    _held_head = b""
    _close_after = False
    """The connection cannot carry another request, whatever the client asked for."""
    _framing = 0
    """Bytes of the present body's framing so far, less those its chunks may need."""
    _plain: WholeRequest | None = None
    """The plain request that is being answered; h11 knows nothing of it."""
    _waiting = b""
    """What has come in behind it."""

    @property
    def between_requests(self) -> bool:
        """Nothing of a next request has come in yet."""
        return (
            self._plain is None
            and not self._waiting
            and self._h11.their_state is h11.IDLE
            and not self._h11.trailing_data[0]
        )

    @property
    def receiving(self) -> bool:
        """A request has come in in part."""
        return (
            self._plain is None
            and self._h11.their_state in (h11.IDLE, h11.SEND_BODY)
            and not self.between_requests
        )

    @property
    def answering(self) -> bool:
        """A request has come in whole, and its answer is not out yet."""
        return not (self.between_requests or self.receiving)

    @property
    def has_head(self) -> bool:
        """A request's head has come in, and its answer is not out yet."""
        return self._plain is not None or self._h11.their_state is not h11.IDLE

    @property
    def has_unread_input(self) -> bool:
        """The client has sent, or is still sending, what will not be read."""
        return self._h11.their_state in (h11.SEND_BODY, h11.ERROR) or bool(
            self._waiting or self._h11.trailing_data[0]
        )

    @property
    def takes_input(self) -> bool:
        """False while so much of later requests is waiting that no more should be read."""
        if self._plain is not None:
            return len(self._waiting) < _MAX_PIPELINED
        return (
            self._h11.their_state is not h11.DONE
            or len(self._h11.trailing_data[0]) < _MAX_PIPELINED
        )

    async def handle(self, event: ConnectionEvent) -> None:
        if not isinstance(event, RawData):
            if self._plain is not None and isinstance(event, Closed):
                self._plain.disconnect()
            await super().handle(event)
            return
        data = event.data
        if self._plain is not None or self._waiting:
            self._waiting += data
            return
        if self.between_requests:
            data = _without_empty_lines(data)
        if data or not event.data:
            if self._h11.their_state is h11.SEND_BODY:
                self._framing += len(data)
            if self._h11.their_state is not h11.MUST_CLOSE:  # section 9.6: nothing is read after
                self._h11.receive_data(data)
            await self._handle_events()

    async def resume(self) -> None:
        """Go on with what came in while the last request was being answered."""
        if self._waiting and self._plain is None:
            data, self._waiting = self._waiting, b""
            if not self.begin_plain(data):
                await self.handle(RawData(data=data))
        elif self._h11.their_state is h11.IDLE and self._h11.trailing_data[0]:
            await self._handle_events()

    async def go_on(self) -> None:
        """The body is wanted: tell a client that waits to hear so (Expect: 100-continue)."""
        if self._h11.they_are_waiting_for_100_continue:
            headers = self.config.response_headers("h11")
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=headers))

    async def give_up(self, status: int) -> None:
        """Answer with an error where no answer has begun yet."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send_error_response(status)

    async def stream_send(self, event: Event) -> None:
        if isinstance(event, Response) and (
            self._close_after or self._is_last or self._h11.their_state is h11.SEND_BODY
        ):
            # The server is going away, or the rest of this request's body will not be read.
            headers = [*event.headers, (b"connection", b"close")]
            event = Response(
                stream_id=event.stream_id, headers=headers, status_code=event.status_code
            )
        await super().stream_send(event)

    @property
    def _is_last(self) -> bool:
        """The connection is not to carry another request."""
        return not self.keep_alive or self.context.terminated.is_set()

    def begin_plain(self, data: bytes) -> bool:
        """Begin with the plain request that has come in, whole, where another may begin. False:
        there is none, and `handle` is to have the data."""
        if not self.between_requests:
            return False
        data = _without_empty_lines(data)
        request = recognise(data)
        if request is None:
            return False
        self._waiting = data[request.end :]
        self._plain = WholeRequest(request.body)
        self.keep_alive_requests += 1
        self.task_group.spawn(self._answer_plain, request, self._plain)
        return True

    async def _answer_plain(self, request: PlainRequest, whole: WholeRequest) -> None:
        scope = scope_of(
            request, client=self.client, server=self.server, state=self.connection_state
        )
        worn_out = self.keep_alive_requests >= self.config.keep_alive_max_requests
        answer = PlainAnswer(
            request.method,
            close=lambda: worn_out or self._is_last,
            write=self._write,
            finish=self._finish_plain,
        )
        try:
            await self.app(scope, whole, answer, trio.to_thread.run_sync, trio.from_thread.run)
        except Exception:  # a defect of the app: the other clients are served on
            logger.exception("Error in ASGI Framework")
        if not (answer.finished or whole.client_is_gone):
            await answer.give_up()

    async def _write(self, data: bytes) -> None:
        await self.send(RawData(data=data))

    async def _finish_plain(self, close: bool) -> None:
        self._plain = None
        if close or self.context.terminated.is_set():
            await self.send(Closed())
        else:
            self._waiting = _without_empty_lines(self._waiting)
            await self.send(Updated(idle=True))

    async def _handle_events(self) -> None:
        while self._h11.their_state is not h11.MUST_CLOSE:
            try:
                event = self._h11.next_event()
                self._check_framing(event)
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint)
                return
            if isinstance(event, h11.Request):
                await self.send(Updated(idle=False))
                status = _refusal(event)
                if status is not None:
                    await self._refuse(status, head=event.method == b"HEAD")
                    return
                names = {name for name, _ in event.headers}
                # RFC 9112, section 6.1: two lengths are one too many for whatever comes after.
                self._close_after = {b"content-length", b"transfer-encoding"} <= names
                self._framing = len(self._h11.trailing_data[0])
                await self._create_stream(event)
            elif self.stream is None:
                return
            elif isinstance(event, h11.Data):
                await self.stream.handle(Body(stream_id=STREAM_ID, data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self.stream.handle(EndBody(stream_id=STREAM_ID))
            else:  # NEED_DATA, PAUSED or the end of the connection
                return

    def _check_framing(self, event: object) -> None:
        if isinstance(event, h11.Data):
            self._framing -= len(event.data) + (_FRAMING_OF_CHUNK if event.chunk_end else 0)
        # Once all that has come in of the body has been seen.
        elif (
            event is h11.NEED_DATA
            and self._h11.their_state is h11.SEND_BODY
            and self._framing > _FRAMING_TO_SPARE
        ):
            raise h11.RemoteProtocolError("more framing than body")

    async def _refuse(self, status: int, *, head: bool = False) -> None:
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send_error_response(status, head=head)
        await self.send(Closed())

    async def _maybe_recycle(self) -> None:
        await self._close_stream()
        both = (self._h11.our_state, self._h11.their_state)
        if self.context.terminated.is_set() or both != (h11.DONE, h11.DONE):
            await self.send(Closed())
            return
        self._h11.start_next_cycle()
        self._drop_empty_lines()
        await self.send(Updated(idle=True))

    def _drop_empty_lines(self) -> None:
        """As in `handle`, of what has come in with an earlier request."""
        waiting, ended = self._h11.trailing_data
        if waiting[:1] not in (b"\r", b"\n"):
            return
        # h11 has no other way to take something out of its buffer.
        self.connection = self._h11 = h11.Connection(
            h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size
        )
        rest = _without_empty_lines(waiting)
        if rest:
            self._h11.receive_data(rest)
        if ended:
            self._h11.receive_data(b"")

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

    async def _send_error_response(self, status_code: int, *, head: bool = False) -> None:
        detail = _DETAILS.get(status_code, _DETAILS[400])
        body = problems.encode(problems.of_status(status_code, detail))
        headers = [
            (b"content-type", problems.CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        if not head:
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


def _without_empty_lines(data: bytes) -> bytes:
    """RFC 9112, section 2.2: those before a request are no part of it."""
    return data.lstrip(b"\r\n")


def _refusal(request: h11.Request) -> int | None:
    """The status for what is HTTP in form only."""
    if request.method == b"PRI":
        return 400  # how HTTP/2 begins, spoken without having been asked for
    if not request.http_version.startswith(b"1."):
        return 505
    return None if request.method in _METHODS else 501


def _has_length(response: h11.Response) -> bool:
    return any(name == b"content-length" for name, _ in response.headers)

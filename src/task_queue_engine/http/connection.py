"""One client's connection: hypercorn's HTTP/1.1 over a trio stream, bounded in every phase.

hypercorn's own connection class (`hypercorn.trio.tcp_server.TCPServer`) is not used, for three
reasons that cannot be configured away: it limits the time between two reads, not for a whole
request, so one byte a second holds a connection for ever; it sends under a shield without a limit,
so a client that does not read holds up the server's exit; and it closes at once after an early
answer, so that a client still sending may never see it. This one keeps time as follows:

=========================  ==================================================================
waiting for a first byte   `request_timeout` on a new connection, `keep_alive_timeout` later
first byte to end of body  `request_timeout` in all, then 408
the handler                no limit here; handlers have their own
sending                    `request_timeout` for each 64 KiB: a minimal speed
closing                    `linger` for a client that is still sending (RFC 9112, section 9.6)
=========================  ==================================================================

Cancelling a connection ends it at once; nothing that waits for the client is shielded.

While a request is handled the connection is read on, so that the client's end is noticed at once:
a long poll whose client has gone holds no place.
"""

from __future__ import annotations

import math
import os
import select
import struct
from dataclasses import dataclass

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from task_queue_engine.http.crowd import Crowd, Phase
from task_queue_engine.http.protocol import HttpProtocol

CHUNK = 65_536
"""Bytes received or sent at a time."""
TELL_TIME = 1.0
"""Seconds until a handler must have taken note of its client's disconnect."""
DRAIN_HEAD_TIME = 1.0
"""Seconds for the rest of a request's head once the server is going away."""

CROWDED_OUT_TIME = 0.1
"""Seconds to tell a client that it is dropped: it fits into a packet."""

CROWDED = "tqe.crowded"
"""Member of the ASGI scope's `state`: the connection is one too many, for probes only."""
GO_ON = "tqe.go_on"
"""Member of the ASGI scope's `state`: called before a body is read, see `HttpProtocol.go_on`."""

# SO_LINGER, on, for 0 seconds: closing sends a reset and drops what is unsent.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """In seconds."""

    request_timeout: float
    keep_alive_timeout: float = 75.0
    """Above the 60 s after which load balancers close by default, so that they close first."""
    linger: float = 2.0
    """For a client that is still sending; longer would hold up the exit."""


class ClientConnection:
    """
    Args:
        crowd: the connections this is one of; told which phase it is in, and left at the end.
        for_probes: one request, and only of what a probe asks for; the app is told by CROWDED.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        *,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        limits: ConnectionLimits,
        crowd: Crowd[ClientConnection],
        for_probes: bool = False,
    ) -> None:
        self._stream = stream
        self._app = app
        self._config = config
        self._context = context
        self._limits = limits
        self._crowd = crowd
        self._for_probes = for_probes
        self._sending = trio.Lock()
        self._reading = trio.CancelScope()
        """Cancelled to end the connection: nothing more is read, what runs is told so."""
        self._reception = trio.CancelScope()
        """The one read that is going on."""
        self._transmission = trio.CancelScope()
        """The one write that is going on."""
        self._idle_until = trio.current_time() + limits.request_timeout
        self._request_until = math.inf
        self._has_answered = False
        self._answered = False
        """Since the present read began: there may be a next request to go on with."""
        self._crowded_out = False
        self._broken = False

    async def run(self) -> None:
        """Serve requests until the client or the server is done. Closes the stream."""
        try:
            sock = self._stream.socket
            self._descriptor = sock.fileno()
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
            state = ConnectionState({CROWDED: self._for_probes})
            async with TaskGroup() as requests:
                self._protocol = HttpProtocol(
                    self._app,
                    self._config,
                    self._context,
                    requests,
                    state,
                    False,
                    client,
                    server,
                    self._send,
                )
                self._protocol.keep_alive = not self._for_probes
                state[GO_ON] = self._protocol.go_on
                with self._reading:
                    await self._read()
                await self._tell_disconnect()
            if self._protocol.has_unread_input and not (self._broken or self._crowded_out):
                await self._linger()
        except OSError:
            pass  # the client was gone before we asked who it is
        finally:
            self._crowd.discard(self)
            if self._broken:
                # What a client has not taken by now it will not take: let the kernel forget it.
                self._stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, _RESET)
            await trio.aclose_forcefully(self._stream)

    def hang_up_if_silent(self) -> None:
        """Close it where no request has begun. What has reached the kernel counts as accepted, as
        far as the client can tell."""
        if self._protocol.between_requests:
            arrived = select.poll()
            arrived.register(self._stream.socket.fileno(), select.POLLIN)
            if not arrived.poll(0):
                self._reading.cancel()

    def crowd_out(self) -> None:
        """Make room for another, with what has come in of a request or gone out of an answer. (A
        request that has come in whole in this moment is answered all the same.)"""
        self._crowded_out = True
        self._protocol.keep_alive = False
        self._transmission.cancel()
        if not self._protocol.answering:
            self._reception.cancel()

    async def _read(self) -> None:
        while True:
            self._answered = False
            await self._protocol.resume()
            self._note_phase()
            data: bytes | None = None
            with trio.CancelScope(deadline=self._deadline()) as self._reception:
                if self._answered or (self._crowded_out and not self._protocol.answering):
                    self._reception.cancel()
                try:
                    data = await self._receive_unplain()
                except OSError:
                    return
            if data is None:
                # A deadline may be an earlier request's: it is not moved with each, which costs.
                if self._answered or (
                    not self._crowded_out and trio.current_time() < self._deadline()
                ):
                    continue
                await self._give_up()
                return
            await self._protocol.handle(RawData(data=data))
            if not data:
                return

    async def _receive_unplain(self) -> bytes:
        """What comes in, but for plain requests: those are begun here, one after the other."""
        while True:
            if not self._protocol.takes_input:
                await trio.sleep_forever()  # until the answer that goes before is out
            data = await self._receive()
            if not self._protocol.begin_plain(data):
                return data
            self._crowd.move(self, Phase.BUSY)

    async def _receive(self) -> bytes:
        """Past trio's stream, which tries to read before it waits: in vain, mostly, since a client
        that has been answered takes a moment to ask again. Raises OSError."""
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                return os.read(self._descriptor, CHUNK)
            except BlockingIOError:
                continue

    async def _give_up(self) -> None:
        if not self._protocol.receiving:
            return
        if self._crowded_out or self._for_probes:
            with trio.move_on_after(CROWDED_OUT_TIME):
                await self._protocol.give_up(503)
        else:
            await self._protocol.give_up(408)

    def _note_phase(self) -> None:
        if self._sending.locked():
            phase = Phase.TAKING
        elif self._protocol.between_requests:
            phase = Phase.IDLE if self._has_answered else Phase.ASKING
            if self._context.terminated.is_set():
                self.hang_up_if_silent()
        elif self._protocol.answering:
            phase = Phase.BUSY
        else:
            phase = Phase.SENDING if self._protocol.has_head else Phase.ASKING
        self._crowd.move(self, phase)

    def _deadline(self) -> float:
        """Until when the next bytes have to come."""
        if self._protocol.between_requests:
            return self._idle_until
        if self._protocol.answering:
            return math.inf  # a request is being handled: reading only to notice a disconnect
        now = trio.current_time()
        if self._request_until == math.inf:
            self._request_until = now + self._limits.request_timeout
        if self._context.terminated.is_set() and not self._protocol.has_head:
            self._request_until = min(self._request_until, now + DRAIN_HEAD_TIME)
        return self._request_until

    def hurry(self) -> None:
        """The server is going away: nothing is kept open, and a request of which not even the head
        is in gets little time."""
        self.hang_up_if_silent()
        if self._protocol.receiving:
            self._reception.deadline = self._deadline()

    async def _send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            await self._end()
        elif isinstance(event, Updated) and event.idle:
            # A response is out. The reader waits for a disconnect, which from now on is waiting for
            # the next request; or it goes on with one that has come in meanwhile.
            self._request_until = math.inf
            self._idle_until = trio.current_time() + self._limits.keep_alive_timeout
            self._has_answered = True
            if self._protocol.between_requests:
                self._note_phase()
                if self._idle_until < self._reception.deadline:
                    self._reception.deadline = self._idle_until
            else:
                self._answered = True
                self._reception.cancel()

    async def _write(self, data: bytes) -> None:
        if not self._sending.locked():
            data = data[self._write_at_once(data) :]
            if not data:
                return
        try:
            async with self._sending:
                self._note_phase()
                view = memoryview(data)
                for start in range(0, len(data), CHUNK):
                    with trio.fail_after(self._limits.request_timeout) as self._transmission:
                        await self._stream.send_all(view[start : start + CHUNK])
            self._note_phase()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self._broken = True
            await self._end()
        except trio.Cancelled:
            self._broken = True  # a part may be out: nothing sensible can follow it
            self._reading.cancel()
            raise

    def _write_at_once(self, data: bytes) -> int:
        """How many bytes of it the kernel has taken without a wait: mostly all."""
        try:
            return os.write(self._descriptor, data)
        except OSError:
            return 0  # no room for now, or the client has gone: the stream finds out which

    async def _end(self) -> None:
        await self._tell_disconnect()
        self._reading.cancel()

    async def _tell_disconnect(self) -> None:
        """hypercorn tells a handler once, and counts it as told even where the telling was
        cancelled; the handler would then wait for the rest of its body for ever. There is nothing
        to wait for in this but a queue that the app empties, or has ended with."""
        with trio.move_on_after(TELL_TIME, shield=True):
            await self._protocol.handle(Closed())

    async def _linger(self) -> None:
        """A close while input is unread makes the kernel send a reset, which may destroy the answer
        before the client has read it. So say that we are done, and let the client finish."""
        with trio.move_on_after(self._limits.linger):
            try:
                await self._stream.send_eof()
                while await self._stream.receive_some(CHUNK):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

"""A network away: holds whatever clients send to a server on this machine for some milliseconds.

    python -m benchmarks.delay_proxy --delay-ms 8 http://127.0.0.1:4566 http://127.0.0.1:8000

Prints one line for each target, `TARGET PROXY`, once it listens. Bytes are held on their way to the
server and passed on at once on their way back, so that a request takes that much longer, however
many are under way on however many connections, and in the order they came. Only 127.0.0.1, without
TLS.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from typing import cast
from urllib.parse import urlsplit


class _Toward(asyncio.Protocol):
    """The connection to the server: what it says goes back at once."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.close()

    def pause_writing(self) -> None:
        self._client.pause_reading()

    def resume_writing(self) -> None:
        self._client.resume_reading()


class _From(asyncio.Protocol):
    """The connection of a client: what it says is held.

    One timer a connection: each part is due so long after it came, and so in the order they came.
    """

    def __init__(self, port: int, delay: float) -> None:
        self._port = port
        self._delay = delay
        self._held: deque[tuple[float, bytes | None]] = deque()
        self._server: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._connecting = self._loop.create_task(self._connect())

    def data_received(self, data: bytes) -> None:
        self._hold(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._hold(None)

    async def _connect(self) -> None:
        try:
            transport, _ = await self._loop.create_connection(
                lambda: _Toward(self._client), "127.0.0.1", self._port
            )
        except OSError:
            self._client.close()
            return
        self._server = transport
        self._pass_on()

    def _hold(self, data: bytes | None) -> None:
        self._held.append((self._loop.time() + self._delay, data))
        if self._timer is None:  # one that is set is for the first of those held
            self._pass_on()

    def _pass_on(self) -> None:
        self._timer = None
        if self._server is None:
            return
        now = self._loop.time()
        while self._held and self._held[0][0] <= now:
            data = self._held.popleft()[1]
            if data is None:
                self._server.close()
            elif not self._server.is_closing():
                self._server.write(data)
        if self._held:
            self._timer = self._loop.call_at(self._held[0][0], self._pass_on)


async def serve(targets: list[str], delay: float) -> None:
    """Until it is cancelled.

    Args:
        targets: URLs on 127.0.0.1.
        delay: seconds.
    """
    loop = asyncio.get_running_loop()
    servers = []
    for target in targets:
        port = urlsplit(target).port
        if port is None:
            raise SystemExit(f"{target} names no port")

        def accept(port: int = port) -> _From:
            return _From(port, delay)

        server = await loop.create_server(accept, "127.0.0.1", 0, backlog=512)
        servers.append(server)
        own = server.sockets[0].getsockname()[1]
        print(f"{target} http://127.0.0.1:{own}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.delay_proxy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="+", metavar="URL")
    parser.add_argument("--delay-ms", type=float, default=8.0, help="for each request (8)")
    args = parser.parse_args()
    if args.delay_ms < 0:
        parser.error("--delay-ms cannot be negative")
    asyncio.run(serve(args.targets, args.delay_ms / 1e3))


if __name__ == "__main__":
    main()

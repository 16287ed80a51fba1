"""A network in trouble: passes bytes on, and cuts, delays or damages what the server says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio


@dataclass
class Trouble:
    cut_after: int | None = None
    """Bytes of the server's that still get through on each connection."""
    damage_at: int | None = None
    """Which byte of the server's has `flip` applied to it."""
    flip: int = 0x01
    pace: float = 0.0
    """Seconds between pieces."""
    piece: int = 65536
    """Bytes passed on at once, in both directions."""
    refuse: bool = False
    """Close connections as they come."""


@dataclass
class Proxy:
    url: str
    trouble: Trouble


@asynccontextmanager
async def proxying(port: int, *, scheme: str = "http") -> AsyncIterator[Proxy]:
    """To 127.0.0.1:`port`."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = Proxy(f"{scheme}://127.0.0.1:{listeners[0].socket.getsockname()[1]}", Trouble())

    async def handle(client: trio.SocketStream) -> None:
        if proxy.trouble.refuse:
            return
        server = await trio.open_tcp_stream("127.0.0.1", port)
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(_up, client, server, proxy.trouble)
            await _down(server, client, proxy.trouble)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield proxy
        nursery.cancel_scope.cancel()


async def _up(client: trio.SocketStream, server: trio.SocketStream, trouble: Trouble) -> None:
    try:
        while data := await client.receive_some(trouble.piece):
            await server.send_all(data)
        await server.send_eof()
    except trio.BrokenResourceError:
        pass


async def _down(server: trio.SocketStream, client: trio.SocketStream, trouble: Trouble) -> None:
    passed = 0
    try:
        while data := await server.receive_some(trouble.piece):
            if trouble.pace:
                await trio.sleep(trouble.pace)
            if trouble.damage_at is not None and passed <= trouble.damage_at < passed + len(data):
                damaged = bytearray(data)
                damaged[trouble.damage_at - passed] ^= trouble.flip
                data = bytes(damaged)
            if trouble.cut_after is not None and passed + len(data) >= trouble.cut_after:
                await client.send_all(data[: trouble.cut_after - passed])
                return
            await client.send_all(data)
            passed += len(data)
    except trio.BrokenResourceError:
        pass

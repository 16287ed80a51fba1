"""A network in trouble: passes bytes on, and cuts, delays or damages what the server says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio


@dataclass
class NetworkFaults:
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
class FaultyNetwork:
    url: str
    faults: NetworkFaults


@asynccontextmanager
async def faulty_network(port: int, *, scheme: str = "http") -> AsyncIterator[FaultyNetwork]:
    """To 127.0.0.1:`port`."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    network = FaultyNetwork(
        f"{scheme}://127.0.0.1:{listeners[0].socket.getsockname()[1]}", NetworkFaults()
    )

    async def handle(client: trio.SocketStream) -> None:
        if network.faults.refuse:
            return
        server = await trio.open_tcp_stream("127.0.0.1", port)
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(_up, client, server, network.faults)
            await _down(server, client, network.faults)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield network
        nursery.cancel_scope.cancel()


async def _up(client: trio.SocketStream, server: trio.SocketStream, faults: NetworkFaults) -> None:
    try:
        while data := await client.receive_some(faults.piece):
            await server.send_all(data)
        await server.send_eof()
    except trio.BrokenResourceError:
        pass


async def _down(
    server: trio.SocketStream, client: trio.SocketStream, faults: NetworkFaults
) -> None:
    passed = 0
    try:
        while data := await server.receive_some(faults.piece):
            if faults.pace:
                await trio.sleep(faults.pace)
            if faults.damage_at is not None and passed <= faults.damage_at < passed + len(data):
                damaged = bytearray(data)
                damaged[faults.damage_at - passed] ^= faults.flip
                data = bytes(damaged)
            if faults.cut_after is not None and passed + len(data) >= faults.cut_after:
                await client.send_all(data[: faults.cut_after - passed])
                return
            await client.send_all(data)
            passed += len(data)
    except trio.BrokenResourceError:
        pass

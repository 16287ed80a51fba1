"""A proxy before a local server that lets requests through, or injects a fault instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import trio

from local_aws.servers import LocalServer
from tests.backends.aws.wire.canned import Answer, Request, read_request

Fault = Callable[[Request], Answer | Literal["cut", "hang"] | None]
"""None: the request goes through."""


def no_fault(request: Request) -> None:
    return None


@dataclass
class FaultProxy:
    url: str
    fault: Fault = no_fault
    changed: trio.Event = field(default_factory=trio.Event)
    operations: set[str] = field(default_factory=set)
    """All that got through."""

    def inject(self, fault: Fault) -> None:
        """From now on. Requests that hang are cut."""
        self.fault = fault
        self.changed.set()
        self.changed = trio.Event()


@asynccontextmanager
async def fault_proxy(server: LocalServer) -> AsyncIterator[FaultProxy]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = FaultProxy(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:

        async def handle(stream: trio.SocketStream) -> None:
            buffer = b""
            try:
                while True:
                    request, buffer = await read_request(stream, buffer, 0)
                    answer = await _answer(proxy, server, client, request)
                    if answer is None:
                        return
                    await stream.send_all(answer)
            except (trio.BrokenResourceError, EOFError):
                return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, handle, listeners)
            yield proxy
            nursery.cancel_scope.cancel()


async def _answer(
    proxy: FaultProxy, server: LocalServer, client: httpx.AsyncClient, request: Request
) -> bytes | None:
    said = proxy.fault(request)
    if isinstance(said, Answer):
        return said.data
    if said == "hang":
        await proxy.changed.wait()
    if said is not None:
        return None
    proxy.operations.add(request.operation)
    kept: dict[str, Any] = {
        name: value for name, value in request.headers.items() if name not in ("host", "connection")
    }
    through = await client.post(f"{server.url}/", content=request.body, headers=kept)
    passed_on = ("content-type", "x-amzn-requestid", "x-amz-crc32", "x-amzn-query-error")
    lines = [
        f"HTTP/1.1 {through.status_code} Whatever",
        f"content-length: {len(through.content)}",
        *(f"{name}: {through.headers[name]}" for name in passed_on if name in through.headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + through.content

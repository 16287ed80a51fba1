"""Connections to one endpoint, for one kind of call."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from task_queue_engine.backends.aws.wire.connection import Connection


class ConnectionPool:
    """At most `size` connections; later calls wait, in order.

    The one used last is used first, so that the others grow old; those not used for `max_idle`
    seconds are closed at the next call. Servers and gateways drop silent connections, and some do
    not say so.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], *, size: int, max_idle: float
    ) -> None:
        self._connect = connect
        self._max_idle = max_idle
        self._slots = trio.Semaphore(size, max_value=size)
        self._idle: deque[Connection] = deque()  # oldest first
        self._closed = False

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """An idle connection, or a new one (always, if `fresh`).

        Raises:
            TransportError: a new one could not be made.
        """
        try:
            self._slots.acquire_nowait()  # saves the checkpoint that the request has anyway
        except trio.WouldBlock:
            await self._slots.acquire()
        if not fresh:
            connection = self._take_idle()
            if connection is not None:
                return connection
        try:
            return await self._connect()
        except BaseException:
            self._slots.release()
            raise

    def release(self, connection: Connection) -> None:
        """To be called once for everything acquired, closed or not."""
        self._slots.release()
        if connection.closed:
            return
        if self._closed:
            connection.close()
            return
        connection.idle_since = trio.current_time()
        self._idle.append(connection)

    def close(self) -> None:
        """Close what is idle now, and the others when they are released."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self) -> Connection | None:
        self._drop_old()
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale():
                return connection
            connection.close()
        return None

    def _drop_old(self) -> None:
        oldest = trio.current_time() - self._max_idle
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().close()

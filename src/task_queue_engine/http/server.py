"""Serving the app: hypercorn's protocol inside the caller's nursery."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper
from quart_trio import QuartTrio

from task_queue_engine.config import Settings
from task_queue_engine.engine.api import EngineApi
from task_queue_engine.http.app import create_app, state_of
from task_queue_engine.http.client_address import ClientAddresses
from task_queue_engine.http.connection import ClientConnection, ConnectionLimits
from task_queue_engine.http.cross_site import is_loopback_name
from task_queue_engine.http.crowd import Crowd, address_of
from task_queue_engine.http.listeners import Bound, bound, open_listeners
from task_queue_engine.http.open_files import fitting_connections

logger = logging.getLogger("task_queue_engine.http")

RESERVE = 50
"""Connections beyond `max_connections`, for probes: all else that is asked there gets a 503."""
RESERVE_TIME = 2.0
"""Seconds for the request of a connection in the reserve: probes send theirs at once."""
RESERVE_LINGER = 0.5
"""Seconds for one that is still sending to see its 503."""

# accept(2): no descriptor or no memory is left. That passes.
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# Seconds until the next try; connections wait in the kernel's queue meanwhile.
_ACCEPT_PAUSE = 0.1
# Seconds between two lines about it in the log.
_TELL_AGAIN = 60.0


async def serve_http(
    engine: EngineApi,
    settings: Settings,
    *,
    app: QuartTrio | None = None,
    shutdown: trio.Event,
    listeners: Sequence[trio.SocketListener] | None = None,
    grace: float | None = None,
    task_status: trio.TaskStatus[Bound] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set and everything accepted is answered, or `grace` is over.

    Args:
        engine: answers the requests. It should go on doing so until this function returns.
        settings: host, port, allow_public_without_keys, max_connections (fewer where the process
            may not open as many files), max_connections_per_address, shutdown_grace; worker_count
            and processes, for the files they need; what `create_app` uses.
        app: one of `create_app`'s, perhaps with routes added; None: a new one.
        shutdown: set it to stop. No connection is accepted any more, idle ones are closed at once,
            long polls are answered with the task as it is, requests that have come in are answered.
        listeners: from `open_listeners`, to bind before anything else is started. Closed here.
        grace: seconds from `shutdown` until connections are cut off; None: `shutdown_grace`.
        task_status: told where the server listens, once clients can connect.

    Cancelling this function cuts all connections off at once.

    Raises:
        ConfigurationError: as `open_listeners`.
    """
    if listeners is None:
        listeners = await open_listeners(settings)
    try:
        if app is None:
            app = create_app(engine, settings)
        state = state_of(app)
        hosts = [listener.socket.getsockname()[0] for listener in listeners]
        if not settings.asks_for_keys and not all(is_loopback_name(host) for host in hosts):
            only_monitoring = state is not None and state.only_monitoring
            logger.warning(
                "no API keys are set: all that reach %s may %s",
                bound(listeners).url,
                "read its metrics" if only_monitoring else "submit, cancel and read tasks",
            )
        server = _Server(app, settings)
        await server.run(
            listeners,
            shutdown,
            settings.shutdown_grace if grace is None else grace,
            task_status,
        )
    finally:
        for listener in listeners:
            listener.socket.close()


class _Server:
    def __init__(self, app: QuartTrio, settings: Settings) -> None:
        self._state = state_of(app)
        self._app: AppWrapper = ASGIWrapper(app)
        self._limits = ConnectionLimits(request_timeout=settings.request_timeout)
        self._reserve_limits = ConnectionLimits(
            request_timeout=min(RESERVE_TIME, settings.request_timeout),
            linger=RESERVE_LINGER,
        )
        self._connections: Crowd[ClientConnection] = Crowd(fitting_connections(settings, RESERVE))
        self._reserve: Crowd[ClientConnection] = Crowd(RESERVE)
        if self._state is not None:
            self._state.waiting.fit_into(self._connections.limit)
        self._per_address = settings.max_connections_per_address
        self._addresses = ClientAddresses(settings.trusted_proxies)
        self._config = _hypercorn_config()
        self._context = WorkerContext(None)
        self._told_no_room = -_TELL_AGAIN

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        shutdown: trio.Event,
        grace: float,
        task_status: trio.TaskStatus[Bound],
    ) -> None:
        lifespan = Lifespan(self._app, self._config, {})
        async with trio.open_nursery() as lifespan_nursery:
            await lifespan_nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener, connections)
                    task_status.started(bound(listeners))
                    await shutdown.wait()
                    accepting.cancel_scope.cancel()
                for listener in listeners:
                    listener.socket.close()
                await self._drain()
                connections.cancel_scope.deadline = trio.current_time() + grace
            if connections.cancel_scope.cancelled_caught:
                logger.warning("connections were cut off: %g s of grace are over", grace)
            await lifespan.wait_for_shutdown()
            lifespan_nursery.cancel_scope.cancel()

    async def _drain(self) -> None:
        await self._context.terminated.set()
        if self._state is not None:
            self._state.drain()
        for connection in (*self._connections.members, *self._reserve.members):
            connection.hurry()

    async def _accept(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._no_room(error)
                await trio.sleep(_ACCEPT_PAUSE)
            else:
                connections.start_soon(self._serve, stream)

    def _no_room(self, error: OSError) -> None:
        """Descriptors that handlers have used up come back, and one comes back at once where a
        connection waits for its client."""
        shed = self._connections.shed()
        now = trio.current_time()
        if now - self._told_no_room >= _TELL_AGAIN:
            self._told_no_room = now
            logger.warning(
                "no connection can be accepted for now (%s)%s; is `ulimit -n` too low?",
                error.strerror,
                ", idle ones are closed" if shed else "",
            )

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = self._admit(stream)
        if connection is None:
            await trio.aclose_forcefully(stream)
            return
        try:
            await connection.run()
        except Exception:  # a defect, but in what one client does: the others are served on
            logger.exception("a connection failed")

    def _admit(self, stream: trio.SocketStream) -> ClientConnection | None:
        try:
            host = str(stream.socket.getpeername()[0])
        except OSError:  # it is gone again
            return None
        address = address_of(host)
        crowd, limits = self._connections, self._limits
        for_probes = not crowd.has_room_for(address, at_most=self._most_of(host))
        if for_probes:
            crowd, limits = self._reserve, self._reserve_limits
            if not crowd.has_room_for(address):
                return None
        connection = ClientConnection(
            stream,
            app=self._app,
            config=self._config,
            context=self._context,
            limits=limits,
            for_probes=for_probes,
            crowd=crowd,
        )
        crowd.add(connection, address)
        return connection

    def _most_of(self, host: str) -> int | None:
        """So many connections its address may have; a proxy's are those of all its clients."""
        if not self._per_address or self._addresses.is_proxy(host):
            return None
        return self._per_address


def _hypercorn_config() -> Config:
    config = Config()
    config.include_server_header = False
    config.accesslog = None  # the middleware writes one, with the request's id
    config.errorlog = logger
    config.startup_timeout = 10
    config.shutdown_timeout = 10
    return config

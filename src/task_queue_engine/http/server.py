"""Serving the app: hypercorn's protocol inside the caller's nursery."""

from __future__ import annotations

import logging
import select
from collections.abc import Sequence
from functools import partial

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper
from quart_trio import QuartTrio

from task_queue_engine.config import Settings
from task_queue_engine.engine.api import EngineApi
from task_queue_engine.http import problems
from task_queue_engine.http.app import create_app, state_of
from task_queue_engine.http.connection import ClientConnection, ConnectionLimits
from task_queue_engine.http.cross_site import is_loopback_name
from task_queue_engine.http.listeners import Bound, bound, open_listeners

logger = logging.getLogger("task_queue_engine.http")

MAX_REFUSALS = 100
"""Connections that are told at one time that there are too many; further ones are just closed."""
REFUSAL_TIME = 1.0
"""Seconds that one refusal may take: it fits into a packet, and a slow client gets no more."""


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
        settings: host, port, api_keys, allow_public_without_keys, max_body_bytes,
            request_timeout, max_connections, shutdown_grace.
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
        hosts = [listener.socket.getsockname()[0] for listener in listeners]
        if not settings.api_keys and not all(is_loopback_name(host) for host in hosts):
            logger.warning(
                "no API keys are set: all that reach %s may submit, cancel and read tasks",
                bound(listeners).url,
            )
        if app is None:
            app = create_app(engine, settings)
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
        self._limits = ConnectionLimits(
            request_timeout=settings.request_timeout, max_connections=settings.max_connections
        )
        self._config = _hypercorn_config()
        self._context = WorkerContext(None)
        self._open: set[ClientConnection] = set()
        self._refusing = 0
        self._idle: dict[ClientConnection, None] = {}
        """In the order in which they became idle."""
        self._draining = False

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
                    accepting.start_soon(
                        partial(
                            trio.serve_listeners,
                            self._serve,
                            list(listeners),
                            handler_nursery=connections,
                        )
                    )
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
        self._draining = True
        await self._context.terminated.set()
        if self._state is not None:
            self._state.drain()
        for connection in self._open:
            if connection in self._idle:
                self._hang_up_if_silent(connection)
            else:
                connection.hurry()

    def _hang_up_if_silent(self, connection: ClientConnection) -> None:
        """What has reached the kernel counts as accepted, as far as the client can tell."""
        arrived = select.poll()
        arrived.register(connection.fileno, select.POLLIN)
        if not arrived.poll(0):
            connection.hang_up()

    async def _serve(self, stream: trio.SocketStream) -> None:
        if len(self._open) >= self._limits.max_connections and not self._make_room():
            await self._refuse(stream)
            return
        connection = ClientConnection(
            stream,
            app=self._app,
            config=self._config,
            context=self._context,
            limits=self._limits,
            idle_tracker=self,
        )
        self._open.add(connection)
        try:
            await connection.run()
        except Exception:  # a defect, but in what one client does: the others are served on
            logger.exception("a connection failed")
        finally:
            self._open.discard(connection)

    # --- what connections tell us -----------------------------------------------------------

    def now_idle(self, connection: ClientConnection) -> None:
        self._idle.setdefault(connection)
        if self._draining:
            self._hang_up_if_silent(connection)

    def now_busy(self, connection: ClientConnection) -> None:
        self._idle.pop(connection, None)

    # --- too many ---------------------------------------------------------------------------

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest. False where all are busy."""
        if not self._idle:
            return False
        longest = next(iter(self._idle))
        self.now_busy(longest)
        longest.hang_up()
        return True

    async def _refuse(self, stream: trio.SocketStream) -> None:
        if self._refusing >= MAX_REFUSALS:
            await trio.aclose_forcefully(stream)
            return
        self._refusing += 1
        try:
            with trio.move_on_after(REFUSAL_TIME):
                await stream.send_all(_TOO_MANY)
                await stream.send_eof()
                while await stream.receive_some(65_536):
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._refusing -= 1
            await trio.aclose_forcefully(stream)


def _hypercorn_config() -> Config:
    config = Config()
    config.include_server_header = False
    config.accesslog = None  # the middleware writes one, with the request's id
    config.errorlog = logger
    config.startup_timeout = 10
    config.shutdown_timeout = 10
    return config


def _too_many() -> bytes:
    problem = problems.make("unavailable", "too many connections are open; try again")
    body = problems.encode(problem)
    head = (
        "HTTP/1.1 503 Service Unavailable\r\n"
        f"content-type: {problems.CONTENT_TYPE}\r\n"
        f"content-length: {len(body)}\r\n"
        "retry-after: 1\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body


_TOO_MANY = _too_many()

"""`serve`, `api` and `worker`: engine, HTTP server, signals and watchdog, composed.

The order in which they end is described in `engine/shutdown.py`. A signal is its first step here:
the engine takes no more work, and the server accepts no more connections and answers what it has
accepted. Then the engine is asked to stop. A second signal cuts both short.
"""

from __future__ import annotations

import gc
import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from task_queue_engine._version import __version__
from task_queue_engine.cli.failures import ExitCode
from task_queue_engine.cli.guard import Guard
from task_queue_engine.cli.member_engine import MemberEngine
from task_queue_engine.cli.membership import Membership
from task_queue_engine.cli.time_to_end import TimeToEnd, http_grace
from task_queue_engine.cli.watchdog import Watchdog
from task_queue_engine.config import Settings
from task_queue_engine.engine.engine import Engine
from task_queue_engine.engine.signals import on_signals
from task_queue_engine.execution.environment import withheld
from task_queue_engine.http.listeners import Bound, adopt_listeners, open_listeners
from task_queue_engine.http.open_files import raise_open_files_limit
from task_queue_engine.registry import RunsIn, TaskRegistry

logger = logging.getLogger("task_queue_engine.service")

Listeners = Sequence[trio.SocketListener]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """What a service is made of."""

    registry: TaskRegistry
    settings: Settings
    workers: bool
    http: bool
    """The API, at PORT."""
    monitoring: bool = False
    """Without it: /health, /ready, /metrics and /scale, at TQE_WORKER_PORT."""
    membership: Membership | None = None
    """Of the processes of `--processes N`, where this is one of them."""


# Objects made before the youngest are looked through for garbage in cycles. Python's 700 fit a
# script; a batch of a few hundred tasks is thousands of objects, all of them in use (measured on a
# drain: 9 % of the CPU).
_GARBAGE_EVERY = 10_000


def _let_garbage_gather() -> None:
    """For a process that is this program's own: a library leaves this to its host."""
    gc.freeze()  # modules and what has been set up stay; no look has to pass over them
    gc.set_threshold(_GARBAGE_EVERY, 10, 10)


def run_service(config: ServiceConfig) -> None:
    """Run until a signal ends it. The process has to end after it: the guard sees to that.

    Raises:
        ConfigurationError, BackendRefused, BackendUnavailable: at the start.
        ExceptionGroup: a defect of the engine, after everything was settled that could be.
    """
    settings = config.settings
    raise_open_files_limit()
    time = TimeToEnd.of_watchdog(settings, http=config.http or config.monitoring)
    watchdog = Watchdog(
        timeout=time.timeout, hurried_timeout=time.hurried, end=lambda: os._exit(ExitCode.OVERRUN)
    )
    guard = Guard(
        timeout=time.then().timeout,
        hurried_timeout=time.then().hurried,
        as_json=settings.log_format == "json",
    )
    watchdog.start()
    guard.start()
    service = _Service(config, watchdog, guard)
    try:
        # Only before the service handles signals itself, and after.
        trio.run(service.run, restrict_keyboard_interrupt_to_checkpoints=True)
    finally:
        watchdog.stop()
        guard.hurry()  # to the very end: see leaving.py


class _Service:
    def __init__(self, config: ServiceConfig, watchdog: Watchdog, guard: Guard) -> None:
        self._config = config
        self._settings = config.settings
        self._watchdog = watchdog
        self._guard = guard
        self._member = config.membership
        self._engine = self._make_engine()
        self._starting = trio.CancelScope()
        self._running = False
        self._stop = trio.Event()
        self._http = trio.CancelScope()
        self._http_started = False
        self._http_ended = trio.Event()

    def _make_engine(self) -> Engine:
        config = self._config
        if config.membership is None:
            return Engine(config.registry, config.settings, consume=config.workers)
        return MemberEngine(
            config.registry, config.settings, consume=config.workers, membership=config.membership
        )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(
                    on_signals,
                    self._on_signal,
                    at_once=self._arm,
                    wakeup=self._guard.signals,
                    wakeup_fd=self._guard.wakeup_fd,
                )
            )
            if isinstance(self._engine, MemberEngine):
                await nursery.start(partial(self._engine.listen, self._on_order))
            await self._run_all()
            nursery.cancel_scope.cancel()

    def _arm(self) -> None:
        self._watchdog.arm()
        self._guard.arm()

    def _on_signal(self) -> None:
        if self._stop.is_set() and self._member is None:
            self._hurry()
        else:
            # A service manager signals every process of a group, and the supervisor passes on what
            # came to it: only an order of its own is a second one.
            self._begin_to_stop()

    def _on_order(self, now: bool) -> None:
        self._arm()
        self._begin_to_stop()
        if now:
            self._hurry()

    def _begin_to_stop(self) -> None:
        if not self._running:
            self._starting.cancel()
        elif not self._stop.is_set():
            self._stop.set()
            self._engine.stop_taking_work()
            logger.info(
                "stopping: what is running has %g s to end; a second signal stops at once",
                self._settings.shutdown_grace,
            )

    def _hurry(self) -> None:
        if self._running:
            logger.info("stopping at once")
            self._watchdog.hurry()
            self._guard.hurry()
            self._http.cancel()
            self._engine.request_stop()

    async def _run_all(self) -> None:
        async with trio.open_nursery() as nursery:
            with self._starting:
                await self._start(nursery)
                # A signal that came when the last wait of it was over has cancelled nothing.
                await trio.lowlevel.checkpoint_if_cancelled()
                self._running = True
                _let_garbage_gather()
                if isinstance(self._engine, MemberEngine):
                    await self._engine.tell_ready()
            if not self._running:
                nursery.cancel_scope.cancel()
                return
            await self._stop.wait()
            await self._http_ended.wait()
            # For the second time where a second signal came before: at once, then.
            self._engine.request_stop()
        logger.info("stopped")

    async def _start(self, nursery: trio.Nursery) -> None:
        logger.info("Task Queue Engine %s, Python %s", __version__, platform.python_version())
        if not (self._config.http or self._config.monitoring):
            self._http_ended.set()
            await nursery.start(self._engine.run)
            self._tell_engine()
            return
        # The port first: without it nothing else is touched.
        listeners = (
            await open_listeners(self._settings, only_monitoring=self._config.monitoring)
            if self._member is None
            else adopt_listeners(self._member.listeners)
        )
        try:
            await nursery.start(self._engine.run)
            self._tell_engine()
            bound: Bound = await nursery.start(self._serve, listeners)
        finally:
            if not self._http_started:
                for listener in listeners:
                    listener.socket.close()
        self._tell_http(bound)

    async def _serve(self, listeners: Listeners, *, task_status: trio.TaskStatus[Bound]) -> None:
        # Only here: a worker has no use for a web framework.
        from task_queue_engine.http.app import create_app
        from task_queue_engine.http.server import serve_http

        app = create_app(self._engine, self._settings, only_monitoring=self._config.monitoring)
        self._http_started = True
        try:
            with self._http:
                await serve_http(
                    self._engine,
                    self._settings,
                    app=app,
                    shutdown=self._stop,
                    listeners=listeners,
                    grace=http_grace(self._settings),
                    task_status=task_status,
                )
        finally:
            self._http_ended.set()

    # --- for the log ------------------------------------------------------------------------

    def _tell_engine(self) -> None:
        info = self._engine.backend_info
        logger.info("backend %s: %s; queue %s", info.name, info.detail, self._settings.queue)
        if self._config.workers:
            if any(task.runs_in is RunsIn.PROCESS for task in self._config.registry):
                logger.debug(
                    "variables that worker processes do not get, and TQE_PROCESS_ENV lets pass: %s",
                    ", ".join(withheld(self._settings.process_env)),
                )
            logger.info(
                "%d workers for %s",
                self._settings.worker_count,
                ", ".join(self._config.registry.names),
            )
        else:
            logger.info("no workers in this process: `tqe worker` runs them")
        logger.info("how to stop: SIGTERM or Ctrl-C; what else there is: tqe --help")

    def _tell_http(self, bound: Bound) -> None:
        if self._config.monitoring:
            logger.info("/health, /ready, /metrics and /scale are at %s", bound.url)
            return
        if not self._settings.asks_for_keys:
            logger.info("no API keys are set: all that can connect may submit and cancel tasks")
        logger.info(
            "listening on %s, for browsers too; documentation at %s/docs", bound.url, bound.url
        )

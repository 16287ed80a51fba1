"""The engine as an object: its life in any trio nursery, and how it is. What it does on request is
`commands.py`, how it ends is `shutdown.py`."""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import trio

from task_queue_engine.actors.health import ActorHealth
from task_queue_engine.actors.messages import Outcome
from task_queue_engine.backends.base import Backend, MeteredBackend, NotifyingBackend
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.config import Settings
from task_queue_engine.engine.api import Readiness
from task_queue_engine.engine.backend_factory import create_backend
from task_queue_engine.engine.commands import Commands, Running
from task_queue_engine.engine.counters import counters_of
from task_queue_engine.engine.hooks import Hooks
from task_queue_engine.engine.identity import describe, new_worker_id
from task_queue_engine.engine.instruments import Instruments
from task_queue_engine.engine.intake import Intake
from task_queue_engine.engine.loggers import protect_loggers
from task_queue_engine.engine.longest_attempt import check_timeouts, longest_timeout
from task_queue_engine.engine.metrics import EngineMetrics, Scale, Slots, scale
from task_queue_engine.engine.pipeline import Pipeline, PipelineConfig
from task_queue_engine.engine.probing import ANSWER_WITHIN, BackendProbe
from task_queue_engine.engine.shutdown import Shutdown
from task_queue_engine.engine.submission import TaskBuilder
from task_queue_engine.engine.supervisor import Supervisor
from task_queue_engine.engine.watched_tasks import WatchedTasks
from task_queue_engine.errors import (
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    TooManyAbandonedThreads,
)
from task_queue_engine.events import Hook
from task_queue_engine.execution.attempt_logs import keeping_lines
from task_queue_engine.execution.locating import locate
from task_queue_engine.execution.processes import Recycling
from task_queue_engine.execution.runner import HandlerRunner
from task_queue_engine.measures import Sample
from task_queue_engine.registry import RunsIn, TaskRegistry
from task_queue_engine.task import TaskStatus
from task_queue_engine.tracing import Tracing, find_tracing
from task_queue_engine.worker import no_worker_knows

# Seconds for which /ready believes what it has read of the workers: they say it every 15 s.
_WORKERS_GOOD_FOR = 10.0


class Engine(Commands):
    """A task queue engine.

    >>> async with trio.open_nursery() as nursery:
    ...     engine = await nursery.start(Engine(tasks, Settings()).run)
    ...     handle = await engine.submit(send_email, {"to": "user@example.com"})
    ...     receipt = await handle.result(timeout=10)
    ...     await engine.stop()

    Args:
        tasks: the task types it accepts and runs.
        settings: None: read from the environment.
        backend: None: the one the settings ask for.
        clock: time of day; for tests.
        consume: False: takes submissions and answers questions, runs no tasks.
        housekeeping: False: leaves due and stranded tasks to other engines; for short visits.
        hooks: called with what happens, see `task_queue_engine.events`.

    The methods that ask or change something raise EngineNotRunning outside `run`, and
    BackendUnavailable while the backend is in trouble.

    Raises:
        ConfigurationError: a setting that cannot work, naming its variable.
    """

    def __init__(
        self,
        tasks: TaskRegistry,
        settings: Settings | None = None,
        *,
        backend: Backend | None = None,
        clock: Clock | None = None,
        consume: bool = True,
        housekeeping: bool = True,
        hooks: Iterable[Hook] = (),
    ) -> None:
        settings = settings if settings is not None else Settings()
        clock = clock if clock is not None else SystemClock()
        if backend is None:
            backend = create_backend(settings, clock, runs_tasks=consume)
        _refuse_processes_that_share_nothing(settings, backend)
        super().__init__(registry=tasks, settings=settings, backend=backend, clock=clock)
        self._consume = consume
        self._housekeeping = housekeeping
        self._hooks = Hooks(hooks)
        self._health = ActorHealth()
        self._longest_timeout = longest_timeout(
            self._queue.capabilities.max_hold, settings.visibility_timeout
        )
        self._probe = BackendProbe(backend.ping)
        self._worker_name = new_worker_id()
        self._instruments: Instruments
        """Of the run that is under way, or the last."""
        self._shutdown: Shutdown | None = None
        self._stopped = trio.Event()

    # --- life -------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[Engine] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`, or until the surrounding scope is cancelled; both drain: running
        handlers get `shutdown_grace` seconds, then `shutdown_flush` seconds bound the rest.

        `task_status.started` gives the running engine: `await nursery.start(engine.run)`.

        Raises:
            RegistryError: a worker process could not find the handler of a `process=True` type, or
                a type's timeout is longer than the queue can keep a lease.
            ConfigurationError: the default timeout is.
            BackendRefused, BackendUnavailable: at the start, before anything runs.
            ExceptionGroup: defects of actors, after everything was settled that could be.
        """
        if self._shutdown is not None:
            raise RuntimeError("this engine is already running")
        protect_loggers()
        if self._consume:
            for definition in self._registry:
                if definition.runs_in is RunsIn.PROCESS:
                    locate(definition.handler)
        check_timeouts(self._registry, self._settings, self._longest_timeout)
        self._shutdown = shutdown = Shutdown(
            grace=self._settings.shutdown_grace, flush=self._settings.shutdown_flush
        )
        self._stopped = trio.Event()
        # Troubles of an earlier run are over, or will show again.
        self._health = ActorHealth()
        self._probe = BackendProbe(self._backend.ping)
        self._instruments = Instruments(
            registry=self._registry, settings=self._settings, clock=self._clock
        )
        keeps_lines = self._consume and self._settings.task_log_lines > 0
        try:
            async with self._backend.open():
                with keeping_lines() if keeps_lines else nullcontext():
                    await shutdown.instead_of_cancellation(
                        partial(self._run_pipeline, shutdown, task_status)
                    )
        finally:
            self._shutdown = None
            self._stopped.set()

    async def _run_pipeline(self, shutdown: Shutdown, task_status: trio.TaskStatus[Engine]) -> None:
        runner = HandlerRunner(
            threads=self._settings.threads,
            processes=self._settings.processes,
            max_result_bytes=self._settings.max_result_bytes,
            overlap_wait=self._settings.overlap_wait,
            more_environment=self._settings.process_env,
            recycling=Recycling(
                max_tasks=self._settings.max_tasks_per_process,
                max_mib=self._settings.max_process_mib,
            ),
        )
        async with runner.open(), trio.open_nursery() as nursery:
            tracing = find_tracing()
            pipeline = Pipeline(self._pipeline_config(runner, tracing))
            intake, own_intake = (
                Intake(
                    builder=TaskBuilder(
                        registry=types,
                        settings=self._settings,
                        clock=self._clock,
                        max_delay=self._queue.max_delay,
                        longest_timeout=self._longest_timeout,
                    ),
                    checks=runner.checks,
                    submissions=pipeline.submissions,
                    request_size=self._backend.store.max_batch,
                )
                for types in (self._tasks, self._own_types)
            )
            self._running = Running(
                pipeline=pipeline,
                intake=intake,
                own_intake=own_intake,
                started_at=trio.current_time(),
                handlers=runner.statistics,
                tracing=tracing,
            )
            try:
                supervisor = Supervisor(
                    health=self._health, end=shutdown.begin, end_at_once=shutdown.hurry
                )
                nursery.start_soon(_watch_threads, runner, supervisor)
                nursery.start_soon(self._instruments.loop_lag.run)
                await nursery.start(pipeline.run, supervisor)
                nursery.start_soon(self._waiters.look_for_all)
                nursery.start_soon(supervisor.restartable, "events", self._run_live_events)
                task_status.started(self)
                await shutdown.carry_out(pipeline)
                nursery.cancel_scope.cancel()  # what only looks on: all else has ended
            finally:
                intake.close()
                own_intake.close()
                self._waiters.wake_all()
                self._live.close()
                self._running = None

    async def _run_live_events(self) -> None:
        await self._live.run(WatchedTasks(self._live, self._waiters, self.workers).run)

    def _pipeline_config(self, runner: HandlerRunner, tracing: Tracing | None) -> PipelineConfig:
        return PipelineConfig(
            registry=self._registry,
            settings=self._settings,
            backend=self._backend,
            clock=self._clock,
            runner=runner,
            health=self._health,
            instruments=self._instruments,
            worker_name=self._worker_name,
            identity=describe(
                self._worker_name,
                registry=self._registry,
                settings=self._settings,
                clock=self._clock,
                runs_tasks=self._consume,
            ),
            consume=self._consume,
            housekeeping=self._housekeeping,
            on_start=self._hooks.started if self._hooks else None,
            on_recorded=self._note_recorded,
            tracing=tracing,
            feed=self._live,
            rng=random.Random(),  # noqa: S311 - jitter, not secrets
        )

    def _note_recorded(self, outcome: Outcome, status: TaskStatus | None) -> None:
        self._instruments.tasks.recorded(outcome, status)
        if status is None:
            return
        if self._live.is_wanted:
            self._live.recorded(outcome, status)
        if status.is_terminal:
            self._waiters.ended(outcome.attempt.task.id)
        self._hooks.recorded(outcome, status)

    async def stop(self) -> None:
        """Drain, and return when all is settled or the hard deadline is over; at once where the
        engine does not run. Called again while it drains: skip the rest of the grace."""
        if self._shutdown is None:
            await trio.lowlevel.checkpoint()
            return
        self.request_stop()
        await self._stopped.wait()

    def request_stop(self) -> None:
        """What `stop` does, without waiting."""
        if self._shutdown is not None:
            self._shutdown.request()

    def stop_taking_work(self) -> None:
        """Receive nothing more and give back what has not started, but go on taking submissions:
        the first step of a shutdown whose front end still has requests to answer."""
        if self._shutdown is not None:
            self._shutdown.stop_taking_work()

    # --- how it is --------------------------------------------------------------------------

    async def metrics(self) -> EngineMetrics:
        running = self._check_running()
        with trio.move_on_after(ANSWER_WITHIN), suppress(BackendUnavailable):
            await running.pipeline.metrics.sample()
        return self.latest_metrics()

    def latest_metrics(self) -> EngineMetrics:
        """The same without asking the backend: `counts` and `depth` are those of the last look.

        Raises:
            EngineNotRunning
        """
        running = self._check_running()
        line, sample = running.pipeline.line, running.pipeline.metrics.statistics()
        return EngineMetrics(
            counts=sample.counts,
            depth=sample.depth,
            queue=self._settings.queue,
            workers=len(line.workers) if line else 0,
            active_workers=line.busy_workers if line else 0,
            all_busy_for=line.claimer.statistics().all_busy_for if line else 0.0,
            counters=counters_of(running.pipeline),
            given_back_by_type=line.claimer.statistics().given_back_by_type if line else {},
            abandoned_threads=running.handlers().abandoned_threads,
            uptime=trio.current_time() - running.started_at,
            usage=self._backend.usage() if isinstance(self._backend, MeteredBackend) else None,
            slots=self._slots(running),
            labelled_counters=self._instruments.counts(),
            histograms=self._instruments.distributions(),
        )

    def _slots(self, running: Running) -> tuple[Slots, ...]:
        line, handlers = running.pipeline.line, running.handlers()
        if line is None:
            return ()
        threads, processes = self._settings.threads, self._settings.processes
        return (
            Slots(kind="worker", busy=line.busy_workers, total=len(line.workers)),
            Slots(kind="thread", busy=handlers.in_threads, total=threads),
            Slots(kind="process", busy=handlers.in_processes, total=processes),
        )

    async def scale(self) -> Scale:
        sample = await self._check_running().pipeline.metrics.fresh()
        settings = self._settings
        return scale(settings.queue, sample.depth, sample.rates, worker_count=settings.worker_count)

    def samples(self) -> tuple[Sample, ...]:
        return self._check_running().pipeline.metrics.recent()

    async def ready(self) -> Readiness:
        trouble = await self._probe.trouble() if self._running is not None else None
        running = self._running
        if running is None or self._shutdown is None:
            return Readiness(ready=False, reasons=("the engine is not running",))
        reasons = list(self._health.troubles)
        handlers = running.handlers()
        if handlers.trouble is not None:
            reasons.append(f"workers: {handlers.trouble}")
        if self._shutdown.requested:
            reasons.append(f"the engine is {self._shutdown.phase.value}")
        if trouble is not None:
            reasons.append(trouble)
        line = running.pipeline.line
        workers = () if line or reasons else await self._worker_notes()
        return Readiness(
            ready=not reasons,
            reasons=tuple(reasons),
            notes=(*(line.claimer.notes() if line else ()), *self._backend_notes(), *workers),
            abandoned_threads=handlers.abandoned_threads,
        )

    def _backend_notes(self) -> tuple[str, ...]:
        return self._backend.notes() if isinstance(self._backend, NotifyingBackend) else ()

    async def _worker_notes(self) -> tuple[str, ...]:
        """Which of the types that may be submitted here nothing runs."""
        with trio.move_on_after(ANSWER_WITHIN), suppress(BackendError):
            found = await self._workers.get(good_for=_WORKERS_GOOD_FOR)
            return no_worker_knows(found, self._registry.names)
        return ()

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Every actor's own counters, by actor."""
        pipeline = self._check_running().pipeline
        return {name: asdict(numbers) for name, numbers in pipeline.statistics().items()}


def _refuse_processes_that_share_nothing(settings: Settings, backend: Backend) -> None:
    if settings.service_processes != 1 and backend.info.name == "memory":
        raise ConfigurationError(
            "must be 1 with the memory backend, which is of one process: others would share "
            "nothing with it",
            variable="TQE_SERVICE_PROCESSES",
        )


async def _watch_threads(runner: HandlerRunner, supervisor: Supervisor) -> None:
    await runner.wait_worn_out()
    supervisor.give_up("workers", TooManyAbandonedThreads(runner.statistics().abandoned_threads))

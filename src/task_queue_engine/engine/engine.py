"""The engine as an object: run it in any trio nursery, submit to it, ask it, stop it."""

from __future__ import annotations

import os
import random
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar, overload

import trio

from task_queue_engine.actors.health import Health
from task_queue_engine.actors.messages import (
    Attempt,
    CancelAsked,
    Errored,
    Interrupted,
    Outcome,
    Stopped,
    Succeeded,
)
from task_queue_engine.backends.base import (
    Backend,
    BackendInfo,
    DeadLetterPage,
    Done,
    ListQuery,
    Message,
    MeteredBackend,
    TaskPage,
    TryAgain,
)
from task_queue_engine.clock import Clock, SystemClock
from task_queue_engine.codec import is_unicode
from task_queue_engine.config import Settings
from task_queue_engine.engine import dead_letters
from task_queue_engine.engine.api import (
    Accepted,
    EngineMetrics,
    Readiness,
    RedriveReport,
    Refused,
    Submission,
    SubmitVerdict,
)
from task_queue_engine.engine.backend_factory import create_backend
from task_queue_engine.engine.counters import counters_of
from task_queue_engine.engine.handle import TaskHandle
from task_queue_engine.engine.hooks import Hooks
from task_queue_engine.engine.intake import Intake
from task_queue_engine.engine.pipeline import Parts, Pipeline
from task_queue_engine.engine.shutdown import Shutdown
from task_queue_engine.engine.submission import TaskBuilder
from task_queue_engine.engine.waiting import Waiters
from task_queue_engine.errors import (
    BackendError,
    BackendUnavailable,
    EngineNotRunning,
    InvalidQuery,
    TaskNotFound,
    WrongState,
)
from task_queue_engine.events import AttemptRecorded, AttemptStarted, Hook
from task_queue_engine.execution.locating import locate
from task_queue_engine.execution.runner import HandlerRunner
from task_queue_engine.lifecycle import (
    AlreadyFinished,
    CancelledNow,
    CancelRequested,
    Missing,
    NotReopened,
    Reopened,
)
from task_queue_engine.registry import RunsIn, TaskRegistry
from task_queue_engine.retry import GiveUp, RetryAt, Seconds, to_seconds
from task_queue_engine.task import Task, TaskStatus

R = TypeVar("R")

_UNCANCELLABLE_FOR = 10.0
"""Seconds."""


class Engine:
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
        self._registry = tasks
        self._settings = settings if settings is not None else Settings()
        self._clock = clock if clock is not None else SystemClock()
        self._backend = (
            backend
            if backend is not None
            else create_backend(self._settings, self._clock, runs_tasks=consume)
        )
        self._consume = consume
        self._housekeeping = housekeeping
        self._hooks = Hooks(hooks)
        self._health = Health()
        self._waiters = Waiters()
        self._worker_name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._queue = self._backend.queue(self._settings.queue)
        self._pipeline: Pipeline | None = None
        self._intake: Intake | None = None
        self._runner: HandlerRunner | None = None
        self._shutdown: Shutdown | None = None
        self._stopped = trio.Event()
        self._started_at = 0.0

    # --- life -------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[Engine] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`, or until the surrounding scope is cancelled; both drain: running
        handlers get `shutdown_grace` seconds, then `shutdown_flush` seconds bound the rest.

        `task_status.started` gives the running engine: `await nursery.start(engine.run)`.

        Raises:
            RegistryError: a worker process could not find the handler of a `process=True` type.
            BackendRefused, BackendUnavailable: at the start, before anything runs.
            ExceptionGroup: defects of actors, after everything was settled that could be.
        """
        if self._shutdown is not None:
            raise RuntimeError("this engine is already running")
        if self._consume:
            for definition in self._registry:
                if definition.runs_in is RunsIn.PROCESS:
                    locate(definition.handler)
        self._shutdown = shutdown = Shutdown(
            grace=self._settings.shutdown_grace, flush=self._settings.shutdown_flush
        )
        self._stopped = trio.Event()
        # Troubles of an earlier run are over, or will show again.
        self._health = Health()
        try:
            async with self._backend.open(), trio.open_nursery() as host:
                host.start_soon(self._run_shielded, shutdown, host.cancel_scope, task_status)
                try:
                    await trio.sleep_forever()
                finally:
                    # Cancelled by the host, or the engine is done and this no longer matters.
                    if not shutdown.requested:
                        shutdown.request()
        finally:
            self._shutdown = None
            self._stopped.set()

    async def _run_shielded(
        self,
        shutdown: Shutdown,
        host: trio.CancelScope,
        task_status: trio.TaskStatus[Engine],
    ) -> None:
        """The host's cancellation must not tear the line apart in the middle: it reaches the line
        as a shutdown request, from the top. The deadlines of the shutdown bound it."""
        with trio.CancelScope(shield=True):
            runner = HandlerRunner(
                threads=self._settings.threads,
                processes=self._settings.processes,
                max_result_bytes=self._settings.max_result_bytes,
            )
            async with runner.open(), trio.open_nursery() as nursery:
                pipeline = Pipeline(self._parts(shutdown, runner))
                self._intake = Intake(
                    builder=TaskBuilder(
                        registry=self._registry,
                        settings=self._settings,
                        clock=self._clock,
                        max_delay=self._queue.max_delay,
                    ),
                    submissions=pipeline.submissions,
                    request_size=self._backend.store.max_batch,
                )
                self._pipeline, self._runner = pipeline, runner
                self._started_at = trio.current_time()
                try:
                    await nursery.start(pipeline.run)
                    task_status.started(self)
                    await pipeline.finished.wait()
                finally:
                    self._intake.close()
                    self._waiters.wake_all()
                    self._pipeline = self._intake = self._runner = None
        host.cancel()

    def _parts(self, shutdown: Shutdown, runner: HandlerRunner) -> Parts:
        return Parts(
            registry=self._registry,
            settings=self._settings,
            backend=self._backend,
            clock=self._clock,
            runner=runner,
            health=self._health,
            shutdown=shutdown,
            worker_name=self._worker_name,
            consume=self._consume,
            housekeeping=self._housekeeping,
            on_start=self._publish_start if self._hooks else None,
            on_recorded=self._note_recorded,
            rng=random.Random(),  # noqa: S311 - jitter, not secrets
        )

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
        if self._pipeline is not None and self._pipeline.poller is not None:
            self._pipeline.poller.stop()

    # --- submitting -------------------------------------------------------------------------

    @overload
    async def submit(
        self,
        task: Callable[..., Awaitable[R]],
        payload: Any = ...,
        *,
        delay: Seconds | None = ...,
        run_at: datetime | None = ...,
        max_attempts: int | None = ...,
        timeout: Seconds | None = ...,
        idempotency_key: str | None = ...,
    ) -> TaskHandle[R]: ...

    @overload
    async def submit(
        self,
        task: Callable[..., R] | str,
        payload: Any = ...,
        *,
        delay: Seconds | None = ...,
        run_at: datetime | None = ...,
        max_attempts: int | None = ...,
        timeout: Seconds | None = ...,
        idempotency_key: str | None = ...,
    ) -> TaskHandle[R]: ...

    async def submit(
        self,
        task: Callable[..., Any] | str,
        payload: Any = None,
        *,
        delay: Seconds | None = None,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        timeout: Seconds | None = None,
        idempotency_key: str | None = None,
    ) -> TaskHandle[Any]:
        """Store and send a task; it will run even if this program dies now.

        Args:
            task: a registered function, or its type's name.
            payload: what the handler gets: JSON, or an instance of its annotation.
            delay, run_at: not before; in seconds from now, or at an aware datetime.
            max_attempts, timeout: instead of the type's own; timeout in seconds.
            idempotency_key: submitting again with the same key gives the same task.

        Raises:
            InvalidTask: naming the field.
            IdempotencyKeyReused, IdempotencyKeyInFlight.
        """
        submission = Submission(
            task=task,
            payload=payload,
            delay=delay,
            run_at=run_at,
            max_attempts=max_attempts,
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return self._handle(await self.submit_task(submission))

    async def submit_task(self, submission: Submission) -> Accepted:
        """`submit` with its arguments as a value; see EngineApi."""
        (verdict,) = await self.submit_many([submission])
        if isinstance(verdict, Refused):
            raise verdict.error
        return verdict

    async def submit_many(self, submissions: Sequence[Submission]) -> list[SubmitVerdict]:
        """Many at once: one verdict each, in their order."""
        if self._intake is None:
            raise EngineNotRunning
        return await self._intake.submit(submissions)

    def _handle(self, accepted: Accepted) -> TaskHandle[Any]:
        definition = self._registry.get(accepted.task.type)
        return TaskHandle(
            engine=self,
            task=accepted.task,
            created=accepted.created,
            convert_result=definition.convert_result,
        )

    # --- asking -----------------------------------------------------------------------------

    @property
    def registry(self) -> TaskRegistry:
        return self._registry

    @property
    def backend_info(self) -> BackendInfo:
        return self._backend.info

    async def get(self, task_id: str) -> Task:
        """Raises TaskNotFound."""
        self._check_running()
        _check_id(task_id)
        (task,) = await self._backend.store.get([task_id])
        if task is None:
            raise TaskNotFound(task_id)
        return task

    async def wait(self, task_id: str, *, timeout: Seconds) -> Task:
        """The task once it is terminal, or as it is when `timeout` seconds are over.
        Raises TaskNotFound."""
        return await self._waiters.wait(
            task_id,
            look=lambda: self.get(task_id),
            timeout=to_seconds(timeout, name="timeout"),
        )

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        """Raises InvalidQuery."""
        self._check_running()
        if query.type is not None and not is_unicode(query.type):
            raise InvalidQuery("contains a lone surrogate, which is not Unicode text", field="type")
        return await self._backend.store.list_tasks(query)

    # --- changing ---------------------------------------------------------------------------

    async def cancel(self, task_id: str) -> Task:
        """A task still queued never starts; a running one is stopped wherever it runs, and is
        CANCELLED when its cleanup is done.

        Raises:
            TaskNotFound, WrongState (already terminal).
        """
        self._check_running()
        _check_id(task_id)
        (verdict,) = await self._backend.store.cancel([task_id])
        match verdict:
            case CancelledNow(task):
                self._waiters.ended(task_id)
            case CancelRequested(task):
                if self._pipeline is not None:
                    self._pipeline.tell_lease_keeper(CancelAsked(task_id))
            case AlreadyFinished(task):
                raise WrongState(task_id, task.status, "it can no longer be cancelled")
            case Missing():
                raise TaskNotFound(task_id)
        return task

    async def retry(self, task_id: str) -> Task:
        """Run a FAILED or CANCELLED task again, as a new round.

        Raises:
            TaskNotFound, WrongState.
        """
        self._check_running()
        _check_id(task_id)
        # A caller that goes away between the two steps must not leave a task that nobody sends.
        with trio.CancelScope(shield=True), _bounded("retrying a task"):
            (verdict,) = await self._backend.store.reopen([task_id])
            if isinstance(verdict, Reopened):
                await self._send_reopened(verdict.task)
        match verdict:
            case Reopened(task):
                return task
            case NotReopened(task):
                raise WrongState(
                    task_id, task.status, "only FAILED and CANCELLED tasks can be retried"
                )
            case Missing():
                raise TaskNotFound(task_id)

    async def _send_reopened(self, task: Task) -> None:
        try:
            (sent,) = await self._backend.queue(task.queue).send([Message(task=task)])
        except BackendUnavailable:
            sent = TryAgain("the queue is down")
        if not isinstance(sent, Done):
            # The row is PENDING: the scheduler sends it when the queue is back.
            await self._backend.store.schedule([(task.id, self._clock.now())])

    # --- dead letters -----------------------------------------------------------------------

    async def list_dead(self, *, limit: int = 50, cursor: str | None = None) -> DeadLetterPage:
        """Raises InvalidQuery."""
        self._check_running()
        return await self._queue.dead_letters.page(limit=limit, cursor=cursor)

    async def redrive(self, ids: Sequence[str] | None = None) -> RedriveReport:
        """Dead letters (by id; None: all) back to work, as new rounds of their tasks."""
        self._check_running()
        return await dead_letters.redrive(self._backend, self._settings.queue, ids)

    async def purge_dead(self) -> int:
        """Delete all dead letters, not their tasks; returns how many."""
        self._check_running()
        return await self._queue.dead_letters.purge()

    # --- looking ----------------------------------------------------------------------------

    async def metrics(self) -> EngineMetrics:
        """Fresh where the backend answers within 2 s, else as last sampled."""
        pipeline = self._check_running()
        sample = pipeline.metrics.statistics()
        with trio.move_on_after(2), suppress(BackendUnavailable):
            sample = await pipeline.metrics.sample()
        return EngineMetrics(
            counts=sample.counts,
            depth=sample.depth,
            workers=len(pipeline.workers),
            active_workers=sum(worker.statistics().busy for worker in pipeline.workers),
            counters=counters_of(pipeline),
            uptime=trio.current_time() - self._started_at,
            usage=self._backend.usage() if isinstance(self._backend, MeteredBackend) else None,
        )

    async def ready(self) -> Readiness:
        """Fit to serve, or the reasons why not."""
        if self._pipeline is None or self._shutdown is None:
            return Readiness(ready=False, reasons=("the engine is not running",))
        reasons = list(self._health.troubles)
        if self._shutdown.requested:
            reasons.append(f"the engine is {self._shutdown.phase.value}")
        try:
            with trio.fail_after(2):
                await self._backend.ping()
        except BackendError as error:
            reasons.append(f"backend: {error}")
        except trio.TooSlowError:
            reasons.append("backend: no answer within 2 s")
        return Readiness(ready=not reasons, reasons=tuple(reasons))

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Every actor's own counters, by actor."""
        pipeline = self._check_running()
        return {name: asdict(numbers) for name, numbers in pipeline.statistics().items()}

    # --- inside -----------------------------------------------------------------------------

    def _check_running(self) -> Pipeline:
        if self._pipeline is None:
            raise EngineNotRunning
        return self._pipeline

    def _publish_start(self, attempt: Attempt) -> None:
        self._hooks.publish(AttemptStarted(attempt.task))

    def _note_recorded(self, outcome: Outcome, status: TaskStatus) -> None:
        task = outcome.attempt.task
        if status.is_terminal:
            self._waiters.ended(task.id)
        if self._hooks and status is not TaskStatus.PROCESSING:
            self._hooks.publish(AttemptRecorded(task, status, _in_one_word(outcome)))


def _check_id(task_id: str) -> None:
    """What no backend could even be asked for is not there."""
    if not is_unicode(task_id):
        raise TaskNotFound(task_id)


@contextmanager
def _bounded(what: str) -> Iterator[None]:
    """For what cannot be cancelled."""
    try:
        with trio.fail_after(_UNCANCELLABLE_FOR):
            yield
    except trio.TooSlowError:
        raise BackendUnavailable(
            f"{what} took more than {_UNCANCELLABLE_FOR:g} s; look at what came of it"
        ) from None


def _in_one_word(outcome: Outcome) -> str:
    match outcome:
        case Succeeded():
            return "succeeded"
        case Errored(_, _, RetryAt()):
            return "retried"
        case Errored(_, _, GiveUp()):
            return "failed"
        case Errored():
            return "snoozed"
        case Interrupted():
            return "interrupted"
        case Stopped():
            return "cancelled"
        case _:
            return "lost"

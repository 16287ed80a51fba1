"""What a task queue offers, declared once: `TaskApi` is what an engine in this process and a client
of a server have in common, `EngineApi` adds what only the process that runs the engine can say. The
HTTP front end and the command line are written against these, not against the engine's insides.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypedDict, TypeVar, Unpack, cast, overload

import msgspec

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import BackendInfo, DeadLetterPage, ListQuery, TaskPage
from task_queue_engine.engine.action_api import ActionApi
from task_queue_engine.engine.events_api import EngineEventsApi, EventsApi
from task_queue_engine.engine.metrics import EngineMetrics, Scale
from task_queue_engine.errors import (
    InvalidTask,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    TaskQueueError,
)
from task_queue_engine.limits import DEFAULT_PAGE
from task_queue_engine.measures import Sample
from task_queue_engine.payloads import Converter
from task_queue_engine.registry import Handler, TaskRegistry
from task_queue_engine.retry import Seconds, to_seconds
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_events import EventStream
from task_queue_engine.trace_context import TraceContext
from task_queue_engine.worker import WorkerList

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


# Structs, like `Task`, since one is made of every submission.
class _What(msgspec.Struct, frozen=True):
    """What may be given without its keyword, as to `Engine.submit`."""

    task: str | Handler
    payload: Any = None


class Submission(_What, frozen=True, kw_only=True):
    """One task to be submitted; the arguments of `Engine.submit` as a value, for `submit_many`."""

    delay: Seconds | None = None
    run_at: datetime | None = None
    max_attempts: int | None = None
    timeout: Seconds | None = None
    idempotency_key: str | None = None
    trace_context: TraceContext | None = None
    """What it is submitted in, where that is not the active span: for front ends, which are told by
    a header. A client of a server sends it with single submissions."""


class SubmitOptions(TypedDict, total=False):
    """The keywords of `submit`, for its overloads."""

    delay: Seconds | None
    run_at: datetime | None
    max_attempts: int | None
    timeout: Seconds | None
    idempotency_key: str | None


class Accepted(msgspec.Struct, frozen=True):
    """The task is stored and will run. `created` is False where its idempotency key had been used
    for the same submission before: `task` is then the one of that time."""

    task: Task
    created: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was stored; `error` says why (InvalidTask, IdempotencyKeyReused, ...)."""

    error: TaskQueueError


SubmitVerdict = Accepted | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveReport:
    """What redriving did, in dead letters."""

    redriven: int = 0
    skipped: int = 0
    """Nothing was left to do: their tasks are gone, running or done and the dead letters were
    removed, or another redrive was faster."""
    refused: int = 0
    """The queue refuses their messages for good: their tasks are FAILED with that reason, and the
    dead letters stay."""
    not_found: int = 0
    """No dead letters have these ids."""
    remaining: int = 0
    """Left for another call, where this one was bounded (an HTTP request is)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Fit to serve? `reasons` is empty when ready."""

    ready: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What an operator should know and a load balancer should not act on."""
    abandoned_threads: int = 0
    """Threads whose `def` handler outlived its attempt; as many as TQE_THREADS end the engine."""


class TaskApi(ActionApi, EventsApi):
    """The methods that `Engine` and `AsyncClient` share; `Client` has them without `await`.

    All of them raise BackendUnavailable while the backend, or the server, is in trouble; those of
    an engine raise EngineNotRunning outside `Engine.run`.
    """

    # --- submitting -------------------------------------------------------------------------

    # A function's handle knows the type of its result.
    @overload
    async def submit(
        self,
        task: Callable[..., Awaitable[R]],
        payload: Any = ...,
        **options: Unpack[SubmitOptions],
    ) -> TaskHandle[R]: ...

    @overload
    async def submit(
        self, task: Callable[..., R], payload: Any = ..., **options: Unpack[SubmitOptions]
    ) -> TaskHandle[R]: ...

    @overload
    async def submit(
        self, task: str, payload: Any = ..., **options: Unpack[SubmitOptions]
    ) -> TaskHandle[Any]: ...

    async def submit(
        self,
        task: str | Handler,
        payload: Any = None,
        *,
        delay: Seconds | None = None,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        timeout: Seconds | None = None,
        idempotency_key: str | None = None,
    ) -> TaskHandle[Any]:
        """Store and send a task; once this returns it will run, even if this program dies now.

        Args:
            task: the name of its type, or the registered function.
            payload: what the handler gets: JSON, or an instance of its annotation (a dataclass, a
                Struct, a pydantic model, an attrs class). It is stored as JSON that anyone who may
                look the task up can read, a SecretStr with its real value.
            delay, run_at: not before; in seconds from now, or at an aware datetime.
            max_attempts, timeout: instead of the type's own; timeout in seconds.
            idempotency_key: submitting again with the same key gives the same task, for as long as
                that is kept (`TQE_RETENTION`). Keys are one namespace for all queues and types of a
                store: put your own prefix in front. The same type, payload, queue and, where they
                are given, max_attempts and timeout are asked for; when it is to run may differ, the
                first time stands.

        Raises:
            InvalidTask: naming the field (UnknownTaskType, PayloadTooLarge among them).
            IdempotencyKeyReused, IdempotencyKeyInFlight.
        """
        accepted = await self.submit_task(
            Submission(
                task=task,
                payload=payload,
                delay=delay,
                run_at=run_at,
                max_attempts=max_attempts,
                timeout=timeout,
                idempotency_key=idempotency_key,
            )
        )
        return TaskHandle(engine=self, task=accepted.task, created=accepted.created)

    @abstractmethod
    async def submit_task(self, submission: Submission) -> Accepted:
        """`submit` with its arguments as a value.

        Once taken over by the engine a submission is carried out even when the caller is
        cancelled.
        """

    @abstractmethod
    async def submit_many(self, submissions: Sequence[Submission]) -> list[SubmitVerdict]:
        """Many at once: one verdict each, in their order. One bad submission does not fail the
        others."""

    # --- asking -----------------------------------------------------------------------------

    @abstractmethod
    async def get(self, task_id: str) -> Task:
        """Raises TaskNotFound."""

    @abstractmethod
    async def history(self, task_id: str) -> AttemptHistory:
        """The task's attempts, oldest first. Raises TaskNotFound."""

    @abstractmethod
    async def wait(self, task_id: str, *, timeout: Seconds) -> Task:
        """The task as soon as it is terminal, or as it is when `timeout` seconds are over.

        Trouble in between is waited out: BackendUnavailable is raised where it is there at the
        first look already, or still at the last. Raises TaskNotFound.
        """

    async def result(self, task_id: str, *, timeout: Seconds | None = None) -> Any:
        """Wait for the end and return what the handler returned: as the type it is annotated with
        where that is known here, else as JSON.

        A backend or server that is in trouble or away is waited for, and asked again with growing
        pauses; the log says so.

        Args:
            timeout: seconds to wait at most; None: as long as it takes.

        Raises:
            TaskFailed, TaskCancelled: how else it ended.
            TaskNotFound.
            ResultTimeout: it has not ended yet; the task goes on.
            BackendUnavailable: after `timeout` seconds it cannot be asked whether it has ended.
        """
        seconds = math.inf if timeout is None else to_seconds(timeout, name="timeout")
        task = await self._wait_for_end(task_id, timeout=seconds)
        return result_of(task, seconds, self._result_converter(task.type))

    @abstractmethod
    async def _wait_for_end(self, task_id: str, *, timeout: float) -> Task:
        """As `wait`, with trouble at the first look waited out too; `timeout` may be infinite."""

    @abstractmethod
    def _result_converter(self, task_type: str) -> Converter | None:
        """How a stored result becomes what the handler returned; None where the type is not known
        here: it stays JSON."""

    @abstractmethod
    async def list_tasks(self, query: ListQuery) -> TaskPage:
        """A page of tasks, newest first; short or empty with a `next_cursor` where few of those
        looked at pass the filter. Raises InvalidQuery, naming the member."""

    # --- changing ---------------------------------------------------------------------------

    @abstractmethod
    async def cancel(self, task_id: str) -> Task:
        """CANCELLED at once where the task had not started; else `cancel_requested` is set, the
        attempt is stopped wherever it runs, and the task is CANCELLED when its cleanup is done.

        Raises:
            TaskNotFound, WrongState (it is already terminal).
        """

    @abstractmethod
    async def retry(self, task_id: str) -> Task:
        """Run a FAILED or CANCELLED task again, as a new round.

        Raises:
            TaskNotFound, WrongState.
        """

    # --- dead letters -----------------------------------------------------------------------

    @abstractmethod
    async def list_dead(
        self, *, limit: int = DEFAULT_PAGE, cursor: str | None = None
    ) -> DeadLetterPage:
        """A page of dead letters. Raises InvalidQuery."""

    @abstractmethod
    async def redrive(self, ids: Sequence[str] | None = None) -> RedriveReport:
        """Put dead letters (by id; None: all there are now) back to work: their tasks start a new
        round. Calls may overlap: what another has done is skipped or not found."""

    @abstractmethod
    async def purge_dead(self) -> int:
        """Delete all dead letters, not their tasks; returns how many."""

    @abstractmethod
    async def metrics(self) -> EngineMetrics:
        """Gauges of the whole backend, fresh where it answers within 2 s, else as last sampled;
        workers and counters of the process that answers."""

    @abstractmethod
    async def workers(self) -> WorkerList:
        """The processes that live, on all hosts, and what each of them ran some seconds ago."""


class EngineApi(EngineEventsApi, TaskApi):
    """What only the process that runs the engine can say besides."""

    @property
    @abstractmethod
    def registry(self) -> TaskRegistry: ...

    @property
    @abstractmethod
    def backend_info(self) -> BackendInfo: ...

    @abstractmethod
    async def redrive(
        self,
        ids: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        within: Seconds | None = None,
        of_type: Callable[[str], bool] | None = None,
    ) -> RedriveReport:
        """As `TaskApi.redrive`, in pieces where that is wanted: `remaining` says what is left.

        Args:
            limit: of all, so many at most.
            within: seconds after which no further batch is begun.
            of_type: with ids: those of tasks of other types are not found.
        """

    @abstractmethod
    async def ready(self) -> Readiness:
        """Fit to serve, or the reasons why not. Never raises: not to be fit is its answer."""

    @abstractmethod
    async def scale(self) -> Scale:
        """What an autoscaler goes by; a second old at most, so it may be asked by many."""

    @abstractmethod
    def samples(self) -> tuple[Sample, ...]:
        """What was sampled in the last half hour, oldest first; from memory."""


def result_of(task: Task, waited: float, convert: Converter | None) -> Any:
    """What the handler of `task` returned, after `waited` seconds.

    Raises:
        TaskFailed, TaskCancelled, ResultTimeout: there is none, or none yet.
    """
    if not task.status.is_terminal:
        raise ResultTimeout(task.id, waited)
    if task.status is TaskStatus.FAILED:
        raise TaskFailed(task)
    if task.status is TaskStatus.CANCELLED:
        raise TaskCancelled(task)
    if convert is None:
        return task.result
    try:
        return convert(task.result)
    except InvalidTask:
        # A handler may return something else than it is annotated with; what it returned counts.
        return task.result


class TaskHandle(Generic[R_co]):
    """One submitted task."""

    def __init__(self, *, engine: TaskApi, task: Task, created: bool) -> None:
        self._engine = engine
        self.id = task.id
        self.created = created
        """False: the idempotency key had been used before, this is the task of that time."""

    def __repr__(self) -> str:
        return f"<TaskHandle {self.id}>"

    async def task(self) -> Task:
        """The task as it is now."""
        return await self._engine.get(self.id)

    async def status(self) -> TaskStatus:
        """The task's status now. Raises TaskNotFound when its retention is over."""
        return (await self.task()).status

    async def history(self) -> AttemptHistory:
        """See `TaskApi.history`."""
        return await self._engine.history(self.id)

    def events(self, *, after: str | None = None) -> EventStream:
        """See `TaskApi.events`: ``async for event in handle.events()``."""
        return self._engine.events(self.id, after=after)

    async def result(self, *, timeout: Seconds | None = None) -> R_co:
        """See `TaskApi.result`."""
        return cast("R_co", await self._engine.result(self.id, timeout=timeout))

    async def cancel(self) -> Task:
        """See `TaskApi.cancel`."""
        return await self._engine.cancel(self.id)

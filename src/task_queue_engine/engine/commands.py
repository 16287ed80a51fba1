"""What a running engine does on request: submit, look up, cancel, retry, redrive."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import trio

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import (
    Backend,
    BackendInfo,
    DeadLetterPage,
    ListQuery,
    NotifyingBackend,
    TaskChange,
    TaskPage,
)
from task_queue_engine.clock import Clock
from task_queue_engine.codec import is_unicode
from task_queue_engine.config import Settings
from task_queue_engine.engine.api import (
    Accepted,
    EngineApi,
    RedriveReport,
    Refused,
    Submission,
    SubmitVerdict,
)
from task_queue_engine.engine.event_stream import AllTasks, OneTask, Sources
from task_queue_engine.engine.events_api import check_event_query
from task_queue_engine.engine.intake import Intake
from task_queue_engine.engine.live_events import LiveEvents
from task_queue_engine.engine.pipeline import Pipeline
from task_queue_engine.engine.probing import RecentAnswer
from task_queue_engine.engine.redrive import Redriver
from task_queue_engine.engine.reopening import reopen_and_send
from task_queue_engine.engine.waiting import Waiters
from task_queue_engine.errors import (
    BackendUnavailable,
    EngineNotRunning,
    InvalidQuery,
    MessageRefused,
    TaskNotFound,
    WrongState,
)
from task_queue_engine.execution.runner import RunnerStatistics
from task_queue_engine.lifecycle import (
    AlreadyFinished,
    CancelledNow,
    CancelRequested,
    Missing,
    NotReopened,
    Reopened,
)
from task_queue_engine.limits import DEFAULT_PAGE
from task_queue_engine.payloads import Converter
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Seconds, to_seconds
from task_queue_engine.task import Task
from task_queue_engine.task_events import EventStream, OfTask
from task_queue_engine.worker import WorkerList

# Seconds for what a caller that goes away must not cut in two; an HTTP request has 30 by default.
_UNCANCELLABLE_FOR = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What there is only while the engine runs."""

    pipeline: Pipeline
    intake: Intake
    started_at: float
    """On trio's clock."""
    handlers: Callable[[], RunnerStatistics]
    """How many handlers run, and where."""


class Commands(EngineApi):
    """The engine's side of `TaskApi`; `Engine` adds its life."""

    def __init__(
        self, *, registry: TaskRegistry, settings: Settings, backend: Backend, clock: Clock
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._backend = backend
        self._clock = clock
        self._queue = backend.queue(settings.queue)
        self._live = LiveEvents(backend, clock)
        self._redriver = Redriver(
            self._queue, backend.store, clock=clock, on_reopened=self._live.changed
        )
        self._waiters = Waiters(
            self._look,
            partial(backend.hear_tasks, TaskChange.ENDED)
            if isinstance(backend, NotifyingBackend)
            else None,
        )
        self._workers = RecentAnswer(backend.workers.look)
        self._event_sources = Sources(
            live=self._live,
            waiters=self._waiters,
            history=self.history,
            list_tasks=self.list_tasks,
            check_running=self._check_running,
        )
        self._running: Running | None = None

    @property
    def registry(self) -> TaskRegistry:
        return self._registry

    @property
    def backend_info(self) -> BackendInfo:
        return self._backend.info

    def _check_running(self) -> Running:
        if self._running is None:
            raise EngineNotRunning
        return self._running

    # --- submitting -------------------------------------------------------------------------

    async def submit_task(self, submission: Submission) -> Accepted:
        (verdict,) = await self.submit_many([submission])
        if isinstance(verdict, Refused):
            raise verdict.error
        return verdict

    async def submit_many(self, submissions: Sequence[Submission]) -> list[SubmitVerdict]:
        verdicts = await self._check_running().intake.submit(submissions)
        if self._live.is_wanted:
            for verdict in verdicts:
                if isinstance(verdict, Accepted) and verdict.created:
                    self._live.changed(verdict.task)
        return verdicts

    # --- asking -----------------------------------------------------------------------------

    async def get(self, task_id: str) -> Task:
        self._check_running()
        _check_id(task_id)
        (task,) = await self._look([task_id])
        if task is None:
            raise TaskNotFound(task_id)
        return task

    async def _look(self, task_ids: Sequence[str]) -> list[Task | None]:
        self._check_running()
        return await self._backend.store.get(task_ids)

    async def history(self, task_id: str) -> AttemptHistory:
        self._check_running()
        _check_id(task_id)
        history = await self._backend.store.history(task_id)
        if history is None:
            raise TaskNotFound(task_id)
        return history

    async def wait(self, task_id: str, *, timeout: Seconds) -> Task:
        self._check_running()
        _check_id(task_id)
        return await self._waiters.wait(task_id, timeout=to_seconds(timeout, name="timeout"))

    async def _wait_for_end(self, task_id: str, *, timeout: float) -> Task:
        self._check_running()
        _check_id(task_id)
        return await self._waiters.wait(task_id, timeout=timeout, patient=True)

    def _result_converter(self, task_type: str) -> Converter | None:
        return self._registry.result_converter(task_type)

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        self._check_running()
        if query.type is not None and not is_unicode(query.type):
            raise InvalidQuery("contains a lone surrogate, which is not Unicode text", field="type")
        return await self._backend.store.list_tasks(query)

    def events(
        self,
        task_id: str | None = None,
        *,
        type: str | None = None,  # noqa: A002 - as the task's own member is called
        queue: str | None = None,
        after: str | None = None,
        of_type: Callable[[str], bool] | None = None,
    ) -> EventStream:
        self._check_running()
        check_event_query(task_id, type, queue)
        if task_id is not None:
            _check_id(task_id)
            return OneTask(self._event_sources, task_id=task_id, after=after)
        canonical = self._registry.canonical
        name = None if type is None else canonical(type)

        def wants(event: OfTask) -> bool:
            return (
                (name is None or canonical(event.type) == name)
                and queue in (None, event.queue)
                and (of_type is None or of_type(event.type))
            )

        return AllTasks(self._event_sources, task_type=type, wants=wants, after=after)

    # --- changing ---------------------------------------------------------------------------

    async def cancel(self, task_id: str) -> Task:
        self._check_running()
        _check_id(task_id)
        (verdict,) = await self._backend.store.cancel([task_id])
        match verdict:
            case CancelledNow(task):
                self._waiters.ended(task_id)
                self._live.changed(task)
            case CancelRequested(task):
                self._live.changed(task)
                if self._running is not None:  # it may have ended meanwhile
                    await self._running.pipeline.stop_cancelled(task)
            case AlreadyFinished(task):
                raise WrongState(task_id, task.status, "it can no longer be cancelled")
            case Missing():
                raise TaskNotFound(task_id)
        return task

    async def retry(self, task_id: str) -> Task:
        self._check_running()
        _check_id(task_id)
        # A caller that goes away between reopening and sending must not leave a task without its
        # message.
        with trio.CancelScope(shield=True), _bounded("retrying a task"):
            (verdict,), refused = await reopen_and_send(
                self._backend.store,
                [task_id],
                queue_of=lambda task: self._backend.queue(task.queue),
                clock=self._clock,
            )
        match verdict:
            case Reopened(task):
                if task_id in refused:
                    raise MessageRefused(task_id, refused[task_id].reason)
                self._live.changed(task)
                return task
            case NotReopened(task):
                raise WrongState(
                    task_id, task.status, "only FAILED and CANCELLED tasks can be retried"
                )
            case Missing():
                raise TaskNotFound(task_id)

    # --- dead letters -----------------------------------------------------------------------

    async def list_dead(
        self, *, limit: int = DEFAULT_PAGE, cursor: str | None = None
    ) -> DeadLetterPage:
        self._check_running()
        return await self._queue.dead_letters.page(limit=limit, cursor=cursor)

    async def redrive(
        self,
        ids: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        within: Seconds | None = None,
        of_type: Callable[[str], bool] | None = None,
    ) -> RedriveReport:
        self._check_running()
        seconds = math.inf if within is None else to_seconds(within, name="within")
        if ids is not None:
            return await self._redriver.some(ids, within=seconds, of_type=of_type)
        return await self._redriver.all(limit=limit, within=seconds)

    async def purge_dead(self) -> int:
        self._check_running()
        return await self._queue.dead_letters.purge()

    # --- looking ----------------------------------------------------------------------------

    async def workers(self) -> WorkerList:
        presence = self._check_running().pipeline.presence
        found = await self._workers.get()
        # Of itself it knows better than its row.
        return found if presence is None else found.knowing(presence.describe())


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

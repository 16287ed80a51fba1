"""What a running engine does on request: submit, look up, cancel, retry, redrive, delete; and the
same for many tasks, as an action."""

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
from task_queue_engine.engine import submit_spans
from task_queue_engine.engine.action_steps import ActionSteps, why_not_deleted
from task_queue_engine.engine.actions import Actions
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
from task_queue_engine.engine.redrive import Redriver, without_stale
from task_queue_engine.engine.reopening import reopen_and_send
from task_queue_engine.engine.waiting import Waiters
from task_queue_engine.errors import (
    BackendUnavailable,
    EngineNotRunning,
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
    NotDeleted,
    NotReopened,
    Reopened,
)
from task_queue_engine.limits import DEFAULT_PAGE, MAX_PAGE
from task_queue_engine.payloads import Converter
from task_queue_engine.registry import EngineTypes, TaskRegistry
from task_queue_engine.retry import Seconds, to_seconds
from task_queue_engine.task import Task, TaskStatus, task_id_for_key
from task_queue_engine.task_actions import ACTION_TYPE, ActionRequest, Matching, undo_of
from task_queue_engine.task_events import EventStream, OfTask
from task_queue_engine.tracing import Tracing
from task_queue_engine.worker import WorkerList

# Seconds for what a caller that goes away must not cut in two; an HTTP request has 30 by default.
_UNCANCELLABLE_FOR = 10.0

# Seconds for counting what an action would be for: a page that asks is to be there in 0.3 s. Enough
# for a million tasks where an index says which they are.
_PREVIEW = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What there is only while the engine runs."""

    pipeline: Pipeline
    intake: Intake
    own_intake: Intake
    """For tasks of the engine's own types."""
    started_at: float
    """On trio's clock."""
    handlers: Callable[[], RunnerStatistics]
    """How many handlers run, and where."""
    tracing: Tracing | None
    """None: the program has set up no tracer provider."""


class Commands(EngineApi):
    """The engine's side of `TaskApi`; `Engine` adds its life."""

    def __init__(
        self, *, registry: TaskRegistry, settings: Settings, backend: Backend, clock: Clock
    ) -> None:
        self._tasks = registry
        self._settings = settings
        self._backend = backend
        self._clock = clock
        self._queue = backend.queue(settings.queue)
        self._live = LiveEvents(backend, clock)
        self._redriver = Redriver(backend, settings.queue, clock=clock, changed=self._live.changed)
        self._waiters = Waiters(
            self._look,
            partial(backend.hear_tasks, TaskChange.ENDED)
            if isinstance(backend, NotifyingBackend)
            else None,
        )
        self._actions = Actions(
            backend,
            steps=ActionSteps(
                backend, clock=clock, cancelled=self._stop_cancelled, reopened=self._live.changed
            ),
            queue=settings.queue,
            clock=clock,
        )
        self._own_types = self._actions.types()
        self._registry = EngineTypes(registry, self._own_types)
        self._workers = RecentAnswer(backend.workers.look)
        self._processing = RecentAnswer(
            partial(
                backend.store.list_tasks, ListQuery(status=TaskStatus.PROCESSING, limit=MAX_PAGE)
            )
        )
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
        running = self._check_running()
        if running.tracing is None or not submissions:
            verdicts = await running.intake.submit(submissions)
        else:
            verdicts = await submit_spans.traced(
                running.tracing, self._settings.queue, submissions, running.intake.submit
            )
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
            case CancelledNow(task) | CancelRequested(task):
                await self._stop_cancelled(task)
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
                changed=self._live.changed,
            )
        match verdict:
            case Reopened(task):
                if task_id in refused:
                    raise MessageRefused(task_id, refused[task_id].reason)
                return task
            case NotReopened(task):
                raise WrongState(
                    task_id, task.status, "only FAILED and CANCELLED tasks can be retried"
                )
            case Missing():
                raise TaskNotFound(task_id)

    async def _stop_cancelled(self, task: Task) -> None:
        self._live.changed(task)
        if task.status.is_terminal:
            self._waiters.ended(task.id)
        elif self._running is not None:  # it may have ended meanwhile
            await self._running.pipeline.stop_cancelled(task)

    async def delete(self, task_id: str) -> None:
        self._check_running()
        _check_id(task_id)
        (verdict,) = await self._backend.store.delete([task_id])
        match verdict:
            case NotDeleted(task):
                raise WrongState(task_id, task.status, why_not_deleted(verdict))
            case Missing():
                raise TaskNotFound(task_id)

    # --- changing many ----------------------------------------------------------------------

    async def preview_action(
        self, request: ActionRequest, *, within: Seconds = _PREVIEW
    ) -> Matching:
        self._check_running()
        request.check()
        return await self._actions.count(request, within=to_seconds(within, name="within"))

    async def start_action(
        self, request: ActionRequest, *, idempotency_key: str | None = None
    ) -> Task | None:
        running = self._check_running()
        request.check()
        if not await self._was_started(idempotency_key):
            matching = await self.preview_action(request, within=0)
            if not matching.matching and not matching.at_least:
                return None
        submission = Submission(
            task=ACTION_TYPE, payload=request.encode(), idempotency_key=idempotency_key
        )
        (verdict,) = await running.own_intake.submit([submission])
        if isinstance(verdict, Refused):
            raise verdict.error
        if verdict.created:
            self._live.changed(verdict.task)
        return verdict.task

    async def _was_started(self, idempotency_key: str | None) -> bool:
        """Asked again with the same key nothing may be left to do."""
        if not isinstance(idempotency_key, str):
            return False
        return (await self._look([task_id_for_key(idempotency_key)]))[0] is not None

    async def undo_action(self, task_id: str, *, idempotency_key: str | None = None) -> Task | None:
        request = undo_of(await self.get(task_id))
        return await self.start_action(request, idempotency_key=idempotency_key)

    # --- dead letters -----------------------------------------------------------------------

    async def list_dead(
        self, *, limit: int = DEFAULT_PAGE, cursor: str | None = None
    ) -> DeadLetterPage:
        self._check_running()
        page = await self._queue.dead_letters.page(limit=limit, cursor=cursor)
        together = self._backend.steps(self._queue.name).is_one_transaction
        return page if together else await without_stale(page, self._backend.store)

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
        if any(worker.slots for worker in found.workers):
            page = await self._processing.get()
            if page.next_cursor is None:  # else so many run that the rows' own words have to do
                found = found.running(page.tasks)
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

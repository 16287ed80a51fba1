"""Talks to a Task Queue Engine server from a plain program, or from a thread."""

from __future__ import annotations

import math
import time
from builtins import list as list_of
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, Unpack, overload

import httpx

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import DeadLetterPage, ListQuery, TaskPage
from task_queue_engine.client.connection import Connection
from task_queue_engine.client.event_reading import SILENCE, EventReading
from task_queue_engine.client.handle import SyncTaskHandle
from task_queue_engine.client.problems import error_of_response
from task_queue_engine.client.steps import DEFAULT_RETRIES, Pause, Request, Steps
from task_queue_engine.engine.api import (
    Accepted,
    RedriveReport,
    Submission,
    SubmitOptions,
    SubmitVerdict,
    result_of,
)
from task_queue_engine.engine.events_api import check_event_query
from task_queue_engine.engine.metrics import EngineMetrics
from task_queue_engine.errors import TaskQueueError
from task_queue_engine.limits import DEFAULT_PAGE, MAX_PAGE
from task_queue_engine.registry import Handler, TaskRegistry
from task_queue_engine.retry import Seconds, to_seconds
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_actions import ActionRequest, Matching
from task_queue_engine.task_events import TaskEvent
from task_queue_engine.worker import WorkerList

T = TypeVar("T")
R = TypeVar("R")


class Client:
    """A Task Queue Engine server, by its HTTP API. It has the methods of a running `Engine`,
    without `await`; `AsyncClient` has them with it.

    >>> with Client("http://127.0.0.1:8080") as client:
    ...     handle = client.submit("email", "user@example.com")
    ...     receipt = handle.result(timeout=10)

    A request is sent again where the server cannot be reached, has trouble or too much to do (429,
    502, 503, 504), or gives no answer; the pauses grow, and are as long as its Retry-After says, up
    to 5 s. That doubles nothing: each submission carries an idempotency key, one of the client's
    own where it has none. `retry`, `redrive` and `purge_dead` are not sent again where the server
    may have carried them out: they raise BackendUnavailable, and what came of it has to be looked
    up.

    `submit_many` takes as many requests as their size needs. A page has at most 100 items. `wait`
    outlasts a server that goes away in the meantime: it raises BackendUnavailable where the server
    could not be reached at the first look, or not at the last. `result` outlasts that too.

    One object serves all threads of a program; a process that is forked makes its own.

    Args:
        url: where the server is, e.g. ``http://127.0.0.1:8080``.
        tasks: the task types that this program knows. With them a task is submitted by its function
            too, its payload is checked before it is sent, and results are what the function's
            annotation says. Without, by the name of its type, and results are JSON.
        api_key: one of the server's keys.
        timeout: seconds a request may take, waits for a task's end not counted. Here, where no
            event loop looks after it, it is each silence of the server that is bounded.
        retries: how often a request is sent again at most.
        transport: another way to send requests than over the network; for tests.

    All methods raise BackendUnavailable where the server cannot be reached (ServerUnreachable), is
    not fit to serve or does not answer in time, and ApiError for answers that fit nothing else
    (401, 500). What a server answered is the error's `problem`.

    Raises:
        ConfigurationError: an argument cannot be one; or what the environment says about the way
            there cannot be used (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE, SSL_CERT_DIR).
    """

    def __init__(
        self,
        url: str,
        *,
        tasks: TaskRegistry | None = None,
        api_key: str | None = None,
        timeout: Seconds = 30.0,
        retries: int = DEFAULT_RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection = Connection(
            url,
            tasks=tasks,
            api_key=api_key,
            timeout=timeout,
            retries=retries,
            transport=transport,
            now=time.monotonic,
        )
        self._calls = self._connection.calls
        self._http = httpx.Client(**self._connection.http_options)
        self.url = self._connection.url

    def __repr__(self) -> str:
        return f"<Client {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> NoReturn:
        self.close()
        raise TypeError(
            "task_queue_engine.client.Client is for programs without an event loop; on trio and "
            "asyncio it is task_queue_engine.client.AsyncClient"
        )

    async def __aexit__(self, *details: object) -> None:
        """There for `__aenter__` to be called, and to say what to use."""

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- submitting -------------------------------------------------------------------------

    # A function's handle knows the type of its result.
    @overload
    def submit(
        self,
        task: Callable[..., Awaitable[R]],
        payload: Any = ...,
        **options: Unpack[SubmitOptions],
    ) -> SyncTaskHandle[R]: ...

    @overload
    def submit(
        self, task: Callable[..., R], payload: Any = ..., **options: Unpack[SubmitOptions]
    ) -> SyncTaskHandle[R]: ...

    @overload
    def submit(
        self, task: str, payload: Any = ..., **options: Unpack[SubmitOptions]
    ) -> SyncTaskHandle[Any]: ...

    def submit(
        self,
        task: str | Handler,
        payload: Any = None,
        *,
        delay: Seconds | None = None,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        timeout: Seconds | None = None,
        idempotency_key: str | None = None,
    ) -> SyncTaskHandle[Any]:
        """See `TaskApi.submit`."""
        accepted = self.submit_task(
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
        return SyncTaskHandle(client=self, task=accepted.task, created=accepted.created)

    def submit_task(self, submission: Submission) -> Accepted:
        """`submit` with its arguments as a value."""
        return self._carry_out(self._calls.submit(submission))

    def submit_many(self, submissions: Sequence[Submission]) -> list_of[SubmitVerdict]:
        """Many at once: one verdict each, in their order. One bad submission does not fail the
        others."""
        return self._carry_out(self._calls.submit_many(submissions))

    # --- asking -----------------------------------------------------------------------------

    def get(self, task_id: str) -> Task:
        """Raises TaskNotFound."""
        return self._carry_out(self._calls.get(task_id))

    def wait(self, task_id: str, *, timeout: Seconds) -> Task:
        """See `TaskApi.wait`."""
        return self._carry_out(self._calls.wait(task_id, timeout=timeout))

    def result(self, task_id: str, *, timeout: Seconds | None = None) -> Any:
        """See `TaskApi.result`."""
        seconds = math.inf if timeout is None else to_seconds(timeout, name="timeout")
        steps = self._calls.wait_for_end(task_id, seconds, patient=True)
        task = self._carry_out(steps)
        return result_of(task, seconds, self._calls.result_converter(task.type))

    def list_tasks(self, query: ListQuery | None = None) -> TaskPage:
        """A page of tasks, newest first. Raises InvalidQuery."""
        return self._carry_out(self._calls.list_tasks(query or ListQuery()))

    def list(
        self,
        *,
        status: TaskStatus | None = None,
        type: str | None = None,  # noqa: A002 - as the task's own member is called
        queue: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        id: str | None = None,  # noqa: A002 - as above
        error: str | None = None,
    ) -> Iterator[Task]:
        """All tasks that pass a filter (`TaskFilter`), newest first, in as many pages as are
        iterated over.

        Raises:
            InvalidQuery: at the first item.
        """
        query = ListQuery(
            status=status,
            type=type,
            queue=queue,
            created_after=created_after,
            created_before=created_before,
            id=id,
            error=error,
            limit=MAX_PAGE,
        )
        while True:
            page = self.list_tasks(query)
            yield from page.tasks
            if page.next_cursor is None:
                return
            query = replace(query, cursor=page.next_cursor)

    def history(self, task_id: str) -> AttemptHistory:
        """See `TaskApi.history`."""
        return self._carry_out(self._calls.history(task_id))

    def events(
        self,
        task_id: str | None = None,
        *,
        type: str | None = None,  # noqa: A002 - as the task's own member is called
        queue: str | None = None,
        after: str | None = None,
    ) -> Iterator[TaskEvent]:
        """See `EventsApi.events`: ``for event in client.events(task_id)``. A connection that ends
        is made anew, and goes on where it was."""
        check_event_query(task_id, type, queue)
        reading = self._calls.events(task_id, type=type, queue=queue, after=after)
        return self._events(reading)

    # --- changing ---------------------------------------------------------------------------

    def cancel(self, task_id: str) -> Task:
        """See `TaskApi.cancel`."""
        return self._carry_out(self._calls.cancel(task_id))

    def retry(self, task_id: str) -> Task:
        """See `TaskApi.retry`."""
        return self._carry_out(self._calls.retry(task_id))

    def delete(self, task_id: str) -> None:
        """See `TaskApi.delete`."""
        self._carry_out(self._calls.delete(task_id))

    # --- changing many ----------------------------------------------------------------------

    def preview_action(self, request: ActionRequest) -> Matching:
        """See `TaskApi.preview_action`."""
        return self._carry_out(self._calls.preview_action(request))

    def start_action(
        self, request: ActionRequest, *, idempotency_key: str | None = None
    ) -> Task | None:
        """See `TaskApi.start_action`."""
        return self._carry_out(self._calls.start_action(request, idempotency_key))

    def undo_action(self, task_id: str, *, idempotency_key: str | None = None) -> Task | None:
        """See `TaskApi.undo_action`."""
        return self._carry_out(self._calls.undo_action(task_id, idempotency_key))

    # --- dead letters -----------------------------------------------------------------------

    def list_dead(self, *, limit: int = DEFAULT_PAGE, cursor: str | None = None) -> DeadLetterPage:
        """A page of dead letters. Raises InvalidQuery."""
        return self._carry_out(self._calls.list_dead(limit=limit, cursor=cursor))

    def redrive(self, ids: Sequence[str] | None = None) -> RedriveReport:
        """See `TaskApi.redrive`."""
        return self._carry_out(self._calls.redrive(ids))

    def purge_dead(self) -> int:
        """Delete all dead letters, not their tasks; returns how many."""
        return self._carry_out(self._calls.purge_dead())

    # --- looking ----------------------------------------------------------------------------

    def metrics(self) -> EngineMetrics:
        """See `TaskApi.metrics`."""
        return self._carry_out(self._calls.metrics())

    def workers(self) -> WorkerList:
        """See `TaskApi.workers`."""
        return self._carry_out(self._calls.workers())

    # --- inside -----------------------------------------------------------------------------

    def _carry_out(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._step(step)
                except TaskQueueError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    def _events(self, reading: EventReading) -> Iterator[TaskEvent]:
        while not reading.is_over:
            request = reading.request()
            try:
                with (
                    self._connection.sending(request),
                    self._http.stream(
                        request.method,
                        request.path,
                        params=request.params,
                        headers=request.headers,
                        timeout=httpx.Timeout(request.timeout, read=SILENCE),
                    ) as response,
                ):
                    if not response.is_success:
                        response.read()
                        raise error_of_response(response)
                    reading.begins(response.headers.get("Content-Type", ""))
                    for data in response.iter_bytes():
                        yield from reading.feed(data)
                        if reading.is_over:
                            return
                pause = reading.pause_after_end()
            except TaskQueueError as error:
                pause = reading.pause_after(error)
            time.sleep(pause)

    def _step(self, step: Request | Pause) -> httpx.Response | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        with self._connection.sending(step):
            return self._http.request(
                step.method,
                step.path,
                params=step.params,
                content=step.content,
                headers=step.headers,
                timeout=step.timeout,
            )

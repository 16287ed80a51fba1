"""Talks to a Task Queue Engine server from an event loop, of trio or asyncio."""

from __future__ import annotations

from builtins import list as list_of
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar

import anyio
import httpx

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import DeadLetterPage, ListQuery, TaskPage
from task_queue_engine.client.connection import Connection
from task_queue_engine.client.event_reading import SILENCE, EventReading
from task_queue_engine.client.problems import error_of_response
from task_queue_engine.client.steps import DEFAULT_RETRIES, Pause, Request, Steps
from task_queue_engine.engine.api import (
    Accepted,
    RedriveReport,
    Submission,
    SubmitVerdict,
    TaskApi,
)
from task_queue_engine.engine.events_api import check_event_query
from task_queue_engine.engine.metrics import EngineMetrics
from task_queue_engine.errors import TaskQueueError
from task_queue_engine.limits import DEFAULT_PAGE, MAX_PAGE
from task_queue_engine.payloads import Converter
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Seconds
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_actions import ActionRequest, Matching
from task_queue_engine.task_events import EventStream, TaskEvent
from task_queue_engine.worker import WorkerList

T = TypeVar("T")

# Seconds, for what waits for nothing.
_END_WITHIN = 1.0


class AsyncClient(TaskApi):
    """A Task Queue Engine server, by its HTTP API, on trio or asyncio. It has the methods of a
    running `Engine`; `Client` has them without `await`.

    >>> async with AsyncClient("http://127.0.0.1:8080") as client:
    ...     handle = await client.submit("email", "user@example.com")
    ...     receipt = await handle.result(timeout=10)

    For arguments, errors and what is sent again see `Client`. One object serves any number of tasks
    of one event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        tasks: TaskRegistry | None = None,
        api_key: str | None = None,
        timeout: Seconds = 30.0,
        retries: int = DEFAULT_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._connection = Connection(
            url,
            tasks=tasks,
            api_key=api_key,
            timeout=timeout,
            retries=retries,
            transport=transport,
            now=anyio.current_time,
        )
        self._calls = self._connection.calls
        self._http = httpx.AsyncClient(**self._connection.http_options)
        self.url = self._connection.url

    def __repr__(self) -> str:
        return f"<AsyncClient {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # --- submitting -------------------------------------------------------------------------

    async def submit_task(self, submission: Submission) -> Accepted:
        return await self._carry_out(self._calls.submit(submission))

    async def submit_many(self, submissions: Sequence[Submission]) -> list_of[SubmitVerdict]:
        return await self._carry_out(self._calls.submit_many(submissions))

    # --- asking -----------------------------------------------------------------------------

    async def get(self, task_id: str) -> Task:
        return await self._carry_out(self._calls.get(task_id))

    async def wait(self, task_id: str, *, timeout: Seconds) -> Task:
        return await self._carry_out(self._calls.wait(task_id, timeout=timeout))

    async def _wait_for_end(self, task_id: str, *, timeout: float) -> Task:
        return await self._carry_out(self._calls.wait_for_end(task_id, timeout, patient=True))

    def _result_converter(self, task_type: str) -> Converter | None:
        return self._calls.result_converter(task_type)

    async def list_tasks(self, query: ListQuery | None = None) -> TaskPage:
        return await self._carry_out(self._calls.list_tasks(query or ListQuery()))

    async def list(
        self,
        *,
        status: TaskStatus | None = None,
        type: str | None = None,  # noqa: A002 - as the task's own member is called
        queue: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        id: str | None = None,  # noqa: A002 - as above
        error: str | None = None,
    ) -> AsyncIterator[Task]:
        """See `Client.list`: ``async for task in client.list(status=TaskStatus.FAILED)``."""
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
            page = await self.list_tasks(query)
            for task in page.tasks:
                yield task
            if page.next_cursor is None:
                return
            query = replace(query, cursor=page.next_cursor)

    async def history(self, task_id: str) -> AttemptHistory:
        return await self._carry_out(self._calls.history(task_id))

    def events(
        self,
        task_id: str | None = None,
        *,
        type: str | None = None,  # noqa: A002 - as the task's own member is called
        queue: str | None = None,
        after: str | None = None,
    ) -> EventStream:
        """See `EventsApi.events`. A connection that ends is made anew, and goes on where it was.
        One that is left before its end is to be closed: ``async with aclosing(client.events())``.
        """
        check_event_query(task_id, type, queue)
        reading = self._calls.events(task_id, type=type, queue=queue, after=after)
        return self._events(reading)

    # --- changing ---------------------------------------------------------------------------

    async def cancel(self, task_id: str) -> Task:
        return await self._carry_out(self._calls.cancel(task_id))

    async def retry(self, task_id: str) -> Task:
        return await self._carry_out(self._calls.retry(task_id))

    async def delete(self, task_id: str) -> None:
        await self._carry_out(self._calls.delete(task_id))

    # --- changing many ----------------------------------------------------------------------

    async def preview_action(self, request: ActionRequest) -> Matching:
        return await self._carry_out(self._calls.preview_action(request))

    async def start_action(
        self, request: ActionRequest, *, idempotency_key: str | None = None
    ) -> Task | None:
        return await self._carry_out(self._calls.start_action(request, idempotency_key))

    async def undo_action(self, task_id: str, *, idempotency_key: str | None = None) -> Task | None:
        return await self._carry_out(self._calls.undo_action(task_id, idempotency_key))

    # --- dead letters -----------------------------------------------------------------------

    async def list_dead(
        self, *, limit: int = DEFAULT_PAGE, cursor: str | None = None
    ) -> DeadLetterPage:
        return await self._carry_out(self._calls.list_dead(limit=limit, cursor=cursor))

    async def redrive(self, ids: Sequence[str] | None = None) -> RedriveReport:
        return await self._carry_out(self._calls.redrive(ids))

    async def purge_dead(self) -> int:
        return await self._carry_out(self._calls.purge_dead())

    # --- looking ----------------------------------------------------------------------------

    async def metrics(self) -> EngineMetrics:
        return await self._carry_out(self._calls.metrics())

    async def workers(self) -> WorkerList:
        return await self._carry_out(self._calls.workers())

    # --- inside -----------------------------------------------------------------------------

    async def _carry_out(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._step(step)
                except TaskQueueError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _events(self, reading: EventReading) -> AsyncGenerator[TaskEvent, None]:
        while not reading.is_over:
            request = reading.request()
            try:
                with self._connection.sending(request):
                    async with self._http.stream(
                        request.method,
                        request.path,
                        params=request.params,
                        headers=request.headers,
                        timeout=httpx.Timeout(request.timeout, read=SILENCE),
                    ) as response:
                        if not response.is_success:
                            await response.aread()
                            raise error_of_response(response)
                        reading.begins(response.headers.get("Content-Type", ""))
                        pieces = response.aiter_bytes()
                        try:
                            async for data in pieces:
                                for event in reading.feed(data):
                                    yield event
                                if reading.is_over:
                                    return
                        finally:
                            await _end(response, pieces)
                pause = reading.pause_after_end()
            except TaskQueueError as error:
                pause = reading.pause_after(error)
            await anyio.sleep(pause)

    async def _step(self, step: Request | Pause) -> httpx.Response | None:
        if isinstance(step, Pause):
            await anyio.sleep(step.seconds)
            return None
        request = self._http.build_request(
            step.method,
            step.path,
            params=step.params,
            content=step.content,
            headers=step.headers,
            timeout=step.timeout,
        )
        request.stream = _Body(step.content or b"")
        with self._connection.sending(step):
            # httpx's own timeouts are for each of its steps; this bounds the request as a whole.
            with anyio.fail_after(step.timeout):
                return await self._http.send(request)


async def _end(response: httpx.Response, pieces: AsyncIterator[bytes]) -> None:
    """Close it, and let what reads it come to its end: generators within generators, which trio
    warns of where one is left."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(_END_WITHIN):
        await response.aclose()
        with suppress(Exception):  # whatever a closed connection says
            async for _ in pieces:
                pass


class _Body(httpx.AsyncByteStream):
    """Of a request. httpx's own is an async generator, which trio warns of where a connection
    breaks before it is read to its end."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = [content]

    def __aiter__(self) -> Self:
        self._left = [self._content]
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()

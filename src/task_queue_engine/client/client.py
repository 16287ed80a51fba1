"""Talks to a Task Queue Engine server."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import trio

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import DeadLetterPage, ListQuery, TaskPage
from task_queue_engine.client.connecting import make_http_client
from task_queue_engine.client.problems import ProblemRead, error_of_problem, error_of_response
from task_queue_engine.client.requests import encode_submission, key_header
from task_queue_engine.client.schemas import (
    BatchResultRead,
    BatchResultsRead,
    DeadLetterListRead,
    MetricsRead,
)
from task_queue_engine.engine.api import (
    Accepted,
    EngineMetrics,
    RedriveReport,
    Refused,
    Submission,
    SubmitVerdict,
    TaskApi,
)
from task_queue_engine.engine.views import PurgeResult
from task_queue_engine.engine.waiting import Patience
from task_queue_engine.errors import (
    ApiError,
    BackendUnavailable,
    ConfigurationError,
    InvalidTask,
    TaskNotFound,
    TaskQueueError,
)
from task_queue_engine.limits import DEFAULT_PAGE, MAX_BATCH, MAX_WAIT
from task_queue_engine.retry import Seconds, to_seconds
from task_queue_engine.task import Task, is_task_id

T = TypeVar("T")

logger = logging.getLogger("task_queue_engine.client")

# Seconds of one request that waits for a task: nothing on the way should find that too long.
_LONGEST_POLL = MAX_WAIT / 2
# Between two looks at a task where the server does not wait: at first, and at most.
_PAUSE = 0.5
_LONGEST_PAUSE = 4.0
# Well under the server's default limit for a body, 256 KiB.
_BATCH_BYTES = 192 * 1024


class Client(TaskApi):
    """A Task Queue Engine server, by its HTTP API. It has the methods of a running `Engine`.

    >>> async with Client("http://127.0.0.1:8080") as client:
    ...     handle = await client.submit("email", "user@example.com")
    ...     receipt = await handle.result(timeout=10)

    Nothing is sent twice by itself. Where a submission ends in BackendUnavailable it may have been
    stored all the same; with an idempotency key it can be repeated safely.

    Tasks are submitted by the name of their type. `submit_many` takes as many requests as their
    size needs; where one fails as a whole, that is the verdict of all that were in it. A page has
    at most 100 items. `wait` outlasts a server that goes away in the meantime: it raises
    BackendUnavailable where the server could not be reached at the first look, or not at the last.

    Args:
        url: where the server is, e.g. ``http://127.0.0.1:8080``.
        api_key: one of the server's `TQE_API_KEYS`.
        timeout: seconds a request may take, waits for a task's end not counted.
        transport: another way to send requests than over the network; for tests.

    All methods raise BackendUnavailable where the server cannot be reached, is not fit to serve or
    does not answer in time, and ApiError for answers that fit nothing else (401, 500).

    Raises:
        ConfigurationError: the URL or the key cannot be one; or what the environment says about the
            way there cannot be used (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE,
            SSL_CERT_DIR).
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: Seconds = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        base = _parse_url(url)
        headers = {"Accept": "application/json"}
        if api_key is not None:
            if not api_key or not api_key.isascii() or not api_key.isprintable():
                raise ConfigurationError("must be printable ASCII", variable="api_key")
            headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = to_seconds(timeout, name="timeout")
        self._http = make_http_client(
            base, headers=headers, timeout=self._timeout, transport=transport
        )
        self.url = str(base.copy_with(userinfo=b"")).rstrip("/")

    def __repr__(self) -> str:
        return f"<Client {self.url}>"

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
        body = encode_submission(submission, with_key=False)
        headers = {}
        if submission.idempotency_key is not None:
            headers["Idempotency-Key"] = key_header(submission.idempotency_key)
        response = await self._request("POST", "/tasks", content=body, headers=headers)
        replayed = response.headers.get("Idempotent-Replayed") == "true"
        return Accepted(_decode(response, Task), created=not replayed)

    async def submit_many(self, submissions: Sequence[Submission]) -> list[SubmitVerdict]:
        verdicts: list[SubmitVerdict | None] = [None] * len(submissions)
        encoded: list[tuple[int, bytes]] = []
        for index, submission in enumerate(submissions):
            try:
                encoded.append((index, encode_submission(submission, with_key=True)))
            except InvalidTask as error:
                verdicts[index] = Refused(error)
        for chunk in _chunks(encoded):
            answers = await self._submit_chunk([item for _, item in chunk])
            for (index, _), verdict in zip(chunk, answers, strict=True):
                verdicts[index] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    async def _submit_chunk(self, items: Sequence[bytes]) -> list[SubmitVerdict]:
        body = b'{"tasks":[' + b",".join(items) + b"]}"
        try:
            response = await self._request("POST", "/tasks/batch", content=body)
            results = _decode(response, BatchResultsRead).results
            if len(results) != len(items):
                raise ApiError("the server answered for another number of tasks", status=200)
        except TaskQueueError as error:
            if isinstance(error, InvalidTask) and len(items) > 1:
                # Too large a body for this server, as none of its items may be.
                middle = len(items) // 2
                first = await self._submit_chunk(items[:middle])
                return first + await self._submit_chunk(items[middle:])
            return [Refused(error)] * len(items)
        return [_verdict(result) for result in results]

    # --- asking -----------------------------------------------------------------------------

    async def get(self, task_id: str) -> Task:
        return await self._get(task_id)

    async def history(self, task_id: str) -> AttemptHistory:
        response = await self._request("GET", f"/tasks/{_in_path(task_id)}/attempts")
        return _decode(response, AttemptHistory)

    async def wait(self, task_id: str, *, timeout: Seconds) -> Task:
        deadline = trio.current_time() + to_seconds(timeout, name="timeout")
        patience, seen, pause = Patience(), False, _PAUSE
        while True:
            began = trio.current_time()
            left = deadline - began
            asked = max(0.0, min(left, _LONGEST_POLL))
            try:
                task = await self._get(task_id, wait=asked)
            except BackendUnavailable as error:
                if not seen or left <= 0:
                    raise
                if not patience.tried:
                    logger.warning("waiting for task %s: %s; trying again", task_id, error)
                next_look = trio.current_time() + patience.pause(error)
            else:
                patience.over()
                seen = True
                if task.status.is_terminal or trio.current_time() >= deadline:
                    return task
                # Where the server did not wait, the client does: it goes away, or has too many
                # that wait, which is no reason to ask it the more often.
                next_look = began + min(pause, asked)
                waited = trio.current_time() >= next_look
                pause = _PAUSE if waited else min(_LONGEST_PAUSE, 2 * pause)
            await trio.sleep_until(min(deadline, max(trio.current_time(), next_look)))

    async def _get(self, task_id: str, *, wait: float = 0.0) -> Task:
        path = f"/tasks/{_in_path(task_id)}"
        params = {"wait": f"{wait:.3f}"} if wait else None
        return _decode(await self._request("GET", path, params=params, wait=wait), Task)

    async def list_tasks(self, query: ListQuery | None = None) -> TaskPage:
        query = query or ListQuery()
        params = {"limit": str(query.limit)}
        if query.status is not None:
            params["status"] = query.status
        if query.type is not None:
            params["type"] = query.type
        if query.cursor is not None:
            params["cursor"] = query.cursor
        return _decode(await self._request("GET", "/tasks", params=params), TaskPage)

    # --- changing ---------------------------------------------------------------------------

    async def cancel(self, task_id: str) -> Task:
        response = await self._request("DELETE", f"/tasks/{_in_path(task_id)}")
        return _decode(response, Task)

    async def retry(self, task_id: str) -> Task:
        response = await self._request("POST", f"/tasks/{_in_path(task_id)}/retry")
        return _decode(response, Task)

    # --- dead letters -----------------------------------------------------------------------

    async def list_dead(
        self, *, limit: int = DEFAULT_PAGE, cursor: str | None = None
    ) -> DeadLetterPage:
        params = {"limit": str(limit)}
        if cursor is not None:
            params["cursor"] = cursor
        response = await self._request("GET", "/dead-letters", params=params)
        return _decode(response, DeadLetterListRead).page()

    async def redrive(self, ids: Sequence[str] | None = None) -> RedriveReport:
        bodies: list[dict[str, Any]] = [{"all": True}]
        if ids is not None:
            bodies = [{"ids": ids[i : i + MAX_BATCH]} for i in range(0, len(ids), MAX_BATCH)]
        reports = [report for body in bodies for report in await self._redrive(body)]
        return RedriveReport(
            redriven=sum(report.redriven for report in reports),
            skipped=sum(report.skipped for report in reports),
            refused=sum(report.refused for report in reports),
            not_found=sum(report.not_found for report in reports),
        )

    async def _redrive(self, body: dict[str, Any]) -> list[RedriveReport]:
        """As many requests as it takes: the server does a bounded piece of it in each."""
        reports: list[RedriveReport] = []
        while True:
            content = msgspec.json.encode(body)
            response = await self._request("POST", "/dead-letters/redrive", content=content)
            report = _decode(response, RedriveReport)
            if reports and "ids" in body:
                # What an earlier request has done is no longer found.
                report = replace(report, not_found=0)
            reports.append(report)
            is_further = report.redriven + report.skipped + report.refused > 0
            if not (report.remaining and is_further):
                return reports
            if "all" in body:
                body = {"all": True, "limit": report.remaining}

    async def purge_dead(self) -> int:
        return _decode(await self._request("DELETE", "/dead-letters"), PurgeResult).purged

    # --- looking ----------------------------------------------------------------------------

    async def metrics(self) -> EngineMetrics:
        return _decode(await self._request("GET", "/metrics"), MetricsRead).metrics()

    # --- inside -----------------------------------------------------------------------------

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
    ) -> httpx.Response:
        """A successful response; everything else is raised."""
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        try:
            # httpx's own timeouts are for each step; this bounds the request as a whole.
            with trio.fail_after(self._timeout + wait):
                response = await self._http.request(
                    method,
                    path,
                    params=params,
                    content=content,
                    headers=sent,
                    timeout=self._timeout + wait,
                )
        except (httpx.TimeoutException, trio.TooSlowError):
            raise BackendUnavailable(
                f"{self.url} did not answer within {self._timeout + wait:g} s"
            ) from None
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            raise BackendUnavailable(f"{self.url} cannot be reached: {reason}") from error
        if not response.is_success:
            raise error_of_response(response)
        return response


def _parse_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError("must be like http://127.0.0.1:8080", variable="url")
    return parsed


def _in_path(task_id: str) -> str:
    """Raises TaskNotFound for what cannot be an id, as the server does."""
    canonical = task_id.lower()
    if not is_task_id(canonical):
        raise TaskNotFound(task_id)
    return quote(canonical, safe="")


def _decode(response: httpx.Response, what: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=what)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        url = response.url.copy_with(userinfo=b"")
        raise ApiError(
            f"{url} did not answer as a Task Queue Engine server does: {error}",
            status=response.status_code,
        ) from None


def _chunks(items: Sequence[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    chunk: list[tuple[int, bytes]] = []
    size = 0
    for item in items:
        if chunk and (len(chunk) == MAX_BATCH or size + len(item[1]) > _BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item[1])
    if chunk:
        yield chunk


def _verdict(result: BatchResultRead) -> SubmitVerdict:
    if result.task is not None:
        return Accepted(result.task, created=not result.replayed)
    return Refused(error_of_problem(result.problem or ProblemRead(), result.status))

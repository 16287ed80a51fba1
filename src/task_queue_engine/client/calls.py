"""What a client can ask of a server, as steps: `Client` and `AsyncClient` carry them out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import httpx
import msgspec

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import DeadLetterPage, ListQuery, TaskPage
from task_queue_engine.client.action_calls import ActionCalls
from task_queue_engine.client.event_reading import EventReading
from task_queue_engine.client.exchange import decode as _decode
from task_queue_engine.client.exchange import in_path as _in_path
from task_queue_engine.client.problems import error_of_problem
from task_queue_engine.client.requests import check_key, encode_submission, new_key, submit_headers
from task_queue_engine.client.schemas import (
    BatchResultRead,
    BatchResultsRead,
    DeadLetterListRead,
    MetricsRead,
)
from task_queue_engine.client.steps import Pause, Request, Steps, answer_to, pause_after, send
from task_queue_engine.engine.api import (
    Accepted,
    RedriveReport,
    Refused,
    Submission,
    SubmitVerdict,
)
from task_queue_engine.engine.metrics import EngineMetrics
from task_queue_engine.engine.views import PurgeResult
from task_queue_engine.errors import (
    ApiError,
    BackendUnavailable,
    ConfigurationError,
    InvalidTask,
    Problem,
    TaskQueueError,
    WrongState,
)
from task_queue_engine.limits import MAX_BATCH, MAX_WAIT
from task_queue_engine.patience import Patience
from task_queue_engine.payloads import Converter
from task_queue_engine.registry import TaskRegistry
from task_queue_engine.retry import Seconds, to_seconds
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.worker import WorkerList

T = TypeVar("T")

logger = logging.getLogger("task_queue_engine.client")

# Seconds of one request that waits for a task: nothing on the way should find that too long.
_LONGEST_POLL = MAX_WAIT / 2
# Between two looks at a task where the server does not wait: at first, and at most.
_PAUSE = 0.5
_LONGEST_PAUSE = 4.0
# Well under the server's default limit for a body, 256 KiB.
_BATCH_BYTES = 192 * 1024


class Calls(ActionCalls):
    """The calls of one client; each may be in progress any number of times.

    Args:
        tasks: the types that this program knows.
        timeout: seconds a request may take, waits for a task's end not counted.
        retries: how often a request is sent again at most.
        now: seconds, on the clock that pauses are slept by.

    Raises:
        ConfigurationError: `timeout` or `retries` cannot be one.
    """

    def __init__(
        self,
        *,
        tasks: TaskRegistry | None,
        timeout: Seconds,
        retries: int,
        now: Callable[[], float],
    ) -> None:
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ConfigurationError("must be a number of tries, 0 or more", variable="retries")
        if tasks is not None and not isinstance(tasks, TaskRegistry):
            raise ConfigurationError("must be a TaskRegistry", variable="tasks")
        self._tasks = tasks
        try:
            self._timeout = to_seconds(timeout, name="timeout")
        except ValueError as error:
            raise ConfigurationError(str(error).partition(" ")[2], variable="timeout") from None
        self._retries = retries
        self._now = now

    # --- submitting -------------------------------------------------------------------------

    def submit(self, submission: Submission) -> Steps[Accepted]:
        body = encode_submission(submission, tasks=self._tasks, key=None)
        key, is_ours = _key_of(submission)
        response = yield from self._ask(
            "POST", "/tasks", content=body, headers=submit_headers(submission.trace_context, key)
        )
        replayed = response.headers.get("Idempotent-Replayed") == "true"
        # Under a key of ours it can only have been stored by an earlier send of this very request.
        return Accepted(_decode(response, Task), created=is_ours or not replayed)

    def submit_many(self, submissions: Sequence[Submission]) -> Steps[list[SubmitVerdict]]:
        verdicts: list[SubmitVerdict | None] = [None] * len(submissions)
        encoded: list[_Item] = []
        for index, submission in enumerate(submissions):
            try:
                key, is_ours = _key_of(submission)
                body = encode_submission(submission, tasks=self._tasks, key=key)
            except InvalidTask as error:
                verdicts[index] = Refused(error)
            else:
                encoded.append((index, body, is_ours))
        for chunk in _chunks(encoded):
            left, failures = chunk, 0
            while left:
                answers = yield from self._submit_chunk([body for _, body, _ in left])
                for (index, _, is_ours), verdict in zip(left, answers, strict=True):
                    if isinstance(verdict, Accepted) and is_ours:
                        verdict = Accepted(verdict.task, created=True)
                    verdicts[index] = verdict
                failures += 1
                pauses = {
                    index: pause
                    for index, _, _ in left
                    if (pause := self._pause_after(verdicts[index], failures)) is not None
                }
                left = [item for item in left if item[0] in pauses]
                if left:
                    yield Pause(max(pauses.values()))
        return [verdict for verdict in verdicts if verdict is not None]

    def _pause_after(self, verdict: SubmitVerdict | None, failures: int) -> float | None:
        if not isinstance(verdict, Refused):
            return None
        return pause_after(verdict.error, failures, self._retries)

    def _submit_chunk(self, items: Sequence[bytes]) -> Steps[list[SubmitVerdict]]:
        """One send of each item, in one request where the server takes that."""
        body = b'{"tasks":[' + b",".join(items) + b"]}"
        try:
            request = self._request("POST", "/tasks/batch", content=body, headers=submit_headers())
            response = yield from send(request)
            results = _decode(response, BatchResultsRead).results
            if len(results) != len(items):
                raise ApiError("the server answered for another number of tasks", status=200)
        except TaskQueueError as error:
            if isinstance(error, InvalidTask) and len(items) > 1:
                # Too large a body for this server, as none of its items may be.
                middle = len(items) // 2
                first = yield from self._submit_chunk(items[:middle])
                return first + (yield from self._submit_chunk(items[middle:]))
            return [Refused(error)] * len(items)
        return [_verdict(result) for result in results]

    # --- asking -----------------------------------------------------------------------------

    def get(self, task_id: str) -> Steps[Task]:
        return (yield from self._get(task_id))

    def _get(self, task_id: str, *, wait: float = 0.0, retries: int | None = None) -> Steps[Task]:
        path = f"/tasks/{_in_path(task_id)}"
        params = {"wait": f"{wait:.3f}"} if wait else None
        response = yield from self._ask("GET", path, params=params, wait=wait, retries=retries)
        return _decode(response, Task)

    def wait(self, task_id: str, *, timeout: Seconds) -> Steps[Task]:
        return (yield from self.wait_for_end(task_id, to_seconds(timeout, name="timeout")))

    def wait_for_end(self, task_id: str, timeout: float, *, patient: bool = False) -> Steps[Task]:
        """The task once it is terminal, or as it is after `timeout` seconds, which may be infinite.

        Args:
            patient: the task is known to be there, so trouble at the first look is waited out too.
        """
        deadline = self._now() + timeout
        patience, seen, pause = Patience(self._now), patient, _PAUSE
        while True:
            began = self._now()
            left = deadline - began
            asked = max(0.0, min(left, _LONGEST_POLL))
            try:
                # Once it is known to be there, patience takes the place of a bounded number.
                retries = 0 if seen else None
                task = yield from self._get(task_id, wait=asked, retries=retries)
            except BackendUnavailable as error:
                if not seen or left <= 0:
                    raise
                if not patience.tried:
                    logger.warning("waiting for task %s: %s; trying again", task_id, error)
                next_look = self._now() + patience.pause(error)
            else:
                patience.over()
                seen = True
                if task.status.is_terminal or self._now() >= deadline:
                    return task
                # Where the server did not wait, the client does: it goes away, or has too many
                # that wait, which is no reason to ask it the more often.
                next_look = began + min(pause, asked)
                waited = self._now() >= next_look
                pause = _PAUSE if waited else min(_LONGEST_PAUSE, 2 * pause)
            now = self._now()
            if (until := min(deadline, next_look)) > now:
                yield Pause(until - now)

    def result_converter(self, task_type: str) -> Converter | None:
        return None if self._tasks is None else self._tasks.result_converter(task_type)

    def list_tasks(self, query: ListQuery) -> Steps[TaskPage]:
        params = {"limit": str(query.limit)}
        params |= {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in query.members().items()
        }
        if query.cursor is not None:
            params["cursor"] = query.cursor
        return _decode((yield from self._ask("GET", "/tasks", params=params)), TaskPage)

    def history(self, task_id: str) -> Steps[AttemptHistory]:
        path = f"/tasks/{_in_path(task_id)}/attempts"
        return _decode((yield from self._ask("GET", path)), AttemptHistory)

    def events(self, task_id: str | None, **which: str | None) -> EventReading:
        path = "/events" if task_id is None else f"/tasks/{_in_path(task_id)}/events"
        return EventReading(path, which, self._timeout, self._retries, self._now)

    # --- changing ---------------------------------------------------------------------------

    def cancel(self, task_id: str) -> Steps[Task]:
        path = f"/tasks/{_in_path(task_id)}"
        try:
            return _decode((yield from self._ask("DELETE", path)), Task)
        except WrongState as error:
            if error.__cause__ is None or error.status is not TaskStatus.CANCELLED:
                raise
        # An earlier send has cancelled it, and its answer was lost.
        return (yield from self.get(task_id))

    def retry(self, task_id: str) -> Steps[Task]:
        path = f"/tasks/{_in_path(task_id)}/retry"
        try:
            return _decode((yield from self._ask("POST", path, may_repeat=False)), Task)
        except WrongState as error:
            if error.__cause__ is None or error.status.is_terminal:
                raise
        # An earlier send has begun a new round, and the server got into trouble after that.
        return (yield from self.get(task_id))

    # --- dead letters -----------------------------------------------------------------------

    def list_dead(self, *, limit: int, cursor: str | None) -> Steps[DeadLetterPage]:
        params = {"limit": str(limit)}
        if cursor is not None:
            params["cursor"] = cursor
        response = yield from self._ask("GET", "/dead-letters", params=params)
        return _decode(response, DeadLetterListRead).page()

    def redrive(self, ids: Sequence[str] | None) -> Steps[RedriveReport]:
        bodies: list[dict[str, Any]] = [{"all": True}]
        if ids is not None:
            bodies = [{"ids": ids[i : i + MAX_BATCH]} for i in range(0, len(ids), MAX_BATCH)]
        reports: list[RedriveReport] = []
        for body in bodies:
            reports += yield from self._redrive(body)
        return RedriveReport(
            redriven=sum(report.redriven for report in reports),
            skipped=sum(report.skipped for report in reports),
            refused=sum(report.refused for report in reports),
            not_found=sum(report.not_found for report in reports),
        )

    def _redrive(self, body: dict[str, Any]) -> Steps[list[RedriveReport]]:
        """As many requests as it takes: the server does a bounded piece of it in each."""
        reports: list[RedriveReport] = []
        while True:
            response = yield from self._ask(
                "POST",
                "/dead-letters/redrive",
                content=msgspec.json.encode(body),
                may_repeat=False,
            )
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

    def purge_dead(self) -> Steps[int]:
        response = yield from self._ask("DELETE", "/dead-letters", may_repeat=False)
        return _decode(response, PurgeResult).purged

    # --- looking ----------------------------------------------------------------------------

    def metrics(self) -> Steps[EngineMetrics]:
        return _decode((yield from self._ask("GET", "/metrics")), MetricsRead).metrics()

    def workers(self) -> Steps[WorkerList]:
        return _decode((yield from self._ask("GET", "/workers")), WorkerList)

    # --- inside -----------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        *,
        may_repeat: bool = True,
        retries: int | None = None,
        **parts: Any,
    ) -> Steps[httpx.Response]:
        request = self._request(method, path, **parts)
        retries = self._retries if retries is None else retries
        return (yield from answer_to(request, retries=retries, may_repeat=may_repeat))

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0.0,
    ) -> Request:
        """`wait`: seconds that the server was asked to take besides."""
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        return Request(
            method=method,
            path=path,
            timeout=self._timeout + wait,
            params=params,
            content=content,
            headers=sent,
        )


_Item = tuple[int, bytes, bool]
"""Of a batch: its place in it, its JSON, and whether its idempotency key is one of ours."""


def _key_of(submission: Submission) -> tuple[str, bool]:
    """The idempotency key to send, and whether it is one of ours. Raises InvalidTask."""
    if submission.idempotency_key is None:
        return new_key(), True
    check_key(submission.idempotency_key)
    return submission.idempotency_key, False


def _chunks(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    chunk: list[_Item] = []
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
    return Refused(error_of_problem(result.problem or Problem(), result.status))

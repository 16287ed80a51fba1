"""/tasks: submit, look up, list, cancel, retry."""

from __future__ import annotations

from msgspec.structs import replace
from quart import Quart, Response, request
from quart_schema import (
    document_headers,
    document_querystring,
    document_request,
    document_response,
    tag,
)
from werkzeug.routing import BaseConverter

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import ListQuery
from task_queue_engine.engine.api import Accepted, Refused, Submission, SubmitVerdict
from task_queue_engine.errors import IdempotencyKeyReused, InvalidQuery, TaskQueueError
from task_queue_engine.http import problems
from task_queue_engine.http.app_state import AppState
from task_queue_engine.http.bodies import decode_batch, decode_batch_item, decode_submission, in_utc
from task_queue_engine.http.caps import check_caps
from task_queue_engine.http.principal import Principal, Role
from task_queue_engine.http.problems import ProblemError
from task_queue_engine.http.requests import (
    FILTERS,
    Query,
    canonical_id,
    idempotency_key,
    read_json,
    trace_context,
)
from task_queue_engine.http.responses import respond
from task_queue_engine.http.schemas import (
    BatchItem,
    BatchResult,
    BatchResults,
    BatchSubmission,
    ListParameters,
    SubmissionHeaders,
    TaskList,
    TaskSubmission,
    WaitParameters,
)
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.trace_context import TraceContext

TAG = "tasks"


class _TaskId(BaseConverter):
    """Whatever is asked for as a task, but for what has a route of its own: else the methods of
    both would be answered, and listed, for either."""

    regex = "(?!(?:batch|actions)$)[^/]+"


class TaskRoutes:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._engine = state.engine
        self._types = state.types

    def register(self, app: Quart) -> None:
        app.add_url_rule("/tasks", "submit_task", self.submit_task, methods=["POST"])
        app.add_url_rule("/tasks/batch", "submit_batch", self.submit_batch, methods=["POST"])
        app.add_url_rule("/tasks", "list_tasks", self.list_tasks, methods=["GET"])
        app.url_map.converters["task_id"] = _TaskId
        one = "/tasks/<task_id:task_id>"
        app.add_url_rule(one, "get_task", self.get_task, methods=["GET"])
        app.add_url_rule(one, "cancel_task", self.cancel_task, methods=["DELETE"])
        app.add_url_rule(f"{one}/attempts", "get_attempts", self.get_attempts, methods=["GET"])
        app.add_url_rule(f"{one}/retry", "retry_task", self.retry_task, methods=["POST"])

    def _check_caps(self, submission: TaskSubmission) -> None:
        check_caps(submission, self._engine.registry, self._state.settings)

    @tag([TAG])
    @document_headers(SubmissionHeaders)
    @document_request(TaskSubmission)
    @document_response(Task, 201)
    async def submit_task(self) -> Response:
        """Submit one task.

        201 means that the task is stored and will run; `Location` is where to look it up.
        """
        body = await read_json(request)
        key, trace = idempotency_key(request.headers), trace_context(request.headers)
        submission = decode_submission(body)
        asker = self._state.asker
        principal = asker.principal
        if principal.types is not None:
            self._types.check(principal, submission.type)
        self._check_caps(submission)
        with self._state.request_deadline():
            try:
                accepted = await self._engine.submit_task(_to_engine(submission, key, trace))
            except IdempotencyKeyReused as error:
                raise _seen_by(principal, error) from None
        if asker.change is not None:
            asker.note(task_ids=(accepted.task.id,), task_types=(accepted.task.type,))
        return respond(
            accepted.task if accepted.created else _shown(principal, accepted),
            201,
            Location=f"/tasks/{accepted.task.id}",
            Idempotent_Replayed=None if accepted.created else "true",
        )

    @tag([TAG])
    @document_request(BatchSubmission)
    @document_response(BatchResults, 201)
    @document_response(BatchResults, 207)
    async def submit_batch(self) -> Response:
        """Submit up to 1000 tasks.

        Each item is taken or refused by itself. 201: all were taken; 207: at least one was
        refused, see its `problem`. Idempotency keys are members of the items here.
        """
        body = await read_json(request)
        if "Idempotency-Key" in request.headers:
            raise InvalidQuery(
                "is for single submissions; give each item its own idempotency_key",
                field="Idempotency-Key",
            )
        asker = self._state.asker
        principal = asker.principal
        trace = trace_context(request.headers)
        verdicts: list[SubmitVerdict | ProblemError | None] = []
        submissions: list[Submission] = []
        for raw in decode_batch(body):
            try:
                item = decode_batch_item(raw)
                if principal.types is not None:
                    self._types.check(principal, item.type)
                self._check_caps(item)
            except ProblemError as error:
                verdicts.append(error)
            except TaskQueueError as error:
                verdicts.append(Refused(error))
            else:
                verdicts.append(None)
                submissions.append(_to_engine(item, item.idempotency_key, trace))
        if submissions:
            with self._state.request_deadline():
                answers = iter(await self._engine.submit_many(submissions))
            verdicts = [next(answers) if verdict is None else verdict for verdict in verdicts]
        results = [_batch_result(principal, verdict) for verdict in verdicts if verdict is not None]
        tasks = [result.task for result in results if result.task is not None]
        accepted = len(tasks)
        refused = len(results) - accepted
        asker.note(
            task_ids=(task.id for task in tasks),
            task_types=(task.type for task in tasks),
            accepted=accepted,
            refused=refused,
        )
        return respond(
            BatchResults(accepted=accepted, refused=refused, results=results),
            207 if refused else 201,
        )

    @tag([TAG])
    @document_querystring(ListParameters)
    @document_response(TaskList)
    async def list_tasks(self) -> Response:
        """List tasks, newest first.

        A key that is for one task type lists that; one that is for some has to say which.
        """
        query = Query(request, (*FILTERS, "limit", "cursor"))
        which = self._types.narrow(self._state.asker.principal, query.task_filter())
        wanted = ListQuery(**which.members(), limit=query.limit(), cursor=query.cursor())
        with self._state.request_deadline():
            page = await self._engine.list_tasks(wanted)
        return respond(TaskList(tasks=page.tasks, next_cursor=page.next_cursor))

    @tag([TAG])
    @document_querystring(WaitParameters)
    @document_response(Task)
    async def get_task(self, task_id: str) -> Response:
        """Look a task up, or wait for its end."""
        wanted = canonical_id(task_id)
        wait = Query(request, ("wait",)).wait()
        with self._state.request_deadline(extra=wait):
            if self._state.is_guarded:
                await self._check_type_of(wanted)
            if wait > 0:
                with self._state.waiting.one(request.scope):
                    return respond(await self._engine.wait(wanted, timeout=wait))
            # Reached without a wait, and where one was cut short: the server goes away, or too
            # many wait already. A client that asks again at once would not be helped.
            again = "1" if wait > 0 else None
            return respond(await self._engine.get(wanted), Retry_After=again)

    @tag([TAG])
    @document_response(AttemptHistory)
    async def get_attempts(self, task_id: str) -> Response:
        """Look a task's attempts up, oldest first.

        Each has its outcome, its error and the last lines that its handler logged.
        """
        wanted = canonical_id(task_id)
        with self._state.request_deadline():
            if self._state.is_guarded:
                await self._check_type_of(wanted)
            return respond(await self._engine.history(wanted))

    @tag([TAG])
    @document_response(Task)
    @document_response(Task, 202)
    async def cancel_task(self, task_id: str) -> Response:
        """Cancel a task.

        200: it had not started and never will. 202: it is running and is being stopped.
        409: it had already ended.
        """
        wanted, asker = canonical_id(task_id), self._state.asker
        asker.note(task_ids=(wanted,))
        with self._state.request_deadline():
            if self._state.is_guarded:
                await self._check_type_of(wanted)
            task = await self._engine.cancel(wanted)
        asker.note(task_types=(task.type,))
        return respond(task, 200 if task.status is TaskStatus.CANCELLED else 202)

    @tag([TAG])
    @document_response(Task)
    async def retry_task(self, task_id: str) -> Response:
        """Run a failed or cancelled task again, as a new round."""
        wanted, asker = canonical_id(task_id), self._state.asker
        asker.note(task_ids=(wanted,))
        with self._state.request_deadline():
            if self._state.is_guarded:
                await self._check_type_of(wanted)
            task = await self._engine.retry(wanted)
        asker.note(task_types=(task.type,))
        return respond(task)

    async def _check_type_of(self, task_id: str) -> None:
        """Raises ProblemError (403) for a key that is not for tasks of its type, which never
        changes."""
        principal = self._state.asker.principal
        if principal.types is not None:
            self._types.check_task(principal, await self._engine.get(task_id))


def _to_engine(
    submission: TaskSubmission | BatchItem, key: str | None, trace: TraceContext | None
) -> Submission:
    return Submission(
        task=submission.type,
        payload=submission.payload,
        delay=submission.delay_seconds,
        run_at=None if submission.run_at is None else in_utc(submission.run_at),
        max_attempts=submission.max_attempts,
        timeout=submission.timeout_seconds,
        idempotency_key=key,
        trace_context=trace,
    )


def _batch_result(principal: Principal, verdict: SubmitVerdict | ProblemError) -> BatchResult:
    if isinstance(verdict, Accepted):
        task = _shown(principal, verdict)
        return BatchResult(status=201, task=task, replayed=not verdict.created)
    error = verdict if isinstance(verdict, ProblemError) else verdict.error
    if isinstance(error, IdempotencyKeyReused):
        error = _seen_by(principal, error)
    problem, _ = problems.of_error(error)
    return BatchResult(status=problem.status, problem=problem)


def _shown(principal: Principal, accepted: Accepted) -> Task:
    """The task, as its submitter may see it: to submit again with the same idempotency key is no
    way to read what has come of it."""
    if accepted.created or principal.may(Role.READ):
        return accepted.task
    return replace(accepted.task, result=None, error=None, progress=None)


def _seen_by(
    principal: Principal, error: IdempotencyKeyReused
) -> ProblemError | IdempotencyKeyReused:
    """Without the task's id for a key that is for some types: the task may be of another one."""
    if principal.types is None:
        return error
    return ProblemError(
        "idempotency-key-reused", "this idempotency key was already used for another submission"
    )

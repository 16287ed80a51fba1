"""Every error the API answers with, as RFC 9457 `application/problem+json`.

`error` repeats the message under the name that clients of the Go service look for. `type` is a path
below the server's own documentation page, where each problem is explained: clients may follow it,
or just compare it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
import trio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from task_queue_engine.errors import (
    BackendRefused,
    BackendUnavailable,
    EngineNotRunning,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidQuery,
    InvalidTask,
    MessageRefused,
    PayloadTooLarge,
    TaskNotFound,
    TaskQueueError,
    UnknownTaskType,
    WrongState,
)
from task_queue_engine.task import TaskStatus

CONTENT_TYPE = "application/problem+json"
DOCS_PATH = "/docs"
NO_SUCH_PATH = "there is nothing at this path; /docs says what there is"
ONLY_MONITORING = (
    "this is the port of a worker, which has /health, /ready, /metrics and /scale alone; the API "
    "for tasks is where tqe serve or tqe api runs"
)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem: what stays the same from one occurrence to the next."""

    slug: str
    status: int
    title: str
    meaning: str
    """For the documentation page."""


_PROBLEM_TYPES = (
    ProblemType("bad-request", 400, "Bad request", "The request itself is malformed."),
    ProblemType(
        "invalid-query",
        400,
        "Invalid query",
        "A query parameter or header has a value that cannot be used; `field` names it.",
    ),
    ProblemType(
        "unauthorized",
        401,
        "No valid API key",
        "Send `Authorization: Bearer KEY` with one of the server's keys.",
    ),
    ProblemType(
        "forbidden",
        403,
        "Not allowed from there",
        "A server without API keys answers no requests that a web page of another site makes.",
    ),
    ProblemType(
        "missing-role",
        403,
        "The key lacks a role",
        "The API key is known, and may not do this: `missing_role` names the role that it would "
        "need.",
    ),
    ProblemType(
        "type-not-allowed",
        403,
        "Not with this key",
        "The API key is for some task types only, and this concerns others.",
    ),
    ProblemType("not-found", 404, "Not found", "There is nothing at this path."),
    ProblemType("task-not-found", 404, "No such task", "No task has this id, or it has expired."),
    ProblemType(
        "method-not-allowed", 405, "Method not allowed", "The header `Allow` says which are."
    ),
    ProblemType(
        "request-timeout",
        408,
        "Request too slow",
        "The request did not arrive completely in time. Nothing was stored.",
    ),
    ProblemType(
        "wrong-state",
        409,
        "Not in this state",
        "What was asked for does not apply to a task in its present status.",
    ),
    ProblemType(
        "idempotency-key-in-flight",
        409,
        "Still in flight",
        "A submission with this idempotency key has not been answered yet. Repeat it later.",
    ),
    ProblemType(
        "too-large",
        413,
        "Too large",
        "The body, or a payload in it, is over the limit. Nothing was stored.",
    ),
    ProblemType(
        "unsupported-media-type",
        415,
        "Not JSON",
        "Bodies are `Content-Type: application/json`, in UTF-8, without a content coding.",
    ),
    ProblemType(
        "misdirected-request",
        421,
        "Not this host",
        "A server without API keys answers only requests that call it by a loopback name.",
    ),
    ProblemType(
        "invalid-task",
        422,
        "Invalid task",
        "A member is missing, unknown or has a value that cannot be used; `field` names it. "
        "Nothing was stored.",
    ),
    ProblemType(
        "unknown-task-type",
        422,
        "Unknown task type",
        "No handler is registered under this type. Nothing was stored.",
    ),
    ProblemType(
        "idempotency-key-reused",
        422,
        "Idempotency key reused",
        "The key belongs to a task of another type, payload or queue, or with another max_attempts "
        "or timeout_seconds than this request names. Nothing was stored.",
    ),
    ProblemType(
        "message-refused",
        422,
        "Refused by the queue",
        "The queue will never take the task's message; `detail` says why. The task is stored, "
        "FAILED.",
    ),
    ProblemType(
        "too-many-requests",
        429,
        "Too many requests",
        "The key or the address has made more requests than it may; `Retry-After` says when to try "
        "again. Nothing was stored.",
    ),
    ProblemType(
        "header-too-large", 431, "Header too large", "The request's head is over the limit."
    ),
    ProblemType("internal-error", 500, "Internal error", "A defect; the server's log says more."),
    ProblemType(
        "not-implemented", 501, "Not implemented", "The server cannot do what was asked for."
    ),
    ProblemType(
        "unavailable",
        503,
        "Unavailable",
        "The store, the queue or the engine cannot serve this now; `Retry-After` says when to try "
        "again. A submission may or may not have been stored: repeat it with the same "
        "Idempotency-Key.",
    ),
    ProblemType(
        "not-ready", 503, "Not ready", "The service is not fit to serve; `reasons` say why."
    ),
)

PROBLEM_TYPES = {kind.slug: kind for kind in _PROBLEM_TYPES}
_BY_STATUS = {kind.status: kind.slug for kind in reversed(_PROBLEM_TYPES)}


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, in the members of RFC 9457 and a few more."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    """The same text as `detail`."""
    field: str | None = None
    """The member, parameter or header to mend."""
    missing_role: str | None = None
    """What the key's owner would have to be given: submit, read, operate or admin."""
    task_id: str | None = None
    task_status: TaskStatus | None = None
    """The task's status, where that is the obstacle."""
    task_type: str | None = None
    known_types: tuple[str, ...] | None = None
    """The types there are, where `task_type` is none of them."""
    size: int | None = None
    """In bytes, where it is over the `limit`."""
    limit: int | None = None
    reasons: tuple[str, ...] = ()
    request_id: str | None = None


class ProblemError(Exception):
    """A problem found by the HTTP layer itself; `slug` is one of PROBLEM_TYPES."""

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        field: str | None = None,
        headers: Headers = (),
        missing_role: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.detail = detail
        self.field = field
        self.headers = headers
        self.missing_role = missing_role


_encoder = msgspec.json.Encoder()


def encode(problem: Problem) -> bytes:
    return _encoder.encode(problem)


def make(slug: str, detail: str, **members: Any) -> Problem:
    kind = PROBLEM_TYPES[slug]
    return Problem(
        type=f"{DOCS_PATH}#{slug}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        error=detail,
        **members,
    )


def of_status(status: int, detail: str) -> Problem:
    """For errors that only come as a status code, from the protocol or the framework."""
    slug = _BY_STATUS.get(status)
    if slug is not None:
        return make(slug, detail)
    return Problem(
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        error=detail,
    )


def of_error(error: Exception) -> tuple[Problem, Headers]:
    """The problem for an exception, and the headers that go with it.

    Anything unknown is an internal error, whose text is kept from the client.
    """
    match error:
        case ProblemError():
            problem = make(
                error.slug, error.detail, field=error.field, missing_role=error.missing_role
            )
            return problem, error.headers
        case HTTPException():
            return _of_http_exception(error)
        case TaskQueueError():
            return _of_engine_error(error)
        case trio.TooSlowError():
            return make(
                "unavailable",
                "the engine did not answer in time; whether anything was stored is not known",
            ), (("Retry-After", "1"),)
        case _:
            return make(
                "internal-error", "something went wrong on the server; its log says more"
            ), ()


def _of_engine_error(error: TaskQueueError) -> tuple[Problem, Headers]:
    headers: Headers = ()
    match error:
        case PayloadTooLarge():
            problem = make(
                "too-large", str(error), field=error.field, size=error.size, limit=error.limit
            )
        case UnknownTaskType():
            problem = make(
                "unknown-task-type",
                str(error),
                field=error.field,
                task_type=error.name,
                known_types=error.known,
            )
        case InvalidTask(field="body"):
            problem = make("bad-request", str(error), field="body")
        case InvalidTask():
            problem = make("invalid-task", str(error), field=error.field)
        case InvalidQuery():
            problem = make("invalid-query", str(error), field=error.field)
        case IdempotencyKeyReused():
            problem = make(
                "idempotency-key-reused", str(error), field="Idempotency-Key", task_id=error.task_id
            )
        case IdempotencyKeyInFlight():
            problem = make("idempotency-key-in-flight", str(error), field="Idempotency-Key")
            headers = (("Retry-After", "1"),)
        case MessageRefused():
            problem = make("message-refused", str(error), task_id=error.task_id)
        case TaskNotFound():
            problem = make("task-not-found", str(error), task_id=error.task_id)
        case WrongState():
            problem = make(
                "wrong-state", str(error), task_id=error.task_id, task_status=error.status
            )
        case BackendUnavailable():
            problem = make("unavailable", str(error))
            headers = (("Retry-After", str(max(1, math.ceil(error.retry_after)))),)
        case EngineNotRunning():
            problem = make("unavailable", str(error))
            headers = (("Retry-After", "5"),)
        case BackendRefused():
            problem = make(
                "internal-error", "the backend cannot be used; the server's log says why"
            )
        case _:
            problem = make(
                "internal-error", "something went wrong on the server; its log says more"
            )
    return problem, headers


def _of_http_exception(error: HTTPException) -> tuple[Problem, Headers]:
    status = error.code or 500
    headers: Headers = ()
    detail = (error.description or HTTPStatus(status).phrase).strip()
    if status == 404:
        detail = NO_SUCH_PATH
    elif status == 413:
        detail = "the body is over the limit"
    elif isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        detail = f"this path takes {allowed}"
        headers = (("Allow", allowed),)
    return of_status(status, detail), headers


def with_request_id(problem: Problem, request_id: str) -> Problem:
    """For errors whose cause is only in the log: what to look for there."""
    return msgspec.structs.replace(problem, request_id=request_id)

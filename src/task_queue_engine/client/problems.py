"""A server's problem (RFC 9457) becomes the error it was made of.

All members are optional in the RFC, and what stands between us and the server (a proxy, a load
balancer, another service) answers with problems of its own or with none: whatever is missing, some
error of ours comes out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx
import msgspec

from task_queue_engine.errors import (
    ApiError,
    BackendUnavailable,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidQuery,
    InvalidTask,
    MessageRefused,
    PayloadTooLarge,
    Problem,
    TaskNotFound,
    TaskQueueError,
    UnknownTaskType,
    WrongState,
)
from task_queue_engine.task import TaskStatus

# Seconds, where the server names none: as BackendUnavailable has it.
_DEFAULT_RETRY_AFTER = 1.0
# Transient errors, of the server or of a proxy before it: RFC 6585 (429) and RFC 9110 (the others).
_TRY_AGAIN = frozenset({429, 502, 503, 504})
# Characters of a Location in a message of one line.
_MAX_QUOTED = 200


_decoder = msgspec.json.Decoder(Problem)


def error_of_response(response: httpx.Response) -> TaskQueueError:
    """The error for a response that is not a success."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type == "application/problem+json":
        try:
            problem = _decoder.decode(response.content)
        except msgspec.DecodeError:
            pass
        else:
            retry_after = _retry_after(response)
            return error_of_problem(problem, response.status_code, retry_after=retry_after)
    error = _error_of_status(response)
    error.problem = Problem(status=response.status_code, title=_phrase(response.status_code))
    return error


def error_of_problem(
    problem: Problem, status: int, *, retry_after: float = _DEFAULT_RETRY_AFTER
) -> TaskQueueError:
    """The error for a problem that came with this HTTP status, which is `error.problem` then."""
    error = _error_of_problem(problem, status, retry_after)
    error.problem = msgspec.structs.replace(problem, status=status)
    return error


def _error_of_problem(problem: Problem, status: int, retry_after: float) -> TaskQueueError:
    detail = problem.detail or f"the server answered {_spell(status)}"
    field = problem.field
    match problem:
        case Problem(kind="invalid-query", field=str(field)):
            return InvalidQuery(detail.removeprefix(f"{field}: "), field=field)
        case Problem(
            kind="unknown-task-type", task_type=str(name), known_types=tuple(known), field="type"
        ):
            return UnknownTaskType(name, known)
        case Problem(kind="too-large", size=int(size), limit=int(limit), field=str(field)):
            return PayloadTooLarge(size, limit, field=field)
        case Problem(kind="idempotency-key-reused", task_id=str(task_id)):
            return IdempotencyKeyReused(task_id)
        case Problem(kind="idempotency-key-in-flight"):
            return IdempotencyKeyInFlight()
        case Problem(kind="message-refused", task_id=str(task_id)):
            return MessageRefused(task_id, detail.partition("for good: ")[2] or detail)
        case Problem(kind="task-not-found", task_id=str(task_id)):
            return TaskNotFound(task_id)
        case Problem(kind="wrong-state", task_id=str(task_id), task_status=TaskStatus() as was):
            return WrongState(task_id, was, detail.removeprefix(f"task {task_id} is {was}: "))
    if status in (413, 422) or (status == 400 and field is not None):
        field = field or "body"
        return InvalidTask(detail.removeprefix(f"{field}: "), field=field)
    if status in _TRY_AGAIN:
        return BackendUnavailable(detail, retry_after=retry_after)
    return ApiError(detail, status=status, kind=problem.kind)


def _error_of_status(response: httpx.Response) -> TaskQueueError:
    status = response.status_code
    said = f"{response.url.copy_with(userinfo=b'')} answered {_spell(status)}"
    if status in _TRY_AGAIN:
        return BackendUnavailable(said, retry_after=_retry_after(response))
    if response.has_redirect_location:
        target = response.headers["Location"][:_MAX_QUOTED]
        return ApiError(f"{said}, to {target!r}: redirects are not followed", status=status)
    return ApiError(f"{said}: is a Task Queue Engine server there?", status=status)


def _spell(status: int) -> str:
    return f"{status} {_phrase(status)}".rstrip()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _retry_after(response: httpx.Response) -> float:
    """Seconds: our server says them, a proxy may name a time of day (RFC 9110, 10.2.3)."""
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return _DEFAULT_RETRY_AFTER
    if then.tzinfo is None:  # "-0000": UTC, whoever says it
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())

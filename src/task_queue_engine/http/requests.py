"""Reading what a request says outside its JSON: content type, idempotency key, query."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import cast

from quart import Request
from werkzeug.datastructures import Headers

from task_queue_engine.errors import InvalidQuery, TaskNotFound
from task_queue_engine.http.bodies import KEY_RULE, is_key
from task_queue_engine.http.exchange import ApiRequest
from task_queue_engine.http.problems import ProblemError
from task_queue_engine.limits import DEFAULT_PAGE, MAX_PAGE, MAX_WAIT
from task_queue_engine.task import TaskStatus, is_task_id
from task_queue_engine.task_filter import MAX_NAME, TaskFilter
from task_queue_engine.trace_context import TraceContext, parse

MAX_CURSOR_LENGTH = 4096
"""Characters: a bound on what is decoded, far above any cursor that is given out."""

FILTERS = tuple(field.name for field in fields(TaskFilter))
"""Parameters that say which tasks are meant."""

_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


async def read_json(request: Request) -> bytes:
    """The body, still encoded. Raises ProblemError (415) unless it is declared to be JSON."""
    headers = request.headers
    if headers.get("Content-Type") != "application/json":  # else there is nothing to parse
        _check_media_type(request)
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ProblemError(
            "unsupported-media-type",
            "a content coding (compression) is not supported",
            field="Content-Encoding",
        )
    return await cast("ApiRequest", request).read()  # the app's own request class


def _check_media_type(request: Request) -> None:
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if request.mimetype != "application/json" or charset not in ("utf-8", "utf8", "us-ascii"):
        raise ProblemError(
            "unsupported-media-type",
            "send the body as Content-Type: application/json, in UTF-8",
            field="Content-Type",
            headers=(("Accept-Post", "application/json"),),
        )


def idempotency_key(headers: Headers) -> str | None:
    """The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): a quoted string
    as the draft has it, or the bare text most clients send. Raises InvalidQuery."""
    given = headers.getlist("Idempotency-Key")
    if not given:
        return None
    if len(given) > 1:
        raise InvalidQuery("is given more than once", field="Idempotency-Key")
    key = given[0].strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = re.sub(r'\\(["\\])', r"\1", key[1:-1])
    if not is_key(key):
        raise InvalidQuery(KEY_RULE, field="Idempotency-Key")
    return key


def trace_context(headers: Headers) -> TraceContext | None:
    """The `traceparent` and `tracestate` headers (W3C Trace Context). What is none is left out: a
    trace is never a reason to refuse a task."""
    given = headers.getlist("traceparent")
    return parse(given, headers.getlist("tracestate")) if given else None


def canonical_id(text: str) -> str:
    """The id in a path, in its canonical spelling. Raises TaskNotFound for what cannot be one."""
    canonical = text.lower()
    if not is_task_id(canonical):
        raise TaskNotFound(text[:100])
    return canonical


class Query:
    """The query of a request: every parameter known, none given twice.

    Raises InvalidQuery. A misspelt `stauts=FAILED` must not list everything.
    """

    def __init__(self, request: Request, known: Collection[str]) -> None:
        self._values: dict[str, str] = {}
        if not request.query_string:
            return
        for name, values in request.args.lists():
            if name not in known:
                allowed = ", ".join(known) or "none"
                raise InvalidQuery(f"is not a parameter; known: {allowed}", field=name[:100])
            self._values[name] = _only(name, values)

    def task_filter(self) -> TaskFilter:
        """By the parameters in FILTERS."""
        return TaskFilter(
            status=self.status(),
            type=self.type(),
            queue=self.queue(),
            created_after=self._moment("created_after"),
            created_before=self._moment("created_before"),
            id=self._lower("id"),
            error=self._values.get("error"),
        )

    def _lower(self, name: str) -> str | None:
        text = self._values.get(name)
        return None if text is None else text.lower()

    def _moment(self, name: str) -> datetime | None:
        text = self._values.get(name)
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        raise InvalidQuery(
            "must be a time with a zone, e.g. 2030-01-01T12:00:00Z (a + is spelled %2B)",
            field=name,
        )

    def status(self) -> TaskStatus | None:
        text = self._values.get("status")
        if text is None:
            return None
        try:
            return TaskStatus(text.upper())
        except ValueError:
            raise InvalidQuery(f"must be one of {', '.join(TaskStatus)}", field="status") from None

    def type(self) -> str | None:
        text = self._values.get("type")
        if text is not None and not 1 <= len(text) <= MAX_NAME:
            raise InvalidQuery("must be the name of a task type", field="type")
        return text

    def queue(self) -> str | None:
        text = self._values.get("queue")
        if text is not None and not 1 <= len(text) <= MAX_NAME:
            raise InvalidQuery("must be the name of a queue", field="queue")
        return text

    def limit(self, default: int = DEFAULT_PAGE) -> int:
        text = self._values.get("limit")
        if text is None:
            return default
        if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_PAGE:
            raise InvalidQuery(f"must be a number from 1 to {MAX_PAGE}", field="limit")
        return int(text)

    def cursor(self) -> str | None:
        text = self._values.get("cursor")
        if text is not None and not 1 <= len(text) <= MAX_CURSOR_LENGTH:
            raise InvalidQuery("must be the next_cursor of an earlier page", field="cursor")
        return text

    def wait(self) -> float:
        """Seconds; 0 without one."""
        text = self._values.get("wait")
        if text is None:
            return 0.0
        if not _NUMBER.fullmatch(text) or float(text) > MAX_WAIT:
            raise InvalidQuery(f"must be 0 to {MAX_WAIT} seconds", field="wait")
        return float(text)


def _only(name: str, values: Sequence[str]) -> str:
    if len(values) > 1:
        raise InvalidQuery("is given more than once", field=name[:100])
    return values[0]

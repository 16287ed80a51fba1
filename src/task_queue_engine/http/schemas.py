"""What requests and responses hold, as msgspec Structs: one description for decoding, for
encoding and for the OpenAPI document. Answers that the client shares are in `engine/views.py`.

Unknown members are refused. A misspelt `delay_second` that was quietly ignored would run the task
at once, and the client would not know.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from task_queue_engine.http.problems import Problem
from task_queue_engine.limits import (
    DEFAULT_PAGE,
    MAX_ATTEMPTS,
    MAX_BATCH,
    MAX_KEY_LENGTH,
    MAX_PAGE,
    MAX_TIMEOUT,
    MAX_WAIT,
)
from task_queue_engine.retry import MAX_SECONDS
from task_queue_engine.task import Task, TaskStatus
from task_queue_engine.task_filter import MAX_ERROR_TEXT

# --- requests -------------------------------------------------------------------------------


class TaskSubmission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task to be run."""

    type: Annotated[
        str, Meta(min_length=1, description="Which handler runs it, by its registered name.")
    ]
    # Undecoded: the engine decodes it, once. A copy here would cost as much again.
    payload: Annotated[
        msgspec.Raw,
        Meta(
            description="What the handler is given: any JSON but `null` and the empty string.",
            examples=["user@example.com", {"to": "user@example.com", "subject": "Hello"}],
        ),
    ]
    delay_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=MAX_SECONDS)] | None,
        Meta(description="Do not start before so many seconds from now. Not with `run_at`."),
    ] = None
    run_at: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Do not start before this time: RFC 3339 with a zone."),
    ] = None
    max_attempts: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)] | None,
        Meta(
            description="Attempts in all, the first included; else the type's own number, which is "
            "also the most unless the server allows more."
        ),
    ] = None
    timeout_seconds: Annotated[
        Annotated[float, Meta(gt=0, le=MAX_TIMEOUT)] | None,
        Meta(
            description="What one attempt may take; else the type's own, which is also the most "
            "unless the server allows more."
        ),
    ] = None


class BatchItem(TaskSubmission, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task of a batch, with an idempotency key of its own."""

    idempotency_key: Annotated[
        str | None,
        Meta(
            description=f"1 to {MAX_KEY_LENGTH} printable ASCII characters. Submitted again with "
            "the same key, type and payload the item creates no second task; with another type, "
            "payload, queue, max_attempts or timeout_seconds it is refused (422)."
        ),
    ] = None


class BatchSubmission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many tasks at once. Each is taken or refused by itself."""

    tasks: Annotated[list[BatchItem], Meta(min_length=1, max_length=MAX_BATCH)]


class RawBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch with its items still undecoded: a bad one must not spoil the others."""

    tasks: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_BATCH)]


class RedriveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to put back to work: either `ids` or `"all": true`."""

    ids: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=4096)]],
            Meta(min_length=1, max_length=MAX_BATCH),
        ]
        | None
    ) = None
    all: bool = False
    limit: Annotated[int, Meta(ge=1)] | None = None
    """Of all, so many at most."""


class ListParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Query of GET /tasks."""

    status: Annotated[TaskStatus | None, Meta(description="Only tasks in this status.")] = None
    type: Annotated[str | None, Meta(description="Only tasks of this type.")] = None
    queue: Annotated[str | None, Meta(description="Only tasks of this queue.")] = None
    created_after: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Only tasks created at this time or later."),
    ] = None
    created_before: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Only tasks created before this time."),
    ] = None
    id: Annotated[
        str | None,
        Meta(
            description="Only the task with this id; or with ids that begin so (not on DynamoDB)."
        ),
    ] = None
    error: Annotated[
        str | None,
        Meta(
            description="Only tasks whose error has this text in its type or message, in upper or "
            f"lower case: 1 to {MAX_ERROR_TEXT} characters."
        ),
    ] = None
    limit: Annotated[
        int, Meta(ge=1, le=MAX_PAGE, description=f"Tasks on a page, 1 to {MAX_PAGE}.")
    ] = DEFAULT_PAGE
    cursor: Annotated[
        str | None, Meta(description="The `next_cursor` of the page before, unchanged.")
    ] = None


class DeadLetterParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Query of GET /dead-letters."""

    limit: Annotated[
        int, Meta(ge=1, le=MAX_PAGE, description=f"Dead letters on a page, 1 to {MAX_PAGE}.")
    ] = DEFAULT_PAGE
    cursor: Annotated[
        str | None, Meta(description="The `next_cursor` of the page before, unchanged.")
    ] = None


class EventParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Query of GET /events."""

    type: Annotated[str | None, Meta(description="Only tasks of this type.")] = None
    queue: Annotated[str | None, Meta(description="Only tasks of this queue.")] = None


class EventHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """Of a request for events."""

    last_event_id: Annotated[
        str | None, Meta(description="The `id` of a message: go on behind it.")
    ] = None


class WaitParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Query of GET /tasks/{task_id}."""

    wait: Annotated[
        float,
        Meta(
            ge=0,
            le=MAX_WAIT,
            description="Answer when the task has ended, or after so many seconds "
            f"(0 to {MAX_WAIT}) with the task as it is. A server that shuts down, or that has too "
            "many clients waiting, answers early, with `Retry-After`.",
        ),
    ] = 0


class SubmissionHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """Headers of POST /tasks."""

    idempotency_key: Annotated[
        str | None,
        Meta(
            description=f"1 to {MAX_KEY_LENGTH} printable ASCII characters, bare or as a quoted "
            "string. Repeated with the same key, type and payload the request creates no second "
            "task: it answers 201 with the first one as it is now, and `Idempotent-Replayed: "
            "true`. Keys are one namespace for all types and queues of a store. With another type, "
            "payload or queue, or another max_attempts or timeout_seconds than the first had, the "
            "request is refused (422); delay_seconds and run_at may differ, the first ones stand."
        ),
    ] = None
    traceparent: Annotated[
        str | None,
        Meta(
            description="W3C Trace Context, with `tracestate` beside it: the span that the task is "
            "submitted in. What is none is ignored."
        ),
    ] = None


# --- responses ------------------------------------------------------------------------------


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of tasks, newest first. Where few tasks pass the filter it is short, or empty, and
    `next_cursor` goes on."""

    tasks: tuple[Task, ...]
    next_cursor: str | None
    """None on the last page."""


class BatchResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one item of the batch: `task` where it was taken, `problem` where not."""

    status: int
    """As the item would have been answered by itself: 201, 422, ..."""
    task: Task | None = None
    replayed: bool = False
    """The item's idempotency key had been used before; `task` is the one of that time."""
    problem: Problem | None = None


class BatchResults(msgspec.Struct, frozen=True, kw_only=True):
    """One result for each item, in order."""

    accepted: int
    refused: int
    results: list[BatchResult]


class RedriveResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many dead letters went back to work. `skipped`: their tasks are gone, running or done, or
    another redrive was faster. `refused`: the queue will never take their messages, they stay.
    `not_found`: there are none with these ids. `remaining`: not reached in the time of one request.
    """

    redriven: int
    skipped: int
    refused: int
    not_found: int
    remaining: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The process is alive and its loop turns."""

    status: str
    timestamp: datetime


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Fit to serve."""

    status: str
    abandoned_threads: int = 0
    """Threads whose `def` handler outlived its attempt; too many of them end the process."""
    notes: tuple[str, ...] | UnsetType = UNSET
    """What an operator should know: task types that this worker gives back, say."""

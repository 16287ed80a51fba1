"""The span of a submission: a producer's, by OpenTelemetry's conventions for messaging
(docs/tracing.md). Its context is stored with the tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from task_queue_engine.engine.api import Accepted, Refused, Submission, SubmitVerdict
from task_queue_engine.trace_context import TraceContext
from task_queue_engine.tracing import Span, Tracing, messaging

# Characters of a type's name that nothing has checked yet.
_LONGEST_TYPE = 128
# More links than that a span has not (the SDK's default), and a reader no use for.
_MAX_LINKS = 128


async def traced(
    tracing: Tracing,
    queue: str,
    submissions: Sequence[Submission],
    submit: Callable[[Sequence[Submission]], Awaitable[list[SubmitVerdict]]],
) -> list[SubmitVerdict]:
    """`submit(submissions)` within one span, of which all attempts of these tasks are children.

    It is a child of the context that the submissions bring, where all bring the same; else of the
    active span, and linked to what they bring.
    """
    brought = dict.fromkeys(one.trace_context for one in submissions)
    given = [context for context in brought if context is not None]
    brought_by_all = len(brought) == len(given) == 1
    span = tracing.start(
        f"submit {queue}",
        "PRODUCER",
        messaging("submit", "send", queue) | _about(submissions),
        parent=given[0] if brought_by_all else None,
        links=() if brought_by_all else [(context, {}) for context in given[:_MAX_LINKS]],
    )
    if span is None:
        return await submit(submissions)
    try:
        verdicts = await submit([replace(one, trace_context=span.context) for one in submissions])
        _note(span, verdicts)
    except Exception as error:
        _fail(span, error)
        raise
    finally:
        span.end()
    return verdicts


def _about(submissions: Sequence[Submission]) -> dict[str, str | int]:
    if len(submissions) != 1:
        return {"messaging.batch.message_count": len(submissions)}
    task = submissions[0].task
    return {"tqe.task.type": task[:_LONGEST_TYPE]} if type(task) is str else {}


def _note(span: Span, verdicts: Sequence[SubmitVerdict]) -> None:
    refused = [verdict.error for verdict in verdicts if isinstance(verdict, Refused)]
    before: list[TraceContext] = []
    for verdict in verdicts:
        if isinstance(verdict, Accepted) and not verdict.created:
            context = verdict.task.trace_context
            if context is not UNSET:
                before.append(context)
    for context in before[:_MAX_LINKS]:
        span.link(context)
    if len(verdicts) == 1 and isinstance(verdicts[0], Accepted):
        task, created = verdicts[0].task, verdicts[0].created
        about = {"messaging.message.id": task.id, "tqe.task.type": task.type}
        span.set(about if created else about | {"tqe.submit.replayed": True})
    elif refused:
        if len(verdicts) > 1:
            span.set({"tqe.submit.refused": len(refused)})
        _fail(span, refused[0])


def _fail(span: Span, error: Exception) -> None:
    kind = type(error)
    span.fail(f"{kind.__module__}.{kind.__qualname__}", str(error))

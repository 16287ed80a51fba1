"""`TQE_REDACT`: what people who look at tasks do not get to see.

It stands between the engine and all that is served, API and pages alike, so that no route can
forget it; handlers and programs that run the engine themselves get what is there. It holds for
every key, `admin` too: most installations have no others, and a person at a screen is one of them.

A member is hidden where it is (`payload.card.number`; through lists too), and its value wherever
the text of an error, a progress, a result or a log line repeats it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec

from task_queue_engine.attempt_record import AttemptHistory
from task_queue_engine.backends.base import DeadLetterPage, ListQuery, TaskPage
from task_queue_engine.engine.api import Accepted, EngineApi, Refused, Submission, SubmitVerdict
from task_queue_engine.errors import (
    BackendUnavailable,
    InvalidQuery,
    InvalidTask,
    PayloadCheckFailed,
    TaskNotFound,
)
from task_queue_engine.http.mask import HIDDEN, WITHHELD, Mask, texts_of
from task_queue_engine.retry import Seconds
from task_queue_engine.task import Task, TaskError
from task_queue_engine.task_actions import ACTION_TYPE, ActionRequest, Matching
from task_queue_engine.task_events import EventStream, LogEvent, ProgressEvent, TaskEvent
from task_queue_engine.task_filter import TaskFilter

# Tasks whose payload a stream of events keeps at hand.
_FOLLOWED = 256
# Values that are looked for in texts; beyond that the texts are withheld whole.
_MOST = 1000

Path = tuple[str, ...]


class Redaction:
    """
    Args:
        paths: "payload.password", "result.token", "progress.user", as `TQE_REDACT` has them.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = [tuple(path.split(".")) for path in paths]

    def task(self, task: Task) -> Task:
        if task.type == ACTION_TYPE:
            return _action(task)
        mask = self._mask_of(task)
        return msgspec.structs.replace(
            task,
            payload=mask.value(self._without("payload", task.payload)),
            result=mask.value(self._without("result", task.result)),
            progress=mask.value(self._without("progress", task.progress)),
            error=mask.error(task.error),
        )

    def history(self, history: AttemptHistory, task: Task) -> AttemptHistory:
        """`task`: whose attempts they are, as the store has it."""
        if task.type == ACTION_TYPE:
            return history
        # What an attempt reported is hidden in its own texts, and in those of all others.
        reported = [one.progress for one in history.attempts]
        mask = self._mask_of(task, reported)
        attempts = tuple(
            msgspec.structs.replace(
                one,
                progress=mask.value(self._without("progress", one.progress)),
                error=mask.error(one.error),
                logs=tuple(
                    msgspec.structs.replace(
                        line, logger=mask.text(line.logger), message=mask.text(line.message)
                    )
                    for line in one.logs
                ),
            )
            for one in history.attempts
        )
        return msgspec.structs.replace(history, attempts=attempts)

    def event(self, event: ProgressEvent | LogEvent, task: Task | None) -> ProgressEvent | LogEvent:
        """`task`: whose event it is; None: it cannot be looked at, so nothing of it is shown."""
        if task is not None and task.type == ACTION_TYPE:
            return event
        if isinstance(event, LogEvent):
            mask = Mask(None) if task is None else self._mask_of(task)
            line = msgspec.structs.replace(
                event.line,
                logger=mask.text(event.line.logger),
                message=mask.text(event.line.message),
            )
            return msgspec.structs.replace(event, line=line)
        if task is None:
            return msgspec.structs.replace(event, progress=HIDDEN)
        mask = self._mask_of(task, [event.progress])
        shown = mask.value(self._without("progress", event.progress))
        return msgspec.structs.replace(event, progress=shown)

    def dead_letters(self, page: DeadLetterPage) -> DeadLetterPage:
        """Their errors without texts: the payload that these may repeat is not at hand."""
        return replace(
            page,
            dead_letters=tuple(
                one
                if one.error is None
                else replace(one, error=TaskError(type=one.error.type, message=WITHHELD))
                for one in page.dead_letters
            ),
        )

    def refusal(self, error: InvalidTask, payload: Any) -> InvalidTask:
        """Of a submission whose checks may repeat what they were given: programs log that."""
        if type(error) not in (InvalidTask, PayloadCheckFailed):
            return error  # these are about the type, or a size
        if isinstance(payload, msgspec.Raw):
            try:
                payload = msgspec.json.decode(payload)
            except (msgspec.DecodeError, RecursionError):
                return error  # no check of the type has seen it
        paths = [path[1:] for path in self._paths if path[0] == "payload"]
        found = (one for path in paths for one in _at(path, payload))
        secrets = {text for one in found for text in texts_of(one)}
        mask = Mask(secrets if len(secrets) <= _MOST else None)
        return type(error)(mask.text(error.reason), field=error.field)

    def _mask_of(self, task: Task, reported: Sequence[Any] = ()) -> Mask:
        """`reported`: progress besides the task's last."""
        secrets: set[str] = set()
        for path in self._paths:
            values = [getattr(task, path[0]), *(reported if path[0] == "progress" else ())]
            for text in (
                text for each in values for found in _at(path[1:], each) for text in texts_of(found)
            ):
                secrets.add(text)
                if len(secrets) > _MOST:
                    return Mask(None)
        return Mask(secrets)

    def _without(self, member: str, value: Any) -> Any:
        for path in self._paths:
            if path[0] == member:
                value = _hide(path[1:], value)
        return value


def _action(task: Task) -> Task:
    """An action on many is the engine's own: which tasks it is for, and how far it is, is needed to
    look at it and to undo it. What a program has searched errors for may be what is hidden."""
    match task.payload:
        case {"filter": {"error": str()} as which}:
            payload = {**task.payload, "filter": {**which, "error": HIDDEN}}
            return msgspec.structs.replace(task, payload=payload)
    return task


def _at(path: Path, value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from _at(path, each)
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _at(path[1:], value[path[0]])


def _hide(path: Path, value: Any) -> Any:
    if not path:
        return None if value is None else HIDDEN
    if isinstance(value, list):
        return [_hide(path, each) for each in value]
    if isinstance(value, dict) and path[0] in value:
        return value | {path[0]: _hide(path[1:], value[path[0]])}
    return value


def redacting(engine: EngineApi, paths: Sequence[str]) -> EngineApi:
    """`engine`, as those see it who ask over HTTP; the engine itself where there is nothing to
    hide."""
    return cast("EngineApi", _Redacting(engine, Redaction(paths))) if paths else engine


_NOTHING_TO_HIDE = frozenset(
    {
        "backend_info",
        "delete",
        "metrics",
        "purge_dead",
        "ready",
        "redrive",
        "registry",
        "samples",
        "scale",
        "workers",
    }
)


class _Redacting:
    """What it does not know it does not pass on: a new method of the engine is thought of here, or
    fails where something is redacted."""

    def __init__(self, engine: EngineApi, redaction: Redaction) -> None:
        self._engine = engine
        self._redaction = redaction

    def __getattr__(self, name: str) -> Any:
        if name not in _NOTHING_TO_HIDE:
            raise AttributeError(f"what {name!r} gives has no redaction")
        return getattr(self._engine, name)

    def _accepted(self, accepted: Accepted) -> Accepted:
        return Accepted(self._redaction.task(accepted.task), created=accepted.created)

    async def submit_task(self, submission: Submission) -> Accepted:
        try:
            return self._accepted(await self._engine.submit_task(submission))
        except InvalidTask as error:
            raise self._redaction.refusal(error, submission.payload) from None

    async def submit_many(self, submissions: Sequence[Submission]) -> list[SubmitVerdict]:
        verdicts = await self._engine.submit_many(submissions)
        return [
            self._accepted(one) if isinstance(one, Accepted) else self._refused(one, submission)
            for one, submission in zip(verdicts, submissions, strict=True)
        ]

    def _refused(self, refused: Refused, submission: Submission) -> Refused:
        if not isinstance(refused.error, InvalidTask):
            return refused
        return Refused(self._redaction.refusal(refused.error, submission.payload))

    async def get(self, task_id: str) -> Task:
        return self._redaction.task(await self._engine.get(task_id))

    async def wait(self, task_id: str, *, timeout: Seconds) -> Task:
        return self._redaction.task(await self._engine.wait(task_id, timeout=timeout))

    async def history(self, task_id: str) -> AttemptHistory:
        history = await self._engine.history(task_id)
        return self._redaction.history(history, await self._engine.get(task_id))

    async def list_tasks(self, query: ListQuery) -> TaskPage:
        _check(query)
        page = await self._engine.list_tasks(query)
        return replace(page, tasks=tuple(map(self._redaction.task, page.tasks)))

    def events(self, task_id: str | None = None, **options: Any) -> EventStream:
        return _Events(self._engine, self._redaction, self._engine.events(task_id, **options))

    async def preview_action(self, request: ActionRequest) -> Matching:
        _check(request.which)
        return await self._engine.preview_action(request)

    async def start_action(self, request: ActionRequest, **options: Any) -> Task | None:
        _check(request.which)
        return self._task(await self._engine.start_action(request, **options))

    async def undo_action(self, task_id: str, **options: Any) -> Task | None:
        return self._task(await self._engine.undo_action(task_id, **options))

    def _task(self, task: Task | None) -> Task | None:
        return None if task is None else self._redaction.task(task)

    async def cancel(self, task_id: str) -> Task:
        return self._redaction.task(await self._engine.cancel(task_id))

    async def retry(self, task_id: str) -> Task:
        return self._redaction.task(await self._engine.retry(task_id))

    async def list_dead(self, *, limit: int, cursor: str | None = None) -> DeadLetterPage:
        return self._redaction.dead_letters(
            await self._engine.list_dead(limit=limit, cursor=cursor)
        )


def _check(query: TaskFilter) -> None:
    """A search for pieces of what is hidden would find it out, piece by piece.

    Raises:
        InvalidQuery
    """
    if query.error is not None:
        raise InvalidQuery(
            "is not searched where TQE_REDACT is set: errors may repeat what it hides",
            field="error",
        )


class _Events:
    """A stream of events, of which each is shown as its task is."""

    def __init__(self, engine: EngineApi, redaction: Redaction, stream: EventStream) -> None:
        self._engine = engine
        self._redaction = redaction
        self._stream = stream
        self._tasks: OrderedDict[str, Task | None] = OrderedDict()

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> TaskEvent:
        event = await anext(self._stream)
        if not isinstance(event, ProgressEvent | LogEvent):
            return event
        task = await self._task_of(event.task_id)
        if task is not None and isinstance(event, ProgressEvent):
            # Lines that are logged from now on may repeat it.
            task = msgspec.structs.replace(task, progress=event.progress)
            self._tasks[event.task_id] = task
        return self._redaction.event(event, task)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _task_of(self, task_id: str) -> Task | None:
        """Its payload never changes and its progress comes by, so it is asked for once."""
        if task_id not in self._tasks:
            try:
                self._tasks[task_id] = await self._engine.get(task_id)
            except (TaskNotFound, BackendUnavailable):
                return None
            if len(self._tasks) > _FOLLOWED:
                self._tasks.popitem(last=False)
        return self._tasks[task_id]

"""Hands submissions to the submitter, and its answers back to the callers that wait for them."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from task_queue_engine.actors.messages import SubmitRequest, SubmitResult
from task_queue_engine.backends.base import (
    AlreadyExists,
    Created,
    NewTask,
    Rejected,
    TooLarge,
    TryAgain,
)
from task_queue_engine.codec import encode_json
from task_queue_engine.engine.api import Accepted, Refused, Submission, SubmitVerdict
from task_queue_engine.engine.submission import TaskBuilder
from task_queue_engine.errors import (
    BackendUnavailable,
    EngineNotRunning,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    InvalidTask,
    MessageRefused,
    PayloadTooLarge,
)
from task_queue_engine.task import Task


class Intake:
    """The way in for submissions. A request that the submitter has is carried out, even when its
    caller is cancelled while it waits for the answer."""

    def __init__(
        self,
        *,
        builder: TaskBuilder,
        submissions: trio.MemorySendChannel[SubmitRequest],
        request_size: int,
    ) -> None:
        self._builder = builder
        self._submissions = submissions
        self._request_size = request_size
        self._keys_in_flight: set[str] = set()
        self._unanswered: set[SubmitRequest] = set()

    @property
    def pending(self) -> int:
        """Requests without an answer and keys in flight."""
        return len(self._unanswered) + len(self._keys_in_flight)

    async def submit(self, submissions: Sequence[Submission]) -> list[SubmitVerdict]:
        """One verdict each, in their order. Raises EngineNotRunning where none was taken over."""
        verdicts: list[SubmitVerdict | None] = [None] * len(submissions)
        requests: list[tuple[SubmitRequest, list[int]]] = []
        # Those this call has put in flight; the answer to a request takes its own out again.
        keys: set[str] = set()
        try:
            accepted = self._build(submissions, verdicts, keys)
            for i in range(0, len(accepted), self._request_size):
                chunk = accepted[i : i + self._request_size]
                try:
                    request = await self._hand_over(tuple(new for _, new in chunk))
                except EngineNotRunning as error:
                    if not requests:
                        raise
                    for index, _ in accepted[i:]:
                        verdicts[index] = Refused(error)
                    break
                keys.difference_update(new.task.id for _, new in chunk)
                requests.append((request, [index for index, _ in chunk]))
        finally:
            self._keys_in_flight -= keys
        for request, indexes in requests:
            results = await request.results()
            for index, new, result in zip(indexes, request.tasks, results, strict=True):
                verdicts[index] = _judge(new.task, result)
        return [verdict for verdict in verdicts if verdict is not None]

    def _build(
        self,
        submissions: Sequence[Submission],
        verdicts: list[SubmitVerdict | None],
        keys: set[str],
    ) -> list[tuple[int, NewTask]]:
        """The tasks to hand over, with their places; refusals go to `verdicts`."""
        accepted: list[tuple[int, NewTask]] = []
        for index, submission in enumerate(submissions):
            try:
                new = self._builder.build(submission)
            except InvalidTask as error:
                verdicts[index] = Refused(error)
                continue
            if submission.idempotency_key is not None:
                if new.task.id in self._keys_in_flight:
                    verdicts[index] = Refused(IdempotencyKeyInFlight())
                    continue
                keys.add(new.task.id)
                self._keys_in_flight.add(new.task.id)
            accepted.append((index, new))
        return accepted

    async def _hand_over(self, tasks: tuple[NewTask, ...]) -> SubmitRequest:
        def on_answer() -> None:
            self._unanswered.discard(request)
            if self._keys_in_flight:
                self._keys_in_flight.difference_update(new.task.id for new in tasks)

        request = SubmitRequest(tasks, on_answer)
        self._unanswered.add(request)
        try:
            await self._submissions.send(request)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            self._unanswered.discard(request)
            raise EngineNotRunning from None
        except trio.Cancelled:
            self._unanswered.discard(request)
            raise
        return request

    def close(self) -> None:
        """The submitter is gone: callers that still wait get an answer."""
        lost = BackendUnavailable("the engine ended before it could answer; ask for the task again")
        for request in tuple(self._unanswered):
            request.answer((lost,) * len(request.tasks))


def _judge(task: Task, result: SubmitResult) -> SubmitVerdict:
    match result:
        case Created():
            return Accepted(task, created=True)
        case AlreadyExists(existing):
            if existing.type == task.type and _same_json(existing.payload, task.payload):
                return Accepted(existing, created=False)
            return Refused(IdempotencyKeyReused(existing.id))
        case TooLarge(size, limit):
            return Refused(PayloadTooLarge(size, limit))
        case TryAgain(reason):
            return Refused(BackendUnavailable(reason))
        case Rejected(reason):
            return Refused(MessageRefused(task.id, reason))
        case BackendUnavailable():
            return Refused(result)


def _same_json(one: object, other: object) -> bool:
    """Equal as JSON: member order does not matter, 1 and true do."""
    return _canonical(one) == _canonical(other)


def _canonical(value: object) -> bytes:
    if isinstance(value, dict):
        members = sorted(value.items())
        return b"{" + b",".join(encode_json(k) + b":" + _canonical(v) for k, v in members) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(_canonical(item) for item in value) + b"]"
    return encode_json(value)
